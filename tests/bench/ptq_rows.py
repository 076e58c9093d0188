"""The rows of a comparison of quantised models: perplexity and time, and how one row compares with another."""

import argparse
import json
import math
from dataclasses import asdict, dataclass, field

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from sidebyside import machine


@dataclass(frozen=True)
class Case:
    """What both sides are asked for: a width, inputs that share a scale, the seed of the calibration windows."""

    bits: int = 16
    group: int | None = None
    seed: int | None = None

    def __str__(self) -> str:
        return f"{self.bits} bits, groups of {self.group}, seed {self.seed}"


@dataclass
class Made:
    """A quantised model's figures: seconds None for full precision, versions empty for switchq's.

    `nll` holds the sum over each window's tokens, by text; `tokens` how many these are.
    """

    name: str
    case: Case
    nll: dict[str, list[float]]
    tokens: dict[str, int]
    perplexity: dict[str, float] = field(init=False)
    seconds: float | None = None
    cpu_seconds: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    against: str | None = None
    perplexity_ratio: dict[str, float] | None = None
    ratio_error: dict[str, float] | None = None
    time_ratio: float | None = None

    def __post_init__(self) -> None:
        self.perplexity = {text: math.exp(sum(own) / self.tokens[text]) for text, own in self.nll.items()}

    def compare(self, mine: "Made", device: str) -> None:
        """Fill in what says how switchq's model compares with this one."""
        self.against = mine.name
        self.perplexity_ratio = {text: mine.perplexity[text] / value for text, value in self.perplexity.items()}
        self.ratio_error = {}
        for text, own in self.nll.items():
            log_W = (torch.tensor(mine.nll[text]) - torch.tensor(own)) * len(own) / self.tokens[text]
            self.ratio_error[text] = float(log_W.std() / len(own) ** 0.5) * self.perplexity_ratio[text]
        pairs = {"cpu": (mine.cpu_seconds, self.cpu_seconds), "cuda": (mine.seconds, self.seconds)}
        own, their = pairs[device]
        if own and their:
            self.time_ratio = own / their


def report(rows: list[Made], texts: list[str], arguments: argparse.Namespace, remarks: list[str]) -> None:
    """Print a table, and write JSON if asked to."""
    title = f"Quantised alike: {arguments.model.name}, asymmetric"
    table = Table(
        "bits", "group", "seed", "", *texts, "CPU s", "wall s", "ours / theirs", "time", title=title, box=box.SIMPLE
    )
    for row in rows:
        pairs = zip((row.perplexity_ratio or {}).values(), (row.ratio_error or {}).values(), strict=True)
        ratios = " ".join(f"{ratio:.4f}±{error:.4f}" for ratio, error in pairs)
        figures = [f"{row.perplexity[text]:.3f}" for text in texts]
        seconds = ["" if one is None else f"{one:.1f}" for one in (row.cpu_seconds, row.seconds)]
        share = "" if row.time_ratio is None else f"{row.time_ratio:.2f}"
        case = ["" if one is None else str(one) for one in (row.case.bits, row.case.group, row.case.seed)]
        table.add_row(*case, row.name, *figures, *seconds, ratios, share)
    console = Console(width=140)
    console.print(table)
    sizes = f"{arguments.windows} windows of {arguments.window} tokens of each text"
    console.print(f"perplexity on {sizes}; seconds of quantising alone", highlight=False)
    for row in {row.name: row for row in rows if row.versions}.values():
        console.print(f"{row.name} (against {row.against}): {row.versions}", highlight=False, markup=False)
    for remark in remarks:
        console.print(remark, highlight=False, markup=False)
    if arguments.output:
        settings = json.loads(json.dumps(vars(arguments), default=str))
        content = {"title": title, "rows": [asdict(row) for row in rows], "remarks": remarks, "settings": settings}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(content | {"machine": machine(arguments.device)}, indent=2) + "\n")
