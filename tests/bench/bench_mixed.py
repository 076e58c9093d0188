"""Random mixed bitmaps of a checkpoint against the line between their uniform neighbours.

    python tests/bench/bench_mixed.py --device cuda --ckpt last.ckpt --data dev-v1.1.json --output mixed.json

For each bitmap the share of every trained width is drawn first (flat over all mixtures), then the width of each layer,
so that the averages spread over the whole range. All bitmaps answer the same questions, with the adapters added to the
weights, which leaves fewer products and changes F1 by rounding at most. Results are written five by five. Neighbours
are told by average bits, and once more by megabytes (codes, scales, adapters, all that does not change): a mixture of
many 2-bit and few 8-bit layers has the average of 3 bits, and nearly the size of 2 bits. A third line goes through the
widths that a bitmap mixes, whatever lies between them: each width's score counts for the share of the weights that
have it. For two neighbouring widths the first and the third are one.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from sidebyside import machine, parser
from subjects import quiet

from switchq.bitmap import FULL, Bitmap
from switchq.commands.subject import load_subject
from switchq.data.scoring_set import ScoringSet
from switchq.data.squad import read_squad
from switchq.evaluation import evaluate
from switchq.files import write_json
from switchq.nn import get_switch, switch_layers

COSTS = {"average_bits": "average bits", "weight_mb": "megabytes"}
"""What neighbours are told by."""

LINES = {**COSTS, "shares": "shares"}
"""What bitmaps are compared with."""

WITHIN = 2.0
"""How far below the line a bitmap may lie, in points of F1."""


AT_ONCE = 5
"""Mixed bitmaps that are scored before results are written."""


def batched(all_of_them: Sequence[Bitmap], size: int) -> Iterator[Sequence[Bitmap]]:
    """So many at a time."""
    for first in range(0, len(all_of_them), size):
        yield all_of_them[first : first + size]


def draw(widths: Sequence[int], layers: int, count: int, seed: int) -> list[Bitmap]:
    """`count` bitmaps of `layers` layers."""
    generator = random.Random(seed)
    drawn = []
    for _ in range(count):
        shares = [generator.expovariate(1) for _ in widths]
        drawn.append(Bitmap(generator.choices(widths, shares, k=layers)))
    return drawn


def line(cost: float, uniform: dict[float, float]) -> float:
    """The score at `cost` on the straight line between the nearest narrower and wider uniform bitmaps.

    Args:
        cost: average bits or megabytes.
        uniform: cost -> score.
    """
    for low, high in pairwise(sorted(uniform)):
        if low <= cost <= high:
            return uniform[low] + (uniform[high] - uniform[low]) * (cost - low) / (high - low)
    raise ValueError(f"{cost} lies beyond all uniform bitmaps {sorted(uniform)}")


def summary(over: Sequence[float]) -> dict[str, float]:
    """How bitmaps lie over the line, in points of F1."""
    return {
        "count": len(over),
        "not_below": sum(gain >= -WITHIN for gain in over),
        "worst": min(over),
        "mean": sum(over) / len(over),
        "best": max(over),
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Evaluate, print and write."""
    options = parser(__doc__)
    options.add_argument("--ckpt", type=Path, required=True)
    options.add_argument("--data", type=Path, required=True, help="SQuAD file to score on")
    options.add_argument("--count", type=int, default=50, help="bitmaps to draw")
    options.add_argument("--start", type=int, default=0, help="leave out so many of them, which another process has")
    options.add_argument("--limit", type=int, default=None, help="only so many questions")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--seed", type=int, default=0, help="of the bitmaps")
    arguments = options.parse_args(argv)
    quiet()
    subject = load_subject(arguments.ckpt, None)
    subject.model.to(torch.device(arguments.device))  # type: ignore[arg-type]
    questions = ScoringSet(
        arguments.data.name,
        questions=read_squad(arguments.data)[: arguments.limit],
        prompt=subject.prompt,
        batch_size=arguments.batch,
        max_new_tokens=subject.max_answer_tokens,
        max_length=subject.data.get("max_length"),
    )
    widths = sorted(width for width in subject.widths if width != FULL)
    drawn = draw(widths, len(get_switch(subject.model).layers), arguments.count, arguments.seed)[arguments.start :]
    sizes = [layer.size for layer in switch_layers(subject.model)]
    content: dict[str, Any] = {"ckpt": str(arguments.ckpt), "questions": len(questions.questions), "count": len(drawn)}
    content |= {"uniform": [], "mixed": [], "machine": machine(arguments.device)}
    for group, bitmaps in (("uniform", widths), *(("mixed", some) for some in batched(drawn, AT_ONCE))):
        for one in evaluate(subject.model, subject.tokenizer, questions, bitmaps, merge=True, progress=False):
            row = {name: getattr(one, name) for name in ("bitmap", "bits", *COSTS, "F1")}
            content[group].append(row | (over_lines(row, content["uniform"], sizes) if group == "mixed" else {}))
        if arguments.output:
            write_json(arguments.output, content)
    content |= summaries(content["mixed"])
    if arguments.output:
        write_json(arguments.output, content)
    return content


def over_lines(row: dict[str, Any], uniform: list[dict[str, Any]], sizes: Sequence[int]) -> dict[str, float]:
    """How far a mixed bitmap lies over each line; none by a cost where it lies beyond all uniform ones.

    Args:
        row: its bits, costs and F1.
        uniform: the same of each width.
        sizes: weights of each layer.
    """
    found, score = {}, float(row["F1"] or 0)
    for cost in COSTS:
        known = {one[cost]: float(one["F1"] or 0) for one in uniform}
        if min(known) <= row[cost] <= max(known):  # all do, by average bits
            found[f"over_line_of_{cost}"] = score - line(row[cost], known)
    of_width = {one["bits"][0]: float(one["F1"] or 0) for one in uniform}
    mean = sum(size * of_width[bits] for size, bits in zip(sizes, row["bits"], strict=True)) / sum(sizes)
    return found | {"over_line_of_shares": score - mean}


def summaries(mixed: list[dict[str, Any]]) -> dict[str, Any]:
    """How the mixed bitmaps lie over each line, printed as well."""
    content = {}
    for cost, unit in LINES.items():
        over = [row[f"over_line_of_{cost}"] for row in mixed if f"over_line_of_{cost}" in row]
        if not over:
            continue
        content[cost] = summary(over)
        Console().print(
            f"{content[cost]['not_below']} of {len(over)} mixed bitmaps lie on the line of {unit} or at most "
            f"{WITHIN:g} F1 below it: {min(over):+.1f} to {max(over):+.1f}, mean {content[cost]['mean']:+.2f}"
        )
    return content


if __name__ == "__main__":
    main()
