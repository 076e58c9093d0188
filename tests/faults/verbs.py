"""What the kill harness knows of each verb: how to run it, what its work is, and what it leaves behind.

A new verb is one more entry in `VERBS`.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

Numbers = dict[str, Any]

TIMINGS = ("seconds", "tokens_per_s", "questions_per_s", "latency", "time", "command", "peak", "memory_mb")
"""Parts of the names of figures that no two runs share."""


@dataclass(frozen=True)
class Verb:
    """One command of the harness.

    Attributes:
        command: its arguments; `{out}` is a new folder, `{base}`, `{train}`, `{dev}`, `{ckpt}`, `{sensitivity}` the
            common ground.
        unit: dotted name of the function that does one piece of work; calls to it are counted in a log that outlives
            a kill.
        numbers: the final figures in the folder.
        saved: pieces of work that the folder says are done; none for a command that writes all at its end.
        resume: arguments that are added once there is something to go on from.
    """

    command: str
    unit: str
    numbers: Callable[[Path], Numbers]
    saved: Callable[[Path], int] = lambda out: 0
    resume: str = ""


def plain(content: Any) -> Any:
    """JSON without timings."""
    if isinstance(content, dict):
        return {k: plain(v) for k, v in content.items() if not any(part in k for part in TIMINGS)}
    return [plain(item) for item in content] if isinstance(content, list) else content


def json_numbers(*names: str) -> Callable[[Path], Numbers]:
    return lambda out: {name: plain(json.loads((out / name).read_text())) for name in names}


def newest(out: Path) -> Path | None:
    found = sorted(out.glob("lightning_logs/version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return found[-1] if found else None


def fit_numbers(out: Path) -> Numbers:
    """Weights and scores; a run that was killed while it was scored is scored again in a folder of its own."""
    path = newest(out)
    assert path is not None
    weights = torch.load(path, weights_only=True)["state_dict"]
    (results,) = out.glob("lightning_logs/version_*/results.json")
    return {name: value.tolist() for name, value in weights.items()} | json_numbers("results.json")(results.parent)


def fit_saved(out: Path) -> int:
    path = newest(out)
    return 0 if path is None else int(torch.load(path, weights_only=True)["global_step"])


def data_numbers(out: Path) -> Numbers:
    import pyarrow as pa

    rows: list[Any] = []
    for file in sorted((out / "data").glob("*.arrow")):
        with pa.memory_map(str(file)) as source:
            rows += pa.ipc.open_stream(source).read_all().to_pylist()
    return {"rows": rows}


def data_saved(out: Path) -> int:
    return len(list(out.glob("data.partial/part-*.parquet")))


def search_numbers(out: Path) -> Numbers:
    rows = csv.DictReader(io.StringIO((out / "s.csv").read_text()))
    return {"rows": [plain(row) for row in rows]} | json_numbers("s.json", "s.bitmap.json")(out)


def journal_saved(kind: str) -> Callable[[Path], int]:
    """Whole entries of that kind in the journal."""

    def saved(out: Path) -> int:
        journal = out / "s.journal.jsonl"
        lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
        return sum(line.startswith(f'{{"{kind}"'.encode()) for line in lines)

    return saved


def ptq_saved(out: Path) -> int:
    return len(list(out.glob("ptq/runs/*.json")))


def transfer_numbers(out: Path) -> Numbers:
    """All but where the statistics lie."""
    found = json_numbers("transfer/transfer.json")(out)
    del found["transfer/transfer.json"]["statistics"]
    return found


def folder_numbers(name: str) -> Callable[[Path], Numbers]:
    def numbers(out: Path) -> Numbers:
        tensors = load_file(out / name / "weights.safetensors")
        return {key: value.tolist() for key, value in tensors.items()} | json_numbers(f"{name}/artifact.json")(out)

    return numbers


VERBS = {
    "fit": Verb(
        "fit --config {config} --trainer.default_root_dir {out} --trainer.max_steps 24 --checkpoint.every_n_steps 3 "
        "--trainer.limit_val_batches 0",
        "switchq.training.module.SwitchableModule.take_step",
        fit_numbers,
        fit_saved,
        "--ckpt_path last",
    ),
    "gendata": Verb(
        "gendata --model {base} --source {train} --count 40 --batch_size 2 --max_new_tokens 24 --teacher_top_k 4 "
        "--output {out}/data",
        "switchq.data.generate._continue",
        data_numbers,
        data_saved,
    ),
    "sensitivity": Verb(
        "sensitivity --model {base} --data {train} --limit 16 --batch_size 2 --output {out}/s.json --logdir {out}/log",
        "switchq.posttraining.calibration.Batch.to",
        json_numbers("s.json"),
        journal_saved("batch"),
    ),
    "search": Verb(
        "search --model {base} --data {train} --dev {dev} --sensitivity {sensitivity} --metric perplexity --budget 2 "
        "--questions 12 --generations 2 --population 4 --dev_points 2 --output {out}/s.csv",
        "switchq.posttraining.search.measure.ModelMeasure.__call__",
        search_numbers,
        journal_saved("eval"),
    ),
    "ptq": Verb(
        "ptq --config {tasks} --model {base} --methods rtn --methods gptq --methods awq --bits 4 --bits 3 --samples 8 "
        "--length 32 --calibration {text} --output {out}/ptq",
        "switchq.posttraining.ptq.sweep.Sweep._make",
        json_numbers("ptq/sweep.json"),
        ptq_saved,
    ),
    "transfer": Verb(
        "transfer --config {tasks} --source {base} --target {base} --strategies matched --controls random "
        "--bits 3 --samples 8 --length 32 --calibration {text} --output {out}/transfer",
        "switchq.posttraining.ptq.sweep.Sweep._make",
        transfer_numbers,
        lambda out: len(list(out.glob("transfer/*/runs/*.json"))),
    ),
    "export": Verb(
        "export --ckpt {ckpt} --output {out}/artifact",
        "switchq.commands.export.export_artifact",
        folder_numbers("artifact"),
    ),
}


def first_difference(one: Any, other: Any, where: str = "") -> str | None:
    """Where two plain values differ first, and in what."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(f"{where}.{key}", one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{where}[{i}]", *pair) for i, pair in enumerate(zip(one, other))]
    else:
        return None if one == other else f"{where}: {str(one)[:200]} and {str(other)[:200]}"
    return next((found for name, a, b in pairs if (found := first_difference(a, b, name)) is not None), None)


def check_whole(out: Path) -> list[str]:
    """The files under `out` that have their final name and cannot be read."""
    broken = []
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in file.relative_to(out).parts) or "cache" in file.parts:
            continue  # what is still being written
        try:
            _read(file)
        except Exception as error:
            broken.append(f"{file.relative_to(out)}: {error!r}")
    return broken


def _read(file: Path) -> None:
    if file.suffix == ".json":
        json.loads(file.read_text())
    elif file.suffix == ".yaml":
        assert yaml.safe_load(file.read_text()) is not None
    elif file.suffix == ".ckpt":
        torch.load(file, weights_only=True)
    elif file.suffix == ".safetensors":
        load_file(file)
    elif file.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.read_table(file, use_threads=False)
    elif file.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(file.read_text())))
        assert {len(row) for row in rows} == {len(rows[0])}
