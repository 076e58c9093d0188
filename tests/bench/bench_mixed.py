"""Random mixed bitmaps of a checkpoint against the line between their uniform neighbours.

    python tests/bench/bench_mixed.py --device cuda --ckpt last.ckpt --data dev-v1.1.json --output mixed.json

For each bitmap the share of every trained width is drawn first (flat over all mixtures), then the width of each layer,
so that the averages spread over the whole range. All bitmaps answer the same questions.
"""

import random
from collections.abc import Sequence
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
from switchq.nn import get_switch

WITHIN = 2.0
"""How far below the line a bitmap may lie, in points of F1."""


def draw(widths: Sequence[int], layers: int, count: int, seed: int) -> list[Bitmap]:
    """`count` bitmaps of `layers` layers."""
    generator = random.Random(seed)
    drawn = []
    for _ in range(count):
        shares = [generator.expovariate(1) for _ in widths]
        drawn.append(Bitmap(generator.choices(widths, shares, k=layers)))
    return drawn


def line(bits: float, uniform: dict[float, float]) -> float:
    """The score at `bits` on the straight line between the nearest narrower and wider uniform bitmaps.

    Args:
        bits: average bits.
        uniform: average bits -> score.
    """
    for low, high in pairwise(sorted(uniform)):
        if low <= bits <= high:
            return uniform[low] + (uniform[high] - uniform[low]) * (bits - low) / (high - low)
    raise ValueError(f"{bits} bits lie beyond all uniform bitmaps {sorted(uniform)}")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Evaluate, print and write."""
    options = parser(__doc__)
    options.add_argument("--ckpt", type=Path, required=True)
    options.add_argument("--data", type=Path, required=True, help="SQuAD file to score on")
    options.add_argument("--count", type=int, default=50, help="bitmaps to draw")
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
    drawn = draw(widths, len(get_switch(subject.model).layers), arguments.count, arguments.seed)
    found = evaluate(subject.model, subject.tokenizer, questions, [*widths, *drawn])
    uniform = {float(width): float(one.F1 or 0) for width, one in zip(widths, found)}
    mixed = found[len(widths) :]
    over = [float(one.F1 or 0) - line(one.average_bits, uniform) for one in mixed]
    content = {
        "ckpt": str(arguments.ckpt),
        "questions": len(questions.questions),
        "uniform": uniform,
        "mixed": [
            {"bitmap": one.bitmap, "average_bits": one.average_bits, "F1": one.F1, "over_line": gain}
            for one, gain in zip(mixed, over)
        ],
        "not_below": sum(gain >= -WITHIN for gain in over),
        "count": len(over),
        "worst": min(over),
        "mean": sum(over) / len(over),
        "best": max(over),
        "machine": machine(arguments.device),
    }
    Console().print(
        f"{content['not_below']} of {len(over)} mixed bitmaps lie on the line or at most {WITHIN:g} F1 below it: "
        f"{min(over):+.1f} to {max(over):+.1f}, mean {content['mean']:+.2f}"
    )
    if arguments.output:
        write_json(arguments.output, content)
    return content


if __name__ == "__main__":
    main()
