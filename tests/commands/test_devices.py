"""Commands on two devices, as processes on the CPU: the same files as on one. And what cannot be had is refused."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException
from workshop import Workshop

from switchq import parallel
from switchq.commands.devices import Unmet, _work, on_devices
from switchq.errors import UserError
from switchq.evaluation import sha256
from switchq.verbs import eval_, gendata, search, sensitivity
from switchq.verbs_ptq import ptq

from .conftest import Outcome, Run, write_config

Switchq = Callable[..., Outcome]

ROOT = Path(__file__).parents[2]


def all_verbs(ckpt: str, base: str, train: str, folder: str, device: str) -> None:
    """Every command that splits its work, one after the other, in a process that is there already."""
    text = {"class_path": "Perplexity", "init_args": {"name": "text", "source": train}}
    eval_(
        ckpt=ckpt, bitmap=["8", "2"], data=train, text=[train], batch_size=5, device=device, max_new_tokens=3,
        output=f"{folder}/eval.json", predictions=f"{folder}/answers",
    )  # fmt: skip
    gendata(base, f"{folder}/gen", source=train, count=10, batch_size=4, max_new_tokens=4, device=device)
    sensitivity(
        ckpt=ckpt, data=train, limit=9, batch_size=4, device=device, logdir=f"{folder}/logs",
        output=f"{folder}/sensitivity.json",
    )  # fmt: skip
    for metric in ("KL", "perplexity", "perplexity"):
        if Path(folder, f"{metric}.json").exists() and parallel.is_first():
            cut_short(Path(folder), metric)
        parallel.gather(None)
        search(
            ckpt=ckpt, sensitivity=f"{folder}/sensitivity.json", data=train, questions=11, batch_size=4, metric=metric,  # type: ignore[arg-type]
            method=["greedy", "evolution"], generations=1, population=3, dev_limit=4, dev_points=1, device=device,
            output=f"{folder}/{metric}.csv",
        )  # fmt: skip
    for methods in (["rtn"], ["rtn", "hqq"]):
        ptq(base, methods, bits=[4, 2], tasks=[text], limit=3, device=device, output=f"{folder}/ptq")
    eval_(model=f"{folder}/nowhere", data=train, device=device)


def cut_short(folder: Path, name: str) -> None:
    """Leave of a search what a kill would."""
    for path in (f"{name}.json", f"{name}.bitmap.json", f"{name}.csv"):
        (folder / path).unlink()
    journal = folder / f"{name}.journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:7]))


@pytest.fixture(scope="module")
def folders(run: Run, workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What the commands wrote on one device and on two."""
    made = {}
    for devices in (1, 2):
        made[devices] = tmp_path_factory.mktemp(f"on-{devices}")
        arguments = {"ckpt": str(run.checkpoint), "base": str(workshop.base), "train": str(workshop.train)}
        with pytest.raises(UserError, match="no model folder"):  # the last command's, told by whichever process had it
            on_devices(all_verbs, {**arguments, "folder": str(made[devices]), "device": "cpu", "devices": devices})
    return made


SPEED = {
    "tokens_per_s", "latency_ms", "peak_memory_mb", "seconds", "run", "cost", "quantised_seconds", "time",
}  # fmt: skip
"""What differs between any two runs."""


def figures(value: Any) -> Any:
    """The contents of a result file without times."""
    if isinstance(value, dict):
        return {name: figures(item) for name, item in value.items() if name not in SPEED}
    return [figures(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["eval.json", "answers/00.json", "answers/01.json", "sensitivity.json"])
def test_results_do_not_depend_on_the_number_of_devices(folders: dict[int, Path], name: str) -> None:
    one, two = (figures(json.loads((folder / name).read_text())) for folder in folders.values())
    assert one == two


@pytest.mark.parametrize("metric", ["KL", "perplexity"])
def test_a_search_takes_the_same_course(folders: dict[int, Path], metric: str) -> None:
    one, two = (
        list(csv.DictReader((folder / f"{metric}.csv").read_text().splitlines())) for folder in folders.values()
    )
    assert [figures(row) for row in one] == [figures(row) for row in two]
    chosen = [(folder / f"{metric}.bitmap.json").read_text() for folder in folders.values()]
    assert chosen[0] == chosen[1]


def test_generated_data_is_the_same(folders: dict[int, Path]) -> None:
    assert len({sha256(str(folder / "gen/data-00000-of-00001.arrow")) for folder in folders.values()}) == 1


def test_a_sweep_is_the_same(folders: dict[int, Path]) -> None:
    one, two = (json.loads((folder / "ptq/sweep.json").read_text())["runs"] for folder in folders.values())
    assert len(one) == 5
    assert figures(one) == figures(two)
    names = [sorted(path.name for path in (folder / "ptq/runs").iterdir()) for folder in folders.values()]
    assert names[0] == names[1]


def leave_a_name(folder: str, device: str) -> None:
    """Say which process of how many this is."""
    Path(folder, f"{parallel.rank()} of {parallel.size()} on {device}").touch()


def test_several_processes_on_a_device(tmp_path: Path) -> None:
    on_devices(leave_a_name, {"folder": str(tmp_path), "device": "cpu", "devices": 1, "processes": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2 on cpu", "1 of 2 on cpu"]


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("eval", ["--devices", 0], "--devices must be at least 1, not 0"),
        ("eval", ["--devices", 5000], "--devices 5000 is more than there are"),
        ("gendata", ["--output", "x", "--devices", -1], "--devices must be at least 1, not -1"),
        ("sensitivity", ["--devices", 2, "--device", "cuda:1"], "takes the first ones there are"),
        ("search", ["--devices", "two"], "devices"),
        ("ptq", ["--devices", 0], "--devices must be at least 1"),
        ("ptq", ["--processes", 0], "--processes must be at least 1, not 0"),
        ("fit", ["--trainer.devices", 0], "--trainer.devices must be at least 1, not 0"),
        ("fit", ["--trainer.accelerator", "cpu", "--trainer.strategy", "fastest"], "strategy"),
        (
            "fit",
            ["--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.strategy", "ddp_spawn"],
            "use ddp or",
        ),
        ("fit", ["--trainer.accelerator", "cuda", "--trainer.devices", 64], "trainer's options do not work"),
        ("fit", ["--trainer.devices", 2, "--trainer.use_distributed_sampler", "true"], "use_distributed_sampler"),
    ],
    ids=str,
)
def test_what_cannot_be_had(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, command: str, options: list[Any], says: str
) -> None:
    if command == "fit":
        options = ["--config", write_config(workshop, tmp_path), *options]
    elif command != "search" or "two" not in options:
        options = ["--model", workshop.base, *options]
    done = switchq(command, *options)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.skipif(shutil.which("env") is None, reason="starts the program as a user does")
def test_fit_on_two(workshop: Workshop, tmp_path: Path) -> None:
    config = write_config(workshop, tmp_path)
    command = [sys.executable, "-m", "switchq.cli", "fit", "--config", config, "--trainer.devices", "2"]
    done = subprocess.run(
        [*map(str, command), "--trainer.strategy", "ddp", "--summary.questions", "4"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Try next") == 1
    assert done.stderr.count("training data: ") == 1
    written = tmp_path / "lightning_logs"
    assert [path.name for path in written.iterdir()] == ["version_0"]
    content = torch.load(written / "version_0/checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    results = json.loads((written / "version_0/results.json").read_text())
    assert {one["n_questions"] for one in results} == {4}
    assert (written / "version_0/adapters/bits_2/adapter_model.safetensors").is_file()


class TestProcessesThatDoNotFindEachOther:
    """Before any has begun: they are started again, a few times."""

    @staticmethod
    def spawning(failures: int, error: Exception, calls: list[int]) -> Callable[..., None]:
        def spawn(work: Any, arguments: tuple[Any, ...], nprocs: int) -> None:
            calls.append(nprocs)
            if len(calls) <= failures:
                arguments[-1].put(error)
                raise ProcessExitedException("process 1 terminated with exit code 1", 1, 0, 1)

        return spawn

    def test_start_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []
        monkeypatch.setattr("torch.multiprocessing.spawn", self.spawning(2, Unmet("closed by peer"), calls))
        on_devices(print, {"devices": 2, "device": "cpu"})
        assert calls == [2, 2, 2]

    @pytest.mark.parametrize(
        ("error", "says", "times"),
        [
            (Unmet("closed by peer"), "2 processes on this machine do not find each other: closed by peer", 3),
            (UserError("no such file"), "no such file", 1),
        ],
        ids=["not for ever", "not for another mistake"],
    )
    def test_end(self, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str, times: int) -> None:
        calls: list[int] = []
        monkeypatch.setattr("torch.multiprocessing.spawn", self.spawning(99, error, calls))
        with pytest.raises(UserError, match=says):
            on_devices(print, {"devices": 2, "device": "cpu"})
        assert calls == [2] * times

    def test_a_process_says_what_kept_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def apart(*_: Any) -> Any:
            raise RuntimeError("Gloo connectFullMesh failed\nand more")

        monkeypatch.setattr("switchq.parallel.join", apart)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or it shares out the cores, in this process
        told = torch.multiprocessing.get_context("spawn").SimpleQueue()
        with pytest.raises(SystemExit):
            _work(0, print, {}, ["cpu", "cpu"], str(tmp_path), told)
        found = told.get()
        assert isinstance(found, Unmet)
        assert str(found) == "Gloo connectFullMesh failed"
