"""Random mixed bitmaps of a checkpoint against the line between their uniform neighbours.

    python tests/bench/bench_mixed.py --device cuda --ckpt last.ckpt --data dev-v1.1.json --output mixed.json

For each bitmap the share of every trained width is drawn first (flat over all mixtures), then the width of each layer,
so that the averages spread over the whole range. All bitmaps answer the same questions, with the adapters added to the
weights, which leaves fewer products and changes F1 by rounding at most. Results are written five by five. Neighbours
are told by average bits, and once more by megabytes (codes, scales, adapters, all that does not change): a mixture of
many 2-bit and few 8-bit layers has the average of 3 bits, and nearly the size of 2 bits. A third line goes through the
widths that a bitmap mixes, whatever lies between them: each width's score counts for the share of the weights that
have it. For two neighbouring widths the first and the third are one. Each distance comes with its standard error over
the questions, which all scores have in common.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from rich.console import Console
from sidebyside import machine, parser
from subjects import quiet

from switchq.bitmap import FULL, Bitmap
from switchq.commands.subject import load_subject
from switchq.data.scoring_set import ScoringSet
from switchq.data.squad import read_squad
from switchq.evaluation import EvalResult, evaluate
from switchq.files import write_json
from switchq.nn import get_switch, switch_layers

COSTS = {"average_bits": "average bits", "weight_mb": "megabytes"}
"""What neighbours are told by."""

LINES = {**COSTS, "shares": "shares"}
"""What bitmaps are compared with."""

WITHIN = 2.0
"""How far below the line a bitmap may lie, in points of F1."""

SURE = 1.645
"""Standard errors below that, from which on a bitmap lies lower on 95 % of such sets of questions."""

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


@dataclass(frozen=True)
class Scored:
    """A bitmap with its costs and scores.

    Attributes:
        bits: one width a layer.
        costs: by the names of `COSTS`.
        f1_Q: F1 of each question, in percent.
    """

    bits: tuple[int, ...]
    costs: dict[str, float]
    f1_Q: np.ndarray

    @classmethod
    def of(cls, result: EvalResult) -> Self:
        """What an evaluation found."""
        costs = {name: getattr(result, name) for name in COSTS}
        return cls(result.bits, costs, 100 * np.array([score.f1 for score in result.scores]))


def line(cost: float, costs: Sequence[float]) -> list[float]:
    """How much of each uniform bitmap there is at `cost` on the straight line between the nearest two.

    Args:
        cost: average bits or megabytes.
        costs: those of the uniform bitmaps, from narrow to wide.
    """
    for low in range(len(costs) - 1):
        if costs[low] <= cost <= costs[low + 1]:
            up = (cost - costs[low]) / (costs[low + 1] - costs[low])
            return [1 - up if one == low else up if one == low + 1 else 0.0 for one in range(len(costs))]
    raise ValueError(f"{cost} lies beyond all uniform bitmaps {costs}")


def summary(over: Sequence[tuple[float, float]]) -> dict[str, float]:
    """How bitmaps lie over the line, in points of F1, given the distance of each and its standard error."""
    gains = [gain for gain, _ in over]
    return {
        "count": len(over),
        "not_below": sum(gain >= -WITHIN for gain in gains),
        "surely_below": sum(gain + SURE * error < -WITHIN for gain, error in over),
        "worst": min(gains),
        "mean": sum(gains) / len(gains),
        "best": max(gains),
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
    uniform: list[Scored] = []
    for group, bitmaps in (("uniform", widths), *(("mixed", some) for some in batched(drawn, AT_ONCE))):
        for one in evaluate(subject.model, subject.tokenizer, questions, bitmaps, merge=True, progress=False):
            row, scored = {name: getattr(one, name) for name in ("bitmap", "bits", *COSTS, "F1")}, Scored.of(one)
            content[group].append(row | (over_lines(scored, uniform, sizes) if group == "mixed" else {}))
            if group == "uniform":
                uniform.append(scored)
        if arguments.output:
            write_json(arguments.output, content)
    content |= summaries(content["mixed"])
    if arguments.output:
        write_json(arguments.output, content)
    return content


def over_lines(one: Scored, uniform: Sequence[Scored], sizes: Sequence[int]) -> dict[str, float]:
    """How far a mixed bitmap lies over each line, and the standard error; none by a cost beyond all uniform ones.

    Args:
        one: the mixed bitmap.
        uniform: all layers at each width, from narrow to wide.
        sizes: weights of each layer.
    """
    parts = {}
    for cost in COSTS:
        costs = [other.costs[cost] for other in uniform]
        if costs[0] <= one.costs[cost] <= costs[-1]:  # all do, by average bits
            parts[cost] = line(one.costs[cost], costs)
    of_width = [
        sum(size for size, bits in zip(sizes, one.bits, strict=True) if bits == other.bits[0]) for other in uniform
    ]
    parts["shares"] = [weights / sum(sizes) for weights in of_width]
    found = {}
    for name, shares in parts.items():
        over_Q = one.f1_Q - sum(share * other.f1_Q for share, other in zip(shares, uniform, strict=True))
        found[f"over_line_of_{name}"] = float(over_Q.mean())
        found[f"error_of_{name}"] = float(over_Q.std(ddof=1) / len(over_Q) ** 0.5)
    return found


def summaries(mixed: list[dict[str, Any]]) -> dict[str, Any]:
    """How the mixed bitmaps lie over each line, printed as well."""
    content = {}
    for cost, unit in LINES.items():
        over = [(row[f"over_line_of_{cost}"], row[f"error_of_{cost}"]) for row in mixed if f"error_of_{cost}" in row]
        if not over:
            continue
        found = content[cost] = summary(over)
        Console().print(
            f"{found['not_below']} of {len(over)} mixed bitmaps lie on the line of {unit} or at most {WITHIN:g} F1 "
            f"below it: {found['worst']:+.1f} to {found['best']:+.1f}, mean {found['mean']:+.2f}; "
            f"{found['surely_below']} surely lower"
        )
    return content


if __name__ == "__main__":
    main()
