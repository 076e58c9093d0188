"""What starts of codes and adapters leave of the rounding error that a layer's outputs have, before any training.

    python tests/bench/bench_starts.py --model PATH --data train-v1.1.json

Each linear of some blocks is rounded to each width by itself, given its inputs in the unrounded model, and the width's
own adapter starts at QERA's closed form. The error is E |(W - W') x|^2 over E |W x|^2, as a geometric mean over the
linears: with the codes alone (with the shared adapter, where that has a start), and with the width's adapter, too.
Shared starts take one low-rank part, found for 2 bits, out of the weight at every width, and their codes stay those of
one weight; `in turns` finds codes and adapter for each width apart, which `Nested` cannot hold.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from sidebyside import machine, parser, prepare
from subjects import quiet
from torch import Tensor

from switchq.data.squad import read_squad
from switchq.files import write_json
from switchq.models import blocks_of, load_model, load_tokenizer, make_switchable
from switchq.nn import QuantLinear
from switchq.nn.starts import Metric, in_turns, low_rank
from switchq.posttraining.ptq.rounder import LinearRounder
from switchq.posttraining.ptq.rounders.gptq import Gptq
from switchq.posttraining.ptq.rounders.hqq import Hqq
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.statistics import Statistics
from switchq.quant import Asymmetric, Grid, Nested
from switchq.training.calibrated_start import grams, groups_of

WIDTHS = (4, 3, 2)


@dataclass(frozen=True)
class Start:
    """How codes and adapters are found.

    Attributes:
        grid: of the codes.
        rounder: what picks them.
        shared: whether the shared adapter has a start.
        turns: whether codes and the width's adapter are found in turns.
        more: whether the width's adapter has the ranks of the shared one, too.
    """

    grid: Grid
    rounder: LinearRounder = field(default_factory=Nearest)
    shared: bool = False
    turns: bool = False
    more: bool = False


def starts(group_size: int) -> dict[str, Start]:
    """By name."""
    plain, nested = Asymmetric(group_size, "mse"), Nested(group_size)
    return {
        "asymmetric, nearest": Start(plain),
        "asymmetric, HQQ": Start(plain, Hqq()),
        "asymmetric, GPTQ": Start(plain, Gptq()),
        "asymmetric, in turns": Start(plain, turns=True),
        "asymmetric, shared start": Start(plain, shared=True),
        "nested, nearest": Start(nested),
        "nested, nearest, rank of both": Start(nested, more=True),
        "nested, shared start": Start(nested, shared=True),
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    options = parser(__doc__)
    options.add_argument("--model", required=True, help="folder")
    options.add_argument("--data", type=Path, required=True, help="SQuAD file to read first questions of contexts from")
    options.add_argument("--blocks", type=int, nargs="+", default=[2, 12, 22])
    options.add_argument("--questions", type=int, default=40)
    options.add_argument("--group_size", type=int, default=64)
    options.add_argument("--rank", type=int, default=64, help="of a width's adapter")
    options.add_argument("--shared_rank", type=int, default=32)
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    layers = gathered(arguments)
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for name, start in starts(arguments.group_size).items():
        found[name] = {}
        for bits in WIDTHS:
            logs = [torch.tensor(errors(start, *layer, bits, arguments)).log() for layer in layers]
            alone, adapted = torch.stack(logs).mean(0).exp().tolist()
            found[name][bits] = alone, adapted
    show(found, len(layers))
    content = {"errors": found, "layers": len(layers), "machine": machine(arguments.device)}
    if arguments.output:
        write_json(arguments.output, content)
    return content


def gathered(arguments: Any) -> list[tuple[Tensor, Tensor]]:
    """The weight (O, I) and the Gram matrix (I, I) of the inputs of every linear of the chosen blocks."""
    model, tokenizer = load_model(arguments.model).to(arguments.device), load_tokenizer(arguments.model)
    make_switchable(
        model, WIDTHS, Nested(arguments.group_size), shared_rank=1, shared_start="qera"
    )  # rounds nothing yet
    groups = groups_of(model)
    per_block = len(groups) // len(blocks_of(model))
    chosen = [one for block in arguments.blocks for one in groups[block * per_block : (block + 1) * per_block]]
    first: dict[str, str] = {}
    for one in read_squad(arguments.data):
        first.setdefault(one.context, f"{one.context}\nQuestion: {one.question}\nAnswer: {one.answers[0]}")
    texts = list(first.values())[:: max(1, len(first) // arguments.questions)][: arguments.questions]
    ids = [tokenizer(text, return_tensors="pt").input_ids[:, :256] for text in texts]
    seen = grams(model, chosen, [{"input_ids": one_1T, "attention_mask": torch.ones_like(one_1T)} for one_1T in ids])
    return [
        (cast(QuantLinear, layer.get_base_layer()).weight.detach().float(), gram_II)
        for group, gram_II in zip(chosen, seen, strict=True)
        for layer in group
    ]


@torch.no_grad()
def errors(start: Start, weight_OI: Tensor, gram_II: Tensor, bits: int, arguments: Any) -> tuple[float, float]:
    """Without and with the width's adapter."""
    metric, grid = Metric.of(gram_II), start.grid
    rank = arguments.rank + (arguments.shared_rank if start.more else 0)
    base_OI, low_OI = weight_OI, torch.zeros_like(weight_OI)
    if start.shared or start.turns:
        at, of_rank = (2, arguments.shared_rank) if start.shared else (bits, rank)
        a_RI, b_OR = in_turns(weight_OI, grid, at, of_rank, metric)
        base_OI = weight_OI - b_OR @ a_RI
        low_OI = b_OR @ a_RI if start.shared else low_OI
    rounded_OI = start.rounder.round(base_OI, grid, bits, Statistics({"gram": gram_II})).weight()
    left_OI = weight_OI - rounded_OI - low_OI
    a_RI, b_OR = low_rank(left_OI, rank, metric)
    whole = (weight_OI @ metric.root_II).square().sum()
    alone, adapted = (
        (error_OI @ metric.root_II).square().sum() / whole for error_OI in (left_OI, left_OI - b_OR @ a_RI)
    )
    return float(alone), float(adapted)


def show(found: dict[str, dict[int, tuple[float, float]]], layers: int) -> None:
    """Print a table."""
    title = f"Error of outputs left by a start, without and with the width's adapter, {layers} linears"
    table = Table("start", *(f"{bits} bits" for bits in WIDTHS), title=title, box=box.SIMPLE, title_justify="left")
    for name, row in found.items():
        table.add_row(name, *(f"{alone:.5f} {adapted:.5f}" for alone, adapted in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
