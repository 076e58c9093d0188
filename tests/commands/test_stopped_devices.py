"""Work on two processes that is stopped: by Ctrl-C once and twice, by SIGTERM, and by the death of one of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from workshop import Workshop

from switchq import parallel
from switchq.commands.devices import on_devices
from switchq.mishaps import explain_mishap

from .conftest import write_config

ROOT = Path(__file__).parents[2]

STEPS = 2
"""Steps that a stopped run goes on to beyond where it was stopped."""

BATCHES = 20
"""Of a step: a run stops only between steps, and the second Ctrl-C has to come before that."""


def command(workshop: Workshop, folder: Path, steps: int) -> list[str]:
    options = {
        "config": write_config(workshop, folder), "model.decay": "constant_with_warmup", "trainer.max_steps": steps,
        "trainer.devices": 2, "trainer.strategy": "ddp", "trainer.limit_val_batches": 0, "summary.enabled": "false",
        "checkpoint.every_n_steps": 1, "model.accumulate": BATCHES,
    }  # fmt: skip
    return [sys.executable, "-m", "switchq.cli", "fit", *(f"--{name}={value}" for name, value in options.items())]


@contextmanager
def processes(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command as the leader of a group of processes, as a terminal starts it; none is left at the end."""
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def second(child: subprocess.Popen[str]) -> int:
    """The process that Lightning has started beside `child`."""
    return int(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()[-1])


def last(folder: Path, version: int) -> Path:
    return folder / f"lightning_logs/version_{version}/checkpoints/last.ckpt"


def weights(folder: Path, version: int) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(last(folder, version), weights_only=True)["state_dict"]
    return content


def once(child: subprocess.Popen[str]) -> None:
    os.killpg(child.pid, signal.SIGINT)


def told(child: subprocess.Popen[str]) -> None:
    """To end, as by a scheduler: the first process only."""
    os.kill(child.pid, signal.SIGTERM)


def twice(child: subprocess.Popen[str]) -> None:
    once(child)
    time.sleep(0.3)
    once(child)


def one_dies(child: subprocess.Popen[str]) -> None:
    os.kill(second(child), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the second process through /proc")
@pytest.mark.parametrize(
    ("stop", "code", "says"),
    [
        (once, 0, "Run the same command with --ckpt_path last to go on."),
        (told, 3, "the run was told to end (SIGTERM). Step"),
        (twice, 130, "switchq: stopped"),
        (one_dies, 3, "--ckpt_path last to go on"),
    ],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C twice", "one dies"],
)
def test_fit_on_two_is_stopped(
    stop: Callable[[subprocess.Popen[str]], None], code: int, says: str, workshop: Workshop, tmp_path: Path
) -> None:
    with processes(command(workshop, tmp_path, 100_000)) as child:
        while child.poll() is None and not last(tmp_path, 0).exists():
            time.sleep(0.02)
        stop(child)
        _, printed = child.communicate(timeout=120)
    assert child.returncode == code, printed
    assert says in printed.splitlines()[-1]
    assert "Traceback" not in printed
    step = torch.load(last(tmp_path, 0), weights_only=True)["global_step"]
    assert step >= 1
    if stop not in (once, told):
        return
    for more in ([], ["--ckpt_path", str(last(tmp_path, 0))]):
        subprocess.run([*command(workshop, tmp_path, step + STEPS), *more], cwd=ROOT, check=True, capture_output=True)
    unbroken, resumed = weights(tmp_path, 1), weights(tmp_path, 2)
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


def dies(number: int, device: str) -> None:
    """The work of two processes, of which one is killed."""
    if parallel.rank() == number:
        os.kill(os.getpid(), signal.SIGKILL)
    parallel.gather(None)


def runs_out(device: str) -> None:
    """The work of two processes, of which one has no memory left."""
    if parallel.rank() == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    parallel.gather(None)


@pytest.mark.parametrize("number", [0, 1])
def test_a_command_tells_of_the_death_of_a_process(number: int) -> None:
    with pytest.raises(Exception, match=r"(reset|closed) by peer|terminated with signal") as caught:
        on_devices(dies, {"number": number, "device": "cpu", "devices": 2})
    assert "another process of this run died" in str(explain_mishap(caught.value, "sensitivity"))


def test_a_command_tells_what_happened_to_a_process() -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught:
        on_devices(runs_out, {"device": "cpu", "devices": 2})
    assert "out of memory: lower --batch_size" in str(explain_mishap(caught.value, "sensitivity"))
