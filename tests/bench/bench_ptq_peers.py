"""Post-training quantisation by switchq and by the packages a user would pick: perplexity and time at equal settings.

python tests/bench/bench_ptq_peers.py --model PATH --calibration c4.jsonl --text wiki.test.raw --peer-python PYTHON

Each peer runs in an environment of its own (`--peer-python`, several are tried in turn) on one model folder, at one
width and group size, asymmetric, on one array of calibration tokens. It gives back dense weights, which are scored by
switchq on the same windows as switchq's own. Seconds are of quantising alone, wall and processor time. A peer's row
has the ratio of switchq's perplexity and processor time to its own: 1 or less is as good, or as fast. Beside a ratio of
perplexities stands its standard error over windows, both models having read the same ones.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from outside import PEERS, ask, has
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from sidebyside import machine, parser, prepare
from subjects import quiet
from transformers import PreTrainedModel

from switchq.data.text import text_windows
from switchq.evaluation.perplexity import window_nll
from switchq.models import architecture_of, context_window, load_model, load_tokenizer
from switchq.posttraining.calibration import Batch
from switchq.posttraining.ptq import Setting, calibration_batches, load_methods, quantise


@dataclass(frozen=True)
class Peer:
    """A method of another package.

    Attributes:
        package: its distribution.
        script: the file that runs it.
        ours: the method of switchq that it is compared with.
        options: of the script, beside those that all have.
    """

    package: str
    script: Path
    ours: str
    options: dict[str, Any] = field(default_factory=dict)


PACKAGES = {
    "hqq": Peer("hqq", PEERS / "ptq_hqq.py", "hqq"),
    "hqq-32": Peer("hqq", PEERS / "ptq_hqq.py", "hqq", {"method": "float32"}),
    "llmcompressor-gptq": Peer("llmcompressor", PEERS / "ptq_llmcompressor.py", "gptq", {"method": "gptq"}),
    "llmcompressor-awq": Peer("llmcompressor", PEERS / "ptq_llmcompressor.py", "awq", {"method": "awq"}),
    "gptqmodel": Peer("gptqmodel", PEERS / "ptq_gptqmodel.py", "gptq"),
    "auto-round": Peer("auto-round", PEERS / "ptq_autoround.py", "gptq"),
}


@dataclass
class Made:
    """A quantised model's figures: seconds None for full precision, versions empty for switchq's.

    `nll` holds the sum over each window's tokens, by text; `tokens` how many these are.
    """

    name: str
    bits: int
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

    def compare(self, mine: "Made") -> None:
        """Fill in what says how switchq's model compares with this one."""
        self.against = mine.name
        self.perplexity_ratio = {text: mine.perplexity[text] / value for text, value in self.perplexity.items()}
        self.ratio_error = {}
        for text, own in self.nll.items():
            log_W = (torch.tensor(mine.nll[text]) - torch.tensor(own)) * len(own) / self.tokens[text]
            self.ratio_error[text] = float(log_W.std() / len(own) ** 0.5) * self.perplexity_ratio[text]
        if mine.cpu_seconds and self.cpu_seconds:
            self.time_ratio = mine.cpu_seconds / self.cpu_seconds


def main(argv: list[str] | None = None) -> list[Made]:
    """Quantise on both sides, score, print and write; returns the rows."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder")
    options.add_argument("--calibration", type=Path, required=True, help=".jsonl file with `text` fields")
    options.add_argument("--text", type=Path, nargs="+", required=True, help="held-out texts to score on")
    options.add_argument("--peer-python", type=Path, nargs="+", default=[], help="Pythons that have the packages")
    options.add_argument("--peers", choices=sorted(PACKAGES), nargs="+", default=list(PACKAGES))
    options.add_argument("--methods", choices=sorted(load_methods()), nargs="*", default=[], help="of switchq, besides")
    options.add_argument("--bits", type=int, nargs="+", default=[4])
    options.add_argument("--group", type=int, default=64, help="inputs that share a scale and a zero point")
    options.add_argument("--samples", type=int, default=16, help="calibration windows")
    options.add_argument("--length", type=int, default=512, help="tokens in one of them")
    options.add_argument("--windows", type=int, default=8, help="of each held-out text")
    options.add_argument("--window", type=int, default=1024, help="tokens")
    options.add_argument("--iterations", type=int, default=None, help="of auto-round; its own default without")
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    bench = Bench(arguments)
    rows = [Made("full precision", 16, bench.score(load_model(str(arguments.model))), bench.tokens)]
    remarks: list[str] = []
    for bits in arguments.bits:
        wanted = list(dict.fromkeys([PACKAGES[name].ours for name in arguments.peers] + arguments.methods))
        ours = {name: bench.ours(name, bits) for name in wanted}
        rows += ours.values()
        for row in bench.theirs(bits, remarks):
            row.compare(ours[PACKAGES[row.name].ours])
            rows.append(row)
    report(rows, list(bench.texts), arguments, list(dict.fromkeys(remarks)))
    return rows


class Bench:
    """What both sides share: the calibration tokens and the windows to score on."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        tokenizer = load_tokenizer(str(arguments.model))
        self.setting = {"group_size": arguments.group, "samples": arguments.samples, "length": arguments.length}
        self.batches: list[Batch] = calibration_batches(
            Setting(calibration=str(arguments.calibration), **self.setting), tokenizer
        )
        self.ids_NT = torch.cat([batch.inputs["input_ids"] for batch in self.batches]).numpy()
        window = min(arguments.window, context_window(load_model(str(arguments.model))))
        self.texts = {
            str(one) if len(arguments.text) > len({path.stem for path in arguments.text}) else one.stem: text_windows(
                one, tokenizer, window
            )[: arguments.windows]
            for one in arguments.text
        }
        self.tokens = {name: sum(len(one) - 1 for one in windows) for name, windows in self.texts.items()}

    def score(self, model: PreTrainedModel) -> dict[str, list[float]]:
        """The negative log-likelihood of each window, by text."""
        model = model.to(self.arguments.device).eval()  # type: ignore[arg-type]
        return {
            name: [float(nll_T.double().sum()) for nll_T in window_nll(model, windows)]
            for name, windows in self.texts.items()
        }

    def ours(self, name: str, bits: int) -> Made:
        """A method of switchq; one without calibration gets none, so that it spends no time on errors of layers."""
        model, method = load_model(str(self.arguments.model)), load_methods()[name]
        model = model.to(self.arguments.device)  # type: ignore[arg-type]
        setting = Setting(bits=bits, calibration=str(self.arguments.calibration), **self.setting)
        wall, cpu = time.perf_counter(), time.process_time()
        quantise(model, method, setting, self.batches if method.needs() else [], progress=False)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Made(f"switchq {name}", bits, self.score(model), self.tokens, wall, cpu)

    def theirs(self, bits: int, remarks: list[str]) -> Iterator[Made]:
        """All peers that can be asked."""
        for name in self.arguments.peers:
            peer = PACKAGES[name]
            python = next((one for one in self.arguments.peer_python if has(one, peer.package)), None)
            if python is None:
                remarks.append(f"{name}: left out, no --peer-python has {peer.package}")
                continue
            with TemporaryDirectory() as place:
                folder = Path(place)
                np.save(folder / "ids.npy", self.ids_NT)
                common = {"model": self.arguments.model, "bits": bits, "group": self.arguments.group}
                more = {"calibration": folder / "ids.npy", "threads": self.arguments.threads, **peer.options}
                if name == "auto-round":
                    more["iterations"] = self.arguments.iterations
                answer, wrong = ask(python, peer.script, common | more, folder)
                if answer is None:
                    remarks.append(f"{name}, {bits} bits: left out, it failed: {wrong}")
                    continue
                model = load_dense(self.arguments.model, load_file(folder / "weights.safetensors"))
            yield Made(name, bits, self.score(model), self.tokens, **answer)


def load_dense(model: Path, tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
    """The model with a peer's weights; one that lacks a linear of the blocks, or has strangers, ends it."""
    loaded = load_model(str(model))
    missing, wrong = loaded.load_state_dict(tensors, strict=False)
    linears = tuple(f".{name}.weight" for name in architecture_of(loaded.config).linears)
    wrong += [name for name in missing if name.endswith(linears)]
    if wrong:
        raise SystemExit(f"a peer's weights do not fit {model}: {', '.join(wrong)}")
    return loaded


def report(rows: list[Made], texts: list[str], arguments: argparse.Namespace, remarks: list[str]) -> None:
    """Print a table, and write JSON if asked to."""
    title = f"Quantised alike: {arguments.model.name}, groups of {arguments.group}, asymmetric"
    table = Table("bits", "", *texts, "CPU s", "wall s", "ours / theirs", "time", title=title, box=box.SIMPLE)
    for row in rows:
        pairs = zip((row.perplexity_ratio or {}).values(), (row.ratio_error or {}).values(), strict=True)
        ratios = " ".join(f"{ratio:.4f}±{error:.4f}" for ratio, error in pairs)
        figures = [f"{row.perplexity[text]:.3f}" for text in texts]
        seconds = ["" if one is None else f"{one:.1f}" for one in (row.cpu_seconds, row.seconds)]
        share = "" if row.time_ratio is None else f"{row.time_ratio:.2f}"
        table.add_row(str(row.bits), row.name, *figures, *seconds, ratios, share)
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


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
