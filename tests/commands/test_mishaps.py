"""What the machine may do to a command: one line that says what to do, the exit code, and nothing lost."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import Strategy
from safetensors.torch import load_file, save_file
from workshop import Workshop, questions, write_questions

from switchq.errors import MachineError, UserError
from switchq.files import new_file, new_folder, write_bytes
from switchq.mishaps import explain_mishap
from switchq.posttraining.calibration import Batch
from switchq.training.checkpoint_io import WholeCheckpoints
from switchq.training.module import SwitchableModule

from .conftest import Outcome, Run, write_config

Switchq = Callable[..., Outcome]

QUICK = ("--summary.enabled", "false", "--trainer.limit_val_batches", 0, "--checkpoint.every_n_steps", 1)


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """What a full disk is like: nothing that is written can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fails_at(step: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise `error` in the training step after so many optimiser steps."""
    original = SwitchableModule.training_step

    def broken(self: SwitchableModule, *arguments: Any) -> None:
        if self.global_step == step:
            raise error
        original(self, *arguments)

    monkeypatch.setattr(SwitchableModule, "training_step", broken)


def last(folder: Path, version: int = 0) -> Path:
    return folder / f"lightning_logs/version_{version}/checkpoints/last.ckpt"


MISHAPS = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: lower --data.batch_size"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory: lower"),
    (MemoryError(), "out of memory: lower --data.batch_size"),
    (RuntimeError("CUDA error: unspecified launch failure\nCompile with"), "the GPU was lost (CUDA error: unspecified"),
    (torch.AcceleratorError("CUDA error: an illegal memory access", 700), "the GPU was lost"),
    (OSError(28, "No space left on device", "/x/events.out"), "the disk is full (/x/events.out): free some space"),
    (
        RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:5: Connection reset by peer. Or bugs."),
        "another process of this run died ([gloo/transport",
    ),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a loader process died", ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "says"), MISHAPS, ids=[says for _, says in MISHAPS])
def test_fit_keeps_its_checkpoint_and_goes_on(
    error: BaseException,
    says: str,
    workshop: Workshop,
    tmp_path: Path,
    switchq: Switchq,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_config(workshop, tmp_path)
    with monkeypatch.context() as broken:
        fails_at(2, error, broken)
        done = switchq("fit", "--config", config, *QUICK, "--trainer.max_steps", 3)
    assert done.code == 3
    line = done.err.splitlines()[-1]
    assert line.startswith(f"switchq: error: {says}"), line
    assert "Step 2 is kept in " in line
    assert line.endswith("--ckpt_path last to go on")
    assert "Traceback" not in done.err
    assert torch.load(last(tmp_path), weights_only=True)["global_step"] == 2
    done = switchq("fit", "--config", config, *QUICK, "--trainer.max_steps", 3, "--ckpt_path", "last")
    assert done.code == 0, done.err
    assert torch.load(last(tmp_path, 1), weights_only=True)["global_step"] == 3


def test_fit_says_what_is_kept_where_clearing_up_fails_too(
    workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    config = write_config(workshop, tmp_path)
    with monkeypatch.context() as broken:
        fails_at(2, RuntimeError("CUDA error: device-side assert triggered"), broken)
        broken.setattr(Strategy, "teardown", lost)
        done = switchq("fit", "--config", config, *QUICK, "--trainer.max_steps", 3)
    assert done.code == 3
    assert done.err.splitlines()[-1].startswith("switchq: error: the GPU was lost (CUDA error: device-side")
    assert f"Step 2 is kept in {last(tmp_path)}" in done.err.splitlines()[-1]


@pytest.mark.parametrize("command", ["eval", "gendata", "search", "ptq", "export", "report"])
def test_every_command_is_told_what_to_lower(command: str) -> None:
    told = explain_mishap(MemoryError(), command)
    assert isinstance(told, MachineError)
    assert ("lower --batch_size" in str(told)) == (command not in ("export", "report"))
    assert str(told).endswith("to go on" if command in ("gendata", "search", "ptq") else "again")


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), KeyError("x"), OSError(2, "No such file")], ids=str
)
def test_a_bug_is_no_mishap(error: BaseException) -> None:
    assert explain_mishap(error, "fit") is None


def test_a_full_disk_in_fit_keeps_the_last_checkpoint(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    config = write_config(workshop, tmp_path)
    assert switchq("fit", "--config", config, *QUICK, "--trainer.max_steps", 1).code == 0
    good = last(tmp_path).read_bytes()
    with no_file_over(20_000):
        more = ("--trainer.max_steps", 3, "--ckpt_path", last(tmp_path))
        done = switchq("fit", "--config", config, *QUICK, *more)
    assert done.code == 3, done.err
    assert "cannot write" in done.err.splitlines()[-1]
    assert "free some space" in done.err.splitlines()[-1]
    assert last(tmp_path).read_bytes() == good
    assert not last(tmp_path, 1).exists()
    assert [path for path in tmp_path.rglob("*.part")] == []


WRITERS = {
    "eval": "eval --ckpt {ckpt} --bitmap 8 --bitmap 4 --limit 2 --output {out}/r.json",
    "gendata": "gendata --model {base} --source {train} --count 40 --batch_size 40 --max_new_tokens 20 "
    "--teacher_top_k 8 --output {out}/data",
    "sensitivity": "sensitivity --ckpt {ckpt} --limit 2 --output {out}/s.json --logdir {out}/log",
    "search": "search --ckpt {ckpt} --method evolution --metric perplexity --budget 2 --questions 4 --generations 1 "
    "--population 2 --output {out}/s.csv",
    "export": "export --ckpt {ckpt} --output {out}/artifact",
    "export hf": "export --ckpt {ckpt} --format hf --bitmap 8 --output {out}/hf",
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's writer
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_nothing_half_written(
    name: str, run: Run, workshop: Workshop, tmp_path: Path, switchq: Switchq
) -> None:
    places = {"ckpt": run.checkpoint, "base": workshop.base, "train": workshop.train, "out": tmp_path}
    with no_file_over(1000):
        done = switchq(*WRITERS[name].format(**places).split())
    assert done.code == 3, done.err
    line = done.err.splitlines()[-1]
    assert line.startswith("switchq: error: ")
    assert "free some space" in line
    assert "Traceback" not in done.err
    names = {"r.json", "s.json", "s.csv", "data", "artifact", "hf"}
    assert names & {path.name for path in tmp_path.iterdir()} <= {"s.csv"}
    done = switchq(*WRITERS[name].format(**places).split())
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", ["eval", "sensitivity", "export"])
def test_a_read_only_place(name: str, run: Run, tmp_path: Path, switchq: Switchq, monkeypatch: Any) -> None:
    """Root may write anywhere, so the answer of a read-only file system is put in."""

    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.mkdir", refused)
        patched.setattr("tempfile.TemporaryFile", refused)
        done = switchq(*WRITERS[name].format(ckpt=run.checkpoint, out=tmp_path).split())
    assert done.code == 2, done.err
    assert "Read-only file system): give --output a place that you may write to" in done.err
    assert list(tmp_path.iterdir()) == []


def test_training_data_that_changed(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    config, train = write_config(workshop, tmp_path), write_questions(tmp_path / "mine.json", questions(44))
    options = ("--config", config, *QUICK, "--data.train", train)
    assert switchq("fit", *options, "--trainer.max_steps", 1).code == 0
    write_questions(train, questions(44, 2))
    done = switchq("fit", *options, "--trainer.max_steps", 2, "--ckpt_path", "last")
    assert done.code == 2
    assert "is not what the checkpoint was trained on" in done.err.splitlines()[-1]
    write_questions(train, questions(44))
    assert switchq("fit", *options, "--trainer.max_steps", 2, "--ckpt_path", "last").code == 0


def test_prompts_that_changed(workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: Any) -> None:
    source = write_questions(tmp_path / "mine.json", questions(8))
    line = f"gendata --model {workshop.base} --source {source} --count 4 --batch_size 2 --max_new_tokens 2"
    with monkeypatch.context() as patched:
        patched.setattr("switchq.data.parts.Parts.join", lambda self, count: (_ for _ in ()).throw(KeyboardInterrupt))
        assert switchq(*line.split(), "--output", tmp_path / "data").code == 130
    write_questions(source, questions(8, 2))
    done = switchq(*line.split(), "--output", tmp_path / "data")
    assert done.code == 2
    assert "other settings or from another source" in done.err


def test_weights_that_are_not_finite(run: Run, workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    content = torch.load(run.checkpoint, weights_only=True)
    next(iter(content["state_dict"].values()))[0] = float("inf")
    torch.save(content, tmp_path / "bad.ckpt")
    done = switchq("eval", "--ckpt", tmp_path / "bad.ckpt")
    assert done.code == 2
    assert "has values that are not finite; take an earlier one" in done.err


def test_a_loader_process_that_dies(workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: Any) -> None:
    from switchq.data.batches import TrainingCollator

    parent, collate = os.getpid(), TrainingCollator.__call__

    def dies(self: TrainingCollator, examples: Any) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return collate(self, examples)

    monkeypatch.setattr(TrainingCollator, "__call__", dies)
    config = write_config(workshop, tmp_path)
    done = switchq("fit", "--config", config, *QUICK, "--data.num_workers", 1)
    assert done.code == 3, done.err
    assert "a loader process died" in done.err.splitlines()[-1]
    assert "--data.num_workers 0" in done.err.splitlines()[-1]


def test_ctrl_c_twice(workshop: Workshop, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch) -> None:
    original = SwitchableModule.training_step

    def pressed(self: SwitchableModule, *arguments: Any) -> None:
        if self.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        original(self, *arguments)

    monkeypatch.setattr(SwitchableModule, "training_step", pressed)
    done = switchq("fit", "--config", write_config(workshop, tmp_path), *QUICK, "--trainer.max_steps", 5)
    assert done.code == 130
    assert done.err.splitlines()[-1] == "switchq: stopped"
    assert torch.load(last(tmp_path), weights_only=True)["global_step"] == 2


def test_ctrl_c_in_sensitivity_keeps_what_is_measured(
    run: Run, tmp_path: Path, switchq: Switchq, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"sensitivity --ckpt {run.checkpoint} --logdir {tmp_path}/log --batch_size 1 --output"
    assert switchq(*line.split(), tmp_path / "whole.json").code == 0
    to, seen = Batch.to, list[int]()

    def pressed(self: Batch, device: torch.device) -> Batch:
        seen.append(len(self))
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return to(self, device)

    monkeypatch.setattr(Batch, "to", pressed)
    stopped = switchq(*line.split(), tmp_path / "s.json")
    assert stopped.code == 130
    assert "5 batches kept in" in stopped.err
    other = switchq(*line.split(), tmp_path / "s.json", "--limit", 3)
    assert other.code == 2
    assert "unfinished measurement of another model or with other settings" in other.err
    assert switchq(*line.split(), tmp_path / "s.json").code == 0
    assert len(seen) == 3 * 4 + 1  # three parts of four questions, and the one that was cut short
    whole, resumed = (json.loads((tmp_path / name).read_text())["scores"] for name in ("whole.json", "s.json"))
    assert whole == resumed
    assert not (tmp_path / "s.journal.jsonl").exists()


class TestSameSeed:
    def test_two_fits_are_the_same_bit_for_bit(self, workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
        weights = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            config = write_config(workshop, tmp_path / name)
            assert switchq("fit", "--config", config, *QUICK, "--trainer.max_steps", 4).code == 0
            weights.append(torch.load(last(tmp_path / name), weights_only=True)["state_dict"])
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
        (tmp_path / "c").mkdir()
        config = write_config(workshop, tmp_path / "c")
        assert switchq("fit", "--config", config, *QUICK, "--trainer.max_steps", 4, "--seed_everything", 1).code == 0
        other = torch.load(last(tmp_path / "c"), weights_only=True)["state_dict"]
        assert not all(torch.equal(value, other[name]) for name, value in weights[0].items())

    def test_two_evals_are_the_same(self, run: Run, tmp_path: Path, switchq: Switchq) -> None:
        line = f"eval --ckpt {run.checkpoint} --bitmap 8 --bitmap 2 --output {tmp_path}/r.json"
        found = []
        for _ in range(2):
            assert switchq(*line.split()).code == 0
            read = json.loads((tmp_path / "r.json").read_text())
            found.append([{name: row[name] for name in ("bitmap", "F1", "EM", "answer_perplexity")} for row in read])
        assert found[0] == found[1]
        assert found[0][0]["answer_perplexity"] > 1


class TestWriter:
    def test_what_a_killed_process_left_is_cleared_away(self, tmp_path: Path) -> None:
        gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
        dead = gone.stdout.strip()
        (tmp_path / f".a.json.{dead}.part").write_text("half")
        (tmp_path / f".a.json.{os.getppid()}.part").write_text("at work")
        (tmp_path / f".other.json.{dead}.part").write_text("another's")
        write_bytes(tmp_path / "a.json", b"{}")
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == sorted([f".a.json.{os.getppid()}.part", f".other.json.{dead}.part", "a.json"])

    def test_a_folder_killed_between_two_renames_comes_back(self, tmp_path: Path) -> None:
        gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
        old = tmp_path / f".a.{gone.stdout.strip()}.old"
        old.mkdir()
        (old / "mine").write_text("dear")
        with pytest.raises(UserError, match="is there already"), new_folder(tmp_path / "a"):
            pass
        assert (tmp_path / "a/mine").read_text() == "dear"
        with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a", overwrite=True):
            raise ZeroDivisionError
        assert [path.name for path in tmp_path.rglob("*")] == ["a", "mine"]

    def test_file_and_folder_are_flushed_before_and_after_the_rename(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[bool, bool]] = []
        flush = os.fsync

        def noted(handle: int) -> None:
            seen.append((Path(f"/proc/self/fd/{handle}").resolve() == tmp_path, (tmp_path / "a").exists()))
            flush(handle)

        monkeypatch.setattr(os, "fsync", noted)
        with new_file(tmp_path / "a") as file:
            file.write(b"x")
        assert seen == [(False, False), (True, True)]

    def test_checkpoints_are_written_so_and_read_without_pickle(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return Path(tmp_path / "pwned").touch, ()

        io = WholeCheckpoints()
        io.save_checkpoint({"a": torch.ones(2)}, tmp_path / "x.ckpt")
        assert torch.equal(io.load_checkpoint(tmp_path / "x.ckpt", weights_only=False)["a"], torch.ones(2))
        with no_file_over(100), pytest.raises(MachineError, match="free some space"):
            io.save_checkpoint({"a": torch.zeros(99)}, tmp_path / "x.ckpt")
        assert torch.equal(io.load_checkpoint(tmp_path / "x.ckpt")["a"], torch.ones(2))
        torch.save({"a": Evil()}, tmp_path / "evil.ckpt")
        with pytest.raises(Exception, match=r"weights_only|Weights only"):
            io.load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
        assert not (tmp_path / "pwned").exists()

    def test_safetensors_too(self, tmp_path: Path) -> None:
        with no_file_over(100), pytest.raises(MachineError, match="free some space"), new_folder(tmp_path / "a") as a:
            save_file({"a": torch.zeros(999)}, a / "w.safetensors")
        assert list(tmp_path.iterdir()) == []
        with new_folder(tmp_path / "a") as a:
            save_file({"a": torch.zeros(9)}, a / "w.safetensors")
        assert load_file(tmp_path / "a/w.safetensors")["a"].shape == (9,)
