"""Post-training quantisation by switchq and by the packages a user would pick: perplexity and time at equal settings.

python tests/bench/bench_ptq_peers.py --model PATH --calibration c4.jsonl --text wiki.test.raw --peer-python PYTHON

Each peer runs in an environment of its own (`--peer-python`, several are tried in turn) on one model folder, at one
width and group size, asymmetric, on one array of calibration tokens, drawn anew by each seed. It gives back dense
weights, which are scored by switchq on the same windows as switchq's own. Seconds are of quantising alone, wall and
processor time. A peer's row has the ratio of switchq's perplexity and time (processor time on a CPU, wall time on a
GPU) to its own: 1 or less is as good, or as fast. Beside a ratio of perplexities stands its standard error over
windows, both models having read the same ones. `--rows` keeps each row as soon as it is there.

Written for hqq 0.2.8.post1, llmcompressor 0.14.0.1 with compressed-tensors 0.19.0, auto-round 0.16.1 and gptqmodel
7.7.0.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from outside import PEERS, ask, has
from ptq_rows import Case, Made, report
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
    "auto-round": Peer("auto-round", PEERS / "ptq_autoround.py", "adaround"),
}


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
    options.add_argument(
        "--group", type=int, nargs="+", default=[64], help="inputs that share a scale and a zero point"
    )
    options.add_argument("--seeds", type=int, nargs="+", default=[0], help="each draws the calibration windows")
    options.add_argument("--samples", type=int, default=16, help="calibration windows")
    options.add_argument("--length", type=int, default=512, help="tokens in one of them")
    options.add_argument("--windows", type=int, default=8, help="of each held-out text")
    options.add_argument("--window", type=int, default=1024, help="tokens")
    options.add_argument("--iterations", type=int, default=None, help="of auto-round; its own default without")
    options.add_argument("--rows", type=Path, default=None, help="append each row to this file, as a line of JSON")
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    bench = Bench(arguments)
    rows: list[Made] = []
    for row in bench.rows():
        rows.append(row)
        if arguments.rows is not None:
            with arguments.rows.open("a") as lines:
                lines.write(json.dumps(asdict(row) | {"device": machine(arguments.device)["device"]}) + "\n")
    report(rows, list(bench.texts), arguments, list(dict.fromkeys(bench.remarks)))
    return rows


class Bench:
    """What both sides share: the calibration tokens and the windows to score on."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.remarks: list[str] = []
        self.tokenizer = load_tokenizer(str(arguments.model))
        window = min(arguments.window, context_window(load_model(str(arguments.model))))
        self.texts = {
            str(one) if len(arguments.text) > len({path.stem for path in arguments.text}) else one.stem: text_windows(
                one, self.tokenizer, window
            )[: arguments.windows]
            for one in arguments.text
        }
        self.tokens = {name: sum(len(one) - 1 for one in windows) for name, windows in self.texts.items()}

    def rows(self) -> Iterator[Made]:
        """Full precision, then case by case ours and theirs."""
        given = self.arguments
        yield Made("full precision", Case(), self.score(load_model(str(given.model))), self.tokens)
        wanted = list(dict.fromkeys([PACKAGES[name].ours for name in given.peers] + given.methods))
        for seed, bits, group in product(given.seeds, given.bits, given.group):
            case = Case(bits, group, seed)
            sizes = {"samples": given.samples, "length": given.length, "seed": seed}
            setting = Setting(bits, group, calibration=str(given.calibration), **sizes)
            batches = calibration_batches(setting, self.tokenizer)
            ours = {}
            for name in wanted:
                ours[name] = self.ours(name, case, setting, batches)
                yield ours[name]
            for name in given.peers:
                row = self.theirs(name, case, batches)
                if row is not None:
                    row.compare(ours[PACKAGES[name].ours], given.device)
                    yield row

    def score(self, model: PreTrainedModel) -> dict[str, list[float]]:
        """The negative log-likelihood of each window, by text."""
        model = model.to(self.arguments.device).eval()  # type: ignore[arg-type]
        return {
            name: [float(nll_T.double().sum()) for nll_T in window_nll(model, windows)]
            for name, windows in self.texts.items()
        }

    def ours(self, name: str, case: Case, setting: Setting, batches: list[Batch]) -> Made:
        """A method of switchq; one without calibration gets none, so that it spends no time on errors of layers."""
        model, method = load_model(str(self.arguments.model)), load_methods()[name]
        model = model.to(self.arguments.device)  # type: ignore[arg-type]
        wall, cpu = time.perf_counter(), time.process_time()
        quantise(model, method, setting, batches if method.needs() else [], progress=False)
        if self.arguments.device == "cuda":
            torch.cuda.synchronize()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Made(f"switchq {name}", case, self.score(model), self.tokens, wall, cpu)

    def theirs(self, name: str, case: Case, batches: list[Batch]) -> Made | None:
        """A peer; None, and a remark, where it cannot be asked."""
        given, peer = self.arguments, PACKAGES[name]
        python = next((one for one in given.peer_python if has(one, peer.package)), None)
        if python is None:
            self.remarks.append(f"{name}: left out, no --peer-python has {peer.package}")
            return None
        with TemporaryDirectory() as place:
            folder = Path(place)
            np.save(folder / "ids.npy", torch.cat([batch.inputs["input_ids"] for batch in batches]).numpy())
            common = {"model": given.model, "bits": case.bits, "group": case.group, "device": given.device}
            more = {"calibration": folder / "ids.npy", "threads": given.threads, "seed": case.seed, **peer.options}
            if name == "auto-round":
                more["iterations"] = given.iterations
            answer, wrong = ask(python, peer.script, common | more, folder)
            if answer is None:
                self.remarks.append(f"{name}, {case}: left out, it failed: {wrong}")
                return None
            model = load_dense(given.model, load_file(folder / "weights.safetensors"))
        return Made(name, case, self.score(model), self.tokens, **answer)


def load_dense(model: Path, tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
    """The model with a peer's weights; one that lacks a linear of the blocks, or has strangers, ends it."""
    loaded = load_model(str(model))
    missing, wrong = loaded.load_state_dict(tensors, strict=False)
    linears = tuple(f".{name}.weight" for name in architecture_of(loaded.config).linears)
    wrong += [name for name in missing if name.endswith(linears)]
    if wrong:
        raise SystemExit(f"a peer's weights do not fit {model}: {', '.join(wrong)}")
    return loaded


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
