"""What PRAQ's risk-aware importance of output channels says that the plain one, E|z|, does not, on a model's linears.

python tests/bench/bench_praq.py --model PATH --calibration c4.jsonl

For each block linear: Spearman's correlation of the two importances over its channels, how much of what one keeps the
other keeps too, and the mean squared error, after the activation that follows, of the linear with all but the kept
channels rounded. Inputs are those that the quantised blocks before give. The first lines are a synthetic linear whose
silent channels have the larger E|z| ("loud silence"): asleep for good, or about to wake.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from sidebyside import machine, parser, prepare
from subjects import quiet
from torch import nn
from transformers.activations import ACT2FN

from switchq.models import load_model, load_tokenizer
from switchq.posttraining.ptq import Method, Setting, calibration_batches, quantise
from switchq.posttraining.ptq.risk import compare, loud_silence
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.site import Site
from switchq.posttraining.ptq.transform import Target
from switchq.posttraining.ptq.transforms.keep_risky import KeepRisky
from switchq.quant import Asymmetric

ACTIVATED = ("c_fc", "fc1", "gate_proj")
"""Linears that an activation follows, in the supported architectures."""

ASLEEP = 0.02
"""What the loud channels' weights are multiplied by, so that no noise wakes them."""


@dataclass(frozen=True)
class Compared(KeepRisky):
    """PRAQ that notes the comparison of each linear it is applied to.

    Args:
        activation: name of the model's activation.
    """

    activation: str = "silu"

    def apply(self, site: Site, target: Target) -> None:
        """Compare, then mark the channels."""
        for linear in site.quantised:
            weight_OI, x_NI = linear.weight_OI, linear.seen(site.statistics).sampled(int(self.tokens or 0))
            params = target.grid.fit(weight_OI, target.bits)
            follows = ACT2FN[self.activation] if linear.name.endswith(ACTIVATED) else nn.Identity()
            found = compare(
                x_NI,
                weight_OI,
                target.grid.round(weight_OI, params, target.bits),
                getattr(linear.module, "bias", None),
                activation=follows,
            )
            linear.notes["comparison"] = asdict(found)
        super().apply(site, target)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Compare, print and write; returns the comparisons by linear."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder")
    options.add_argument("--calibration", type=Path, required=True, help=".jsonl file with `text` fields")
    options.add_argument("--bits", type=int, default=4)
    options.add_argument("--group", type=int, default=64, help="inputs that share a scale and a zero point")
    options.add_argument("--samples", type=int, default=16, help="calibration windows")
    options.add_argument("--length", type=int, default=512, help="tokens in one of them")
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    model = load_model(str(arguments.model)).to(arguments.device)  # type: ignore[arg-type]
    setting = Setting(
        bits=arguments.bits,
        group_size=arguments.group,
        calibration=str(arguments.calibration),
        samples=arguments.samples,
        length=arguments.length,
    )
    batches = calibration_batches(setting, load_tokenizer(str(arguments.model)))
    config: Any = model.config
    steps = (Compared(activation=getattr(config, "hidden_act", getattr(config, "activation_function", "silu"))),)
    record = quantise(model, Method("praq", Nearest(), steps), setting, batches, progress=False)
    found: dict[str, Any] = synthetic() | {layer.name: layer.notes["comparison"] for layer in record.layers}
    report(found, arguments)
    return found


def synthetic() -> dict[str, Any]:
    """The loud silence, at 4 bits: channels that sleep for good, and channels about to wake."""
    grid, found = Asymmetric(32), {}
    for name, factor in (("loud silence, asleep", ASLEEP), ("loud silence, waking", 1.0)):
        x_NI, weight_OI, bias_O = loud_silence()
        weight_OI[len(weight_OI) // 2 :] *= factor
        rounded_OI = grid.round(weight_OI, grid.fit(weight_OI, 4), 4)
        found[name] = asdict(compare(x_NI, weight_OI, rounded_OI, bias_O))
    return found


def report(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print means by kind of linear, and write JSON if asked to."""
    kinds: dict[str, list[Any]] = {}
    for name, one in found.items():
        kinds.setdefault(name if " " in name else name.rpartition(".")[2], []).append(one)
    table = Table("linear", "count", "rank correlation", "overlap", "MSE risk / plain", box=box.SIMPLE)
    for kind, ones in kinds.items():
        ratios = [one["risk_mse"] / one["plain_mse"] if one["plain_mse"] else 1.0 for one in ones]
        means = [statistics.fmean(one[key] for one in ones) for key in ("correlation", "overlap")]
        table.add_row(
            kind, str(len(ones)), *(f"{mean:.3f}" for mean in means), f"{statistics.geometric_mean(ratios):.3g}"
        )
    Console(width=100).print(table)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(
            json.dumps({"linears": found, "machine": machine(arguments.device)}, indent=2) + "\n"
        )


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
