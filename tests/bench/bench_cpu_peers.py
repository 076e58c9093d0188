"""Batch-1 decoding on a CPU: float32 `generate`, an artifact at 8, 4 and 2 bits, CTranslate2 and llama.cpp.

python tests/bench/bench_cpu_peers.py --device cpu --threads 2 --peer-python PYTHON --output figures.json

GPT-2 small's shapes with random weights. Peers run in an environment of their own, one process a measurement, in turn
with the rest; each has a warm-up first. On a busy machine, `--threads 1 --clock cpu` counts processor time. What is
reported is the ratio to float32 `generate` of the same round.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_artifact import WIDTHS, generation, stepping
from outside import PEERS, ask, has
from sidebyside import Row, elapsed, parser, prepare, report
from subjects import SHAPES, quiet, save_random
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from switchq.inference import SwitchableLM, export_artifact
from switchq.models import load_model, load_tokenizer, make_switchable
from switchq.quant import Nested

PACKAGES = {"ctranslate2": ("ctranslate2", ("int8",)), "llama.cpp": ("xllamacpp", ("Q8_0", "Q4_0"))}


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print and write; returns the rows."""
    options = parser(__doc__)
    options.add_argument("--shapes", choices=sorted(SHAPES), default="gpt2", help="of the model; weights are random")
    options.add_argument("--peer-python", type=Path, nargs="+", default=[], help="Pythons that have the packages")
    options.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    options.add_argument("--tokens", type=int, default=64, help="tokens to decode")
    options.add_argument("--adapters", action="store_true", help="of rank 16, 32 and 64, which the peers do not have")
    arguments = options.parse_args(argv)
    prepare(arguments)
    quiet()
    with tempfile.TemporaryDirectory() as place:
        return compare(arguments, Path(place))


def compare(arguments: Any, place: Path) -> list[Row]:
    """All in turn, round by round."""
    base = save_random(arguments.shapes, "float32", place / "base")
    words = {f"t{number}": number for number in range(SHAPES[arguments.shapes].vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="t0"))
    special = {"unk_token": "t0", "bos_token": "t1", "eos_token": "t1"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(base)
    model = make_switchable(load_model(str(base)), WIDTHS, Nested(), adapters=arguments.adapters)
    identity = {"name": "random", "sha256": ""}
    options = {"widths": WIDTHS, "base": identity, "embedding_bits": 8}
    export_artifact(model, load_tokenizer(str(base)), place / "artifact", **options)
    del model
    ids_1T = torch.randint(2, 1000, (1, arguments.prompt))
    calls = {"float32 generate": generation(load_model(str(base)), ids_1T, arguments.tokens)}
    for bits in WIDTHS:
        lm = SwitchableLM.from_pretrained(place / "artifact", bits)
        calls[f"switchq {bits} bits"] = stepping(lm, ids_1T, arguments.tokens)
    peers, remarks = converted(arguments, base, place)
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in (*calls, *peers)}
    threads = arguments.threads or torch.get_num_threads()
    for number in range(arguments.rounds):
        for name in reversed(seconds) if number % 2 else tuple(seconds):
            if name in calls:
                seconds[name].append(elapsed(calls[name], arguments.clock))
                continue
            python, common = peers[name]
            more = {"ids": ids_1T[0].tolist(), "tokens": arguments.tokens, "threads": threads}
            answer, wrong = timed(python, common | {"step": "time"} | more, place)
            if answer is None or answer["tokens"] != arguments.tokens:
                raise SystemExit(f"{name} failed: {wrong or answer}")
            seconds[name].append(answer["cpu_seconds" if arguments.clock == "cpu" else "seconds"])
    rows = [row(name, own, seconds["float32 generate"]) for name, own in seconds.items()]
    speeds = {one.name: round(arguments.tokens / one.seconds, 1) for one in rows}
    faster = {one.name: round(1 / one.ratio, 2) for one in rows}
    title = f"Decoding: {arguments.shapes}, {arguments.prompt} + {arguments.tokens} tokens, {threads} threads"
    report(title, rows, arguments, tokens_a_second=speeds, times_as_fast=faster, remarks=remarks)
    return rows


def converted(arguments: Any, base: Path, place: Path) -> tuple[dict[str, tuple[Path, dict[str, Any]]], list[str]]:
    """Every peer that can be asked: its Python and the options of its script; and why the others cannot."""
    peers: dict[str, tuple[Path, dict[str, Any]]] = {}
    remarks = []
    for peer, (package, kinds) in PACKAGES.items():
        python = next((one for one in arguments.peer_python if has(one, package)), None)
        if python is None:
            remarks.append(f"{peer}: left out, no --peer-python has {package}")
            continue
        for kind in kinds:
            common = {"peer": peer, "kind": kind, "model": base, "place": place}
            answer, wrong = timed(python, common | {"step": "convert"}, place)
            if answer is None:
                remarks.append(f"{peer} {kind}: left out, it failed: {wrong}")
                continue
            remarks.append(f"{peer} {kind}: version {answer['version']}, {answer['bytes'] / 1e6:.1f} MB")
            peers[f"{peer} {kind}"] = python, common
    return peers, remarks


def timed(python: Path, options: dict[str, Any], place: Path) -> tuple[dict[str, Any] | None, str]:
    """A call of the peer's script in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return ask(python, PEERS / "cpu_decode.py", options, Path(folder))


def row(name: str, own: list[float], reference: list[float]) -> Row:
    """Median seconds, and the median ratio to the reference of the same round."""
    ratios = [mine / theirs for mine, theirs in zip(own, reference, strict=True)]
    return Row(name, median(own), median(ratios), min(ratios), max(ratios), len(own))


if __name__ == "__main__":
    main()
    sys.exit(0)
