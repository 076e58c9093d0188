"""A search: what it tried, greedy's path, the bitmap it chose."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from switchq.plots.front import pareto
from switchq.plots.quality import COSTS
from switchq.plots.search import asked_most, path_chart, search_chart
from switchq.plots.strip import bit_strip
from switchq.posttraining.report.content import Column, Figure, Made, Section, Table, made_from, table
from switchq.posttraining.report.reading import clean, number
from switchq.posttraining.report.sources import Search, Sources
from switchq.posttraining.report.text import bits_text, short, slug, told_in_titles
from switchq.words import count_of

SCORES = {
    "F1": "F1 (%)",
    "EM": "EM (%)",
    "perplexity": "Perplexity (per token)",
    "KL": "KL divergence (nats per token)",
}
"""Columns that can be the score of a search, the first that is there, and what each is."""

Row = dict[str, Any]


def search(sources: Sources) -> Section | None:
    """Figures and tables of all searches."""
    ends = told_in_titles([one.path for one in sources.searches])
    blocks = [block for end, one in zip(ends, sources.searches) for block in _blocks(one, clean(end), sources)]
    return Section("search", "Search", tuple(blocks)) if blocks else None


def tried_rows(one: Search) -> tuple[str, list[Row]]:
    """The name of the score, and all tried bitmaps in order as `search_chart` takes them.

    A bitmap that was tried again has a row each time, all with its `number`. The front is the one that the search
    itself wrote down, whose figures are whole; only where it wrote none is it worked out. Only scores from as many
    questions as any are on it: a search may reject a bitmap after a few.
    """
    listed = list(one.tried) or [*one.part("baselines"), *one.part("front")]
    settings = one.content.get("settings")
    wanted = settings.get("metric") if isinstance(settings, Mapping) else None
    order = [str(wanted)] if str(wanted) in SCORES else list(SCORES)
    metric = next((name for name in order if any(number(row.get(name)) is not None for row in listed)), order[0])
    numbers: dict[str, int] = {}
    rows: list[Row] = []
    for step, row in enumerate(listed, 1):
        value, size, bits = (number(row.get(name)) for name in (metric, "weight_mb", "average_bits"))
        if value is None or number(row.get(cost(one))) is None:
            continue
        accepted = _yes(row.get("accepted"))
        method = str(row.get("method") or "")
        rows.append(
            {
                "step": step,
                "number": numbers.setdefault(str(row.get("bitmap")), len(numbers) + 1),
                "method": short(method),
                "shown": short(str(row.get("label") or row.get("bitmap", ""))),
                "average_bits": bits if bits is not None else 16.0,
                "weight_mb": size,
                "value": value,
                "questions": number(row.get("questions")),
                "verdict": "tried" if accepted is None else "accepted" if accepted else "rejected",
                "path": method.lower().startswith("greedy"),
            }
        )
    full = asked_most(rows)
    written = {numbers.get(str(point.get("bitmap"))) for point in one.part("front")} - {None}
    if written:
        fronts = [row["number"] in written for row in full]
    else:
        fronts = pareto([(row[cost(one)], row["value"]) for row in full], metric in ("F1", "EM"))
    on_front = {row["step"] for row, front in zip(full, fronts) if front}
    return metric, [{**row, "front": row["step"] in on_front} for row in rows]


def cost(one: Search) -> str:
    """What the search made small: `average_bits` or `weight_mb`."""
    settings = one.content.get("settings")
    wanted = settings.get("cost") if isinstance(settings, Mapping) else None
    return str(wanted) if str(wanted) in COSTS else "weight_mb"


def _yes(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(str(value).lower())


def _blocks(one: Search, where: str, sources: Sources) -> list[Figure | Table]:
    """The figures and tables of a search; `where` ends their titles, to tell them from those of others."""
    metric, rows = tried_rows(one)
    run = one.content.get("run")
    record = run if isinstance(run, Mapping) else {}
    settings = one.content.get("settings")
    made = made_from([one.path], [record], more=settings if isinstance(settings, Mapping) else None)
    higher, what = metric in ("F1", "EM"), SCORES[metric]
    blocks: list[Figure | Table] = []
    tag = slug(one.name)
    if rows:
        tried = {row["number"] for row in rows}
        on_front = {row["number"] for row in rows if row["front"]}
        words = f"{count_of(len(tried), 'bitmap')} in {one.name}; "
        words += f"{'up' if higher else 'up (a lower score)'} and left is better."
        if len(tried) < len(rows):
            words += f" Those that were tried again have a mark each time, {len(rows):,} in all."
        if any(row["verdict"] != "tried" for row in rows):
            words += " Filled marks were accepted, crosses rejected."
        words += " Colour is the mean width. The solid line is the front."
        if any(row["path"] and row["verdict"] == "accepted" for row in rows):
            words += " The dashed line follows the accepted steps of greedy from wide to narrow."
        words += "" if higher else " Logarithmic axis."
        words += " These are the search's own scores, on its own questions."
        if len({row["questions"] for row in rows}) > 1:
            words += " Some were given up after fewer questions than the others; they are not on the front."
        be = "is" if len(on_front) == 1 else "are"
        title = f"The search tried {count_of(len(tried), 'bitmap')}; {len(on_front)} {be} on the front{where}"
        blocks.append(Figure(f"search-{tag}", title, words, search_chart(rows, what, higher, cost(one)), made))
    narrowing = sorted(asked_most(rows), key=lambda row: -row["average_bits"])  # of equals the first tried comes first
    path = [row for row in narrowing if row["path"] and row["verdict"] != "tried"]
    for method in dict.fromkeys(row["method"] for row in path):
        own = [{**row, "step": step} for step, row in enumerate((r for r in path if r["method"] == method), 1)]
        accepted = sum(row["verdict"] == "accepted" for row in own)
        if accepted and len(own) > 1:
            title = f"{method or 'The search'} accepted {accepted:,} of {len(own):,} bitmaps{where}"
            words = "Its bitmaps on all questions, from wide to narrow; the line runs through those that it accepted."
            blocks.append(Figure(f"path-{slug(method)}-{tag}", title, words, path_chart(own, what, higher), made))
    blocks += _strips(one, sources, made, tag, where)
    blocks += _tables(one, made, tag, where)
    return blocks


def _strips(one: Search, sources: Sources, made: Made, tag: str, where: str) -> list[Figure]:
    chosen = one.content.get("chosen")
    if not isinstance(chosen, Mapping):
        return []
    several = {"": chosen} if "bitmap" in chosen else {str(name): value for name, value in chosen.items()}
    figures: list[Figure] = []
    for name, point in list(several.items())[:6]:
        if not isinstance(point, Mapping):
            continue
        bits = widths(point)
        if len(bits) < 2:
            continue
        names = _names(one, sources, len(bits))
        mean = number(point.get("average_bits"))
        size = number(point.get("weight_mb"))
        title = "The chosen bitmap" + (f" for {short(name)}" if name else "")
        title += "" if mean is None else f": {bits_text(mean)} bits on average"
        title += "" if size is None else f", {size:,.2f} MB"
        title += where
        counts = ", ".join(f"{bits.count(width)} at {width} bits" for width in sorted(set(bits), reverse=True))
        words = f"Each cell is a layer, coloured by its width: {counts}, of {len(bits)} layers."
        figures.append(Figure(slug(f"bits-{name}-{tag}"), title, words, bit_strip(bits, names), made))
    return figures


def widths(point: Mapping[str, Any]) -> list[int]:
    """The bit-widths of a point, from its list `bits` or from a bitmap written out; empty if neither is there."""
    listed = point.get("bits")
    texts = listed if isinstance(listed, list) else str(point.get("bitmap", "")).split(",")
    found = [number(text) for text in texts]
    return [int(one) for one in found if one is not None] if None not in found else []


def _named(row: Mapping[str, Any]) -> str:
    """A point's label or bitmap; one that is written out layer by layer becomes "196 layers at 2, 14 at 3"."""
    name = str(row.get("label") or row.get("bitmap", ""))
    if "," not in name:
        return name
    (width, count), *others = Counter(widths(row)).most_common()
    return ", ".join([f"{count_of(count, 'layer')} at {width}", *(f"{count} at {width}" for width, count in others)])


def _names(one: Search, sources: Sources, count: int) -> list[str]:
    layers = one.content.get("layers")
    if isinstance(layers, list) and len(layers) == count:
        return [str(layer.get("name") if isinstance(layer, Mapping) else layer) for layer in layers]
    for _, sensitivity in sources.sensitivities:
        if len(sensitivity.layers) == count:
            return list(sensitivity.layers)
    return [f"layer {index}" for index in range(count)]


def _tables(one: Search, made: Made, tag: str, where: str) -> list[Table]:
    points = [("front", row) for row in one.part("front")] + [("baseline", row) for row in one.part("baselines")]
    if not points:
        return []

    def numbers(name: str) -> list[float | None]:
        return [number(row.get(name)) for _, row in points]

    columns = [
        Column("Bitmap", [_named(row) for _, row in points]),
        Column("Kind", [kind for kind, _ in points]),
        Column("Method", [str(row.get("method") or "") for _, row in points]),
        Column("Average bits", numbers("average_bits"), ".2f"),
        Column("Weights MB", numbers("weight_mb"), "g", "lower"),
        Column("F1 %", numbers("F1"), ".1f", "higher"),
        Column("EM %", numbers("EM"), ".1f", "higher"),
        Column("Perplexity", numbers("perplexity"), "g", "lower"),
        Column("KL", numbers("KL"), ".4f", "lower"),
        Column("Tokens/s", numbers("tokens_per_s"), ",.0f", "higher"),
    ]
    words = "The front of the search and the uniform and striped bitmaps beside it, on the questions of the search."
    return [table(f"search-front-{tag}", f"The front and the baselines{where}", words, columns, made)]
