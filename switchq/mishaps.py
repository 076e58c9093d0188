"""What can happen to a machine while a command runs, recognised from the exceptions of the libraries below.

PyTorch tells of most of it by a `RuntimeError` and a text. Nothing heavy is imported: exceptions are known by name.
"""

import re

from switchq.errors import MachineError
from switchq.files import FULL_DISK, as_os_error

NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cannot allocate memory|ALLOC_FAILED|bad_alloc",
    re.IGNORECASE,
)

LOST_DEVICE = re.compile(
    r"CUDA error|CUDA driver error|cuDNN error|NCCL error|CUBLAS_STATUS|device-side assert|uncorrectable"
)

LOST_WORKER = re.compile(r"DataLoader worker.*(killed|exited|died)", re.DOTALL)

LOST_PEER = re.compile(r"(reset|closed) by peer|NCCL.*remote|process \d+ terminated with signal", re.DOTALL)

LOWER = {
    "fit": "--data.batch_size, --data.eval_batch_size or --data.max_length",
    "validate": "--data.eval_batch_size",
    "test": "--data.eval_batch_size",
    "eval": "--batch_size or --window",
    "gendata": "--batch_size or --max_new_tokens",
    "sensitivity": "--batch_size or --window",
    "search": "--batch_size",
    "ptq": "--batch_size, --samples or --blocks_at_once",
    "transfer": "--batch_size, --samples or --blocks_at_once",
    "bench": "--prompt_tokens or --new_tokens",
    "generate": "--max_new_tokens",
}
"""What takes less memory when it is lowered, by command."""

GOES_ON = ("gendata", "sensitivity", "search", "ptq", "transfer")
"""The commands that go on where they were by themselves; `fit` says with `--ckpt_path last` how."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error)))


def lost(error: BaseException) -> bool:
    """Whether nothing after `error` can work: a GPU is gone, a process died, a disk is full."""
    if out_of_memory(error):
        return False
    if type(error).__name__ == "AcceleratorError" or _full(error):
        return True
    if _lost_peer(error):
        return True
    return isinstance(error, RuntimeError) and bool(LOST_DEVICE.search(str(error)) or LOST_WORKER.search(str(error)))


def explain_mishap(error: BaseException, command: str) -> MachineError | None:
    """The one line about an exception that the machine is to blame for; None for any other.

    Args:
        error: what was raised; its notes are kept, and those of the errors in whose handling it was raised: on a
            lost GPU Lightning's own clearing up fails, too, and what is raised is that.
        command: the verb that was running.
    """
    again = "run the same command to go on" if command in GOES_ON else "run the same command again"
    if out_of_memory(error):
        less = f"lower {LOWER[command]}, or " if command in LOWER else ""
        told = f"out of memory: {less}free some memory or use a smaller model; {again}"
    elif not lost(error):
        return None
    elif _full(error):
        told = f"the disk is full ({_where(error)}): free some space; {again}"
    elif LOST_WORKER.search(str(error)):
        told = f"a loader process died ({_first_line(error)}): set --data.num_workers 0 or free some memory; {again}"
    elif _lost_peer(error):
        what = _first_line(error)
        told = f"another process of this run died ({what}): free some memory or use fewer devices; {again}"
    else:
        told = f"the GPU was lost ({_first_line(error)}): see nvidia-smi whether it is there; {again}"
    explained = MachineError(told)
    for note in _notes(error):
        explained.add_note(note)
    return explained


def _notes(error: BaseException | None) -> list[str]:
    """The notes of an error and of those that were being handled when it was raised."""
    notes: list[str] = []
    while error is not None:
        notes += [note for note in getattr(error, "__notes__", ()) if note not in notes]
        error = error.__cause__ or error.__context__
    return notes


def _lost_peer(error: BaseException) -> bool:
    """Whether one of several processes that work together is gone, as the others or their parent are told."""
    is_told = isinstance(error, RuntimeError) or type(error).__name__ == "ProcessExitedException"
    return is_told and bool(LOST_PEER.search(str(error)))


def _full(error: BaseException) -> bool:
    cause = as_os_error(error)
    return cause is not None and cause.errno in FULL_DISK


def _where(error: BaseException) -> str:
    cause = as_os_error(error)
    return str(getattr(cause, "filename", None) or getattr(cause, "strerror", None) or cause)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
