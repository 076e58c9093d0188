"""Allocations of equal average bits, scored alike: switchq's integer program, auto-round's AutoScheme, and plain ones.

python tests/bench/bench_autoscheme.py --model PATH --calibration c4.jsonl --text wiki.test.raw --peer-python PYTHON

AutoScheme runs in an environment of its own, in which auto-round is installed; without `--peer-python` its rows are
left out. Both choose from the same widths and group size, calibrated on as many windows of the same file; the average
counts the codes of the block linears and no scales. What AutoScheme's allocation comes to is the integer program's
budget. As in a search by perplexity, its scores are calibrated on the uniform bitmaps, and its answer is what is best
on the calibration windows: its solution, or a uniform or striped bitmap that the budget allows. Every allocation is
then rounded to nearest on switchq's grid, not trained, and scored by text perplexity.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from outside import PEERS, ask
from rich import box
from rich.console import Console
from rich.table import Table
from sidebyside import machine, parser, prepare
from subjects import quiet
from transformers import PreTrainedModel

from switchq.bitmap import FULL, Bitmap, ladder
from switchq.commands.subject import load_subject
from switchq.data.text import text_windows
from switchq.evaluation.perplexity import text_perplexity
from switchq.models import context_window
from switchq.nn import at
from switchq.posttraining.calibration import text_batches
from switchq.posttraining.search.ilp import calibrated, solve
from switchq.posttraining.search.scores import unit_scores
from switchq.posttraining.search.space import Space, search_space
from switchq.posttraining.sensitivity.measure import SCORES, measure

GRIDS = ("asymmetric", "symmetric")


@dataclass(frozen=True)
class Allocation:
    """A bitmap, and how it came about.

    Attributes:
        target: the average bits asked for; None for full precision.
        name: what chose it.
        bitmap: width of every layer.
        average_bits: what it comes to.
        seconds: that choosing took; the first target of a method pays for its scores. None where nothing is computed.
    """

    target: float | None
    name: str
    bitmap: Bitmap
    average_bits: float
    seconds: float | None = None


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Allocate, score, print and write; returns the rows."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder")
    options.add_argument("--calibration", type=Path, required=True, help=".jsonl file with `text` fields")
    options.add_argument("--text", type=Path, nargs="+", required=True, help="held-out texts to score on")
    options.add_argument("--peer-python", type=Path, default=None, help="Python that has auto-round")
    options.add_argument("--averages", type=float, nargs="+", default=[3, 4, 5], help="average bits")
    options.add_argument("--bits", type=int, nargs="+", default=[8, 4, 2], help="widths to choose from")
    options.add_argument("--group", type=int, default=64, help="inputs that share a scale")
    options.add_argument("--grid", choices=GRIDS, default="asymmetric", help="of both sides")
    options.add_argument("--scores", choices=SCORES, nargs="+", default=["fisher", "mse"], help="sensitivities")
    options.add_argument("--calibration-windows", type=int, default=16)
    options.add_argument("--calibration-window", type=int, default=256, help="tokens")
    options.add_argument("--windows", type=int, default=8, help="of each held-out text")
    options.add_argument("--window", type=int, default=512, help="tokens")
    options.add_argument("--seeds", type=int, default=3, help="random allocations")
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    subject = load_subject(
        None, str(arguments.model), bits=arguments.bits, grid=arguments.grid, group_size=arguments.group
    )
    model = subject.model.to(arguments.device).eval()  # type: ignore[arg-type]
    space = search_space(model, arguments.bits)
    remarks: list[str] = []
    theirs, version = peer(arguments, space, remarks)
    window = min(arguments.calibration_window, context_window(model))
    windows = text_windows(arguments.calibration, subject.tokenizer, window)[: arguments.calibration_windows]
    batches = text_batches(windows, subject.tokenizer)
    allocations = [Allocation(None, "full precision", Bitmap([FULL] * len(space.names)), FULL)]
    budgets = {one.target: one.average_bits for one in theirs}
    for target in arguments.averages:
        budget = budgets.get(target, target)
        allocations += [one for one in theirs if one.target == target]
        allocations += plain(space, target, budget, arguments.seeds)
    seen = Seen(model, windows)
    for score in arguments.scores:
        began = perf_counter()
        sensitivity = measure(model, batches, space.widths, [score], progress=False)
        scores = unit_scores(space, sensitivity, score, additive=True)
        for target in arguments.averages:
            bitmap = programmed(space, scores, budgets.get(target, target), seen.nll)
            seconds = perf_counter() - began
            allocations.append(Allocation(target, f"ilp, {score}", bitmap, space.average_bits(bitmap), seconds))
            began = perf_counter()
    length = min(arguments.window, context_window(model))
    texts = {one.stem: text_windows(one, subject.tokenizer, length)[: arguments.windows] for one in arguments.text}
    if len(texts) < len(arguments.text):  # the same stem twice
        texts = {str(one): text_windows(one, subject.tokenizer, length)[: arguments.windows] for one in arguments.text}
    found: dict[Bitmap, dict[str, float]] = {}
    for one in allocations:
        if one.bitmap not in found:
            with at(model, one.bitmap):
                found[one.bitmap] = {name: text_perplexity(model, rows) for name, rows in texts.items()}
    rows = [{**asdict(one), "bitmap": list(one.bitmap), "perplexity": found[one.bitmap]} for one in allocations]
    rows.sort(key=lambda row: (row["target"] is not None, row["target"] or 0))
    report(rows, list(texts), arguments, remarks, version)
    return rows


def peer(arguments: argparse.Namespace, space: Space, remarks: list[str]) -> tuple[list[Allocation], str | None]:
    """AutoScheme's allocations, and auto-round's version; none, and a remark, where it cannot be asked."""
    if arguments.peer_python is None:
        remarks.append("auto-round's AutoScheme: left out, no --peer-python given")
        return [], None
    options = {
        "model": arguments.model,
        "calibration": arguments.calibration,
        "group": arguments.group,
        "windows": arguments.calibration_windows,
        "window": arguments.calibration_window,
        "averages": arguments.averages,
        "bits": arguments.bits,
        "device": arguments.device,
        "symmetric": arguments.grid == "symmetric",
        "threads": arguments.threads,
    }
    with TemporaryDirectory() as folder:
        cache = {"AR_AUTO_SCHEME_CACHE": folder}
        content, wrong = ask(arguments.peer_python, PEERS / "autoscheme.py", options, Path(folder), cache)
    if content is None:
        remarks.append(f"auto-round's AutoScheme: left out, it failed: {wrong}")
        return [], None
    allocations = []
    for choice in content["choices"]:
        bitmap = Bitmap([choice["bits"].get(name, FULL) for name in space.names])
        average = space.average_bits(bitmap)
        allocations.append(Allocation(choice["average"], "AutoScheme", bitmap, average, choice["seconds"]))
    return allocations, f"{content['auto_round']}, torch {content['torch']}"


class Seen:
    """Negative log-likelihoods on the calibration windows, each bitmap's taken once.

    Args:
        model: a switchable model.
        windows: token ids.
    """

    def __init__(self, model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> None:
        self.model, self.windows = model, windows
        self.known: dict[Bitmap, float] = {}

    def nll(self, bitmap: Bitmap) -> float:
        """Nats a token."""
        if bitmap not in self.known:
            with at(self.model, bitmap):
                self.known[bitmap] = math.log(text_perplexity(self.model, self.windows))
        return self.known[bitmap]


def programmed(space: Space, scores: np.ndarray, budget: float, loss: Callable[[Bitmap], float]) -> Bitmap:
    """The bitmap of the least calibrated score within `budget` average bits, or the uniform or striped one that loses
    less; 16 is not among the choices."""
    layers = len(space.names)
    full = loss(Bitmap.stripe([FULL], layers))
    uniform = [loss(Bitmap.stripe([bits], layers)) - full for bits in space.choices]
    chosen = solve(calibrated(scores, uniform)[:, 1:], [(space.unit_costs("average_bits")[:, 1:], budget)])
    if chosen is None:
        raise SystemExit(f"no allocation of {space.widths} has an average of {budget:g} bits or less")
    plain = [Bitmap.parse(written, space.names) for written in ladder(space.widths)]
    fitting = [bitmap for bitmap in plain if space.average_bits(bitmap) <= budget + 1e-9]
    return min([space.bitmap([space.widths[choice] for choice in chosen]), *fitting], key=loss)


def plain(space: Space, target: float, budget: float, seeds: int) -> Iterator[Allocation]:
    """The uniform bitmap and the stripe nearest to `target` (the wider of two), and random ones in `budget`."""
    layers = len(space.names)
    kinds: dict[str, list[Sequence[int]]] = {
        "uniform": [[bits] for bits in space.widths],
        "stripe": list(permutations(space.widths, 2)),
    }
    for name, candidates in kinds.items():
        bitmaps = [Bitmap.stripe(widths, layers) for widths in candidates]
        averages = [space.average_bits(bitmap) for bitmap in bitmaps]
        if bitmaps:
            best = min(range(len(bitmaps)), key=lambda at: (round(abs(averages[at] - target), 9), -averages[at]))
            written = "/".join(map(str, candidates[best]))
            yield Allocation(target, f"{name} {written}", bitmaps[best], averages[best])
    for seed in range(seeds):
        bitmap = shuffled(space, budget, seed)
        yield Allocation(target, f"random, seed {seed}", bitmap, space.average_bits(bitmap))


def shuffled(space: Space, budget: float, seed: int) -> Bitmap:
    """From the narrowest width, random layers are widened a step at a time, as long as one fits in `budget`."""
    generator = random.Random(seed)
    rising = sorted(space.widths)
    costs = [dict(zip(space.choices, row)) for row in space.bits_LW]
    steps = [0] * len(space.names)
    left = budget - sum(cost[rising[0]] for cost in costs)

    def price(layer: int) -> float:
        return float(costs[layer][rising[steps[layer] + 1]] - costs[layer][rising[steps[layer]]])

    while fitting := [
        layer for layer, step in enumerate(steps) if step + 1 < len(rising) and price(layer) <= left + 1e-9
    ]:
        layer = generator.choice(fitting)
        left -= price(layer)
        steps[layer] += 1
    return Bitmap([rising[step] for step in steps])


def report(
    rows: list[dict[str, Any]], texts: list[str], arguments: argparse.Namespace, remarks: list[str], version: str | None
) -> None:
    """Print a table, and write JSON if asked to; the table has the random allocations' mean and range in one row."""
    title = f"Allocations: {arguments.model.name}, {arguments.grid} grid, groups of {arguments.group}"
    table = Table("target", "allocation", "average bits", "seconds", *texts, title=title, box=box.SIMPLE)
    table.title_justify = "left"
    for column in table.columns[2:]:
        column.justify = "right"
    for target in dict.fromkeys(row["target"] for row in rows):
        mine = [row for row in rows if row["target"] == target]
        drawn = [row for row in mine if row["name"].startswith("random")]
        shown = "" if target is None else f"{target:g}"
        for row in [row for row in mine if row not in drawn]:
            seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
            figures = [f"{row['perplexity'][text]:.5g}" for text in texts]
            table.add_row(shown, row["name"], f"{row['average_bits']:.3f}", seconds, *figures)
        if drawn:
            cells = []
            for text in texts:
                values = [row["perplexity"][text] for row in drawn]
                cells.append(f"{mean(values):.5g} ({min(values):.5g} - {max(values):.5g})")
            average = mean(row["average_bits"] for row in drawn)
            table.add_row(shown, f"random, mean of {len(drawn)}", f"{average:.3f}", "", *cells)
    console = Console()
    console.print(table)
    console.print(
        f"perplexity on {arguments.windows} windows of {arguments.window} tokens of each text", highlight=False
    )
    console.print("seconds: the first target of a method pays for its scores", highlight=False)
    for remark in remarks:
        console.print(remark, highlight=False, markup=False)
    if arguments.output:
        settings = {name: _plain(value) for name, value in vars(arguments).items()}
        content = {"title": title, "rows": rows, "remarks": remarks, "auto_round": version, "settings": settings}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(content | {"machine": machine(arguments.device)}, indent=2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
