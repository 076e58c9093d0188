"""What sensitivities are sums of, batch by batch, kept in a journal: a killed run goes on where it was.

    {"batch": {"part": "kl", "number": 3, "sums": [[[...]], 96], "seconds": 1.5, ...}}

Numbers are float64 and written in full, and batches are added up in their order: an interrupted run ends with the bits
of an unbroken one, whatever the number of devices of either.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from switchq import parallel
from switchq.errors import UserError
from switchq.evaluation import peak_memory, reset_peak_memory
from switchq.posttraining.calibration import Batch
from switchq.posttraining.journal import Busy, Journal, key_of

OfBatch = Callable[[Batch], tuple[Any, ...]]
"""What a batch adds to the sums: integers, and float64 tensors on the CPU."""

Summed = Callable[[OfBatch, Sequence[Batch]], tuple[Any, ...]]
"""The sums over batches, as `switchq.parallel.split_sum` gives them."""


class SensitivityJournal(Journal):
    """What is measured already."""

    version = 1
    kinds = ("batch",)
    work = "measurement"


class KeptSums:
    """Sums over batches; what the journal holds is not measured again.

    Args:
        journal: where what each batch adds is kept.
        part: what is measured.
        device: where, for the peak of memory.
    """

    def __init__(self, journal: Journal, part: str, device: torch.device) -> None:
        self.journal, self.part, self.device = journal, part, device

    @property
    def known(self) -> dict[int, dict[str, Any]]:
        """The entries of this part, by the number of the batch."""
        return {one["number"]: one for one in self.journal.entries["batch"] if one["part"] == self.part}

    def __call__(self, call: OfBatch, batches: Sequence[Batch]) -> tuple[Any, ...]:
        """The sums of `call`'s values, which are computed for batches that are not known."""
        known = self.known
        missing = [number for number in range(len(batches)) if number not in known]
        reset_peak_memory(self.device)
        began = time.perf_counter()
        for number, values in zip(missing, parallel.split_each(call, [batches[number] for number in missing])):
            now = time.perf_counter()
            entry = {"part": self.part, "number": number, "sums": [_plain(one) for one in values]}
            entry |= {"seconds": now - began, "peak_memory_mb": peak_memory(self.device)[0]}
            self.journal.add("batch", entry)
            began = now
        known = self.known
        rows = [[_value(one) for one in known[number]["sums"]] for number in range(len(batches))]
        return tuple(sum(column[1:], start=column[0]) for column in zip(*rows, strict=True))

    def cost(self) -> dict[str, float]:
        """Seconds of all batches, and on a GPU the peak of memory in MB; those of earlier runs count too."""
        entries = self.known.values()
        cost = {"seconds": sum(one["seconds"] for one in entries)}
        if self.device.type == "cuda":
            cost["peak_memory_mb"] = max(one["peak_memory_mb"] for one in entries)
        return cost


def journal_of(output: str | Path) -> Path:
    """Where the journal of a measurement lies whose result goes to `output`."""
    return Path(output).with_suffix(".journal.jsonl")


def claim(path: Path, header: Mapping[str, Any], overwrite: bool) -> SensitivityJournal:
    """Go on with the unfinished measurement of the same key, or begin one; the first process writes.

    Raises:
        UserError: the journal of another one is in the way, and not to be overwritten; `Busy` if it is being written.
    """
    if not parallel.is_first():
        journal = SensitivityJournal(None, header)
    else:
        try:
            journal = SensitivityJournal(path, header)
        except Busy:
            raise
        except UserError:
            if not overwrite:
                raise
            path.unlink(missing_ok=True)
            journal = SensitivityJournal(path, header)
    journal.share()
    return journal


def measurement_key(record: Mapping[str, Any], settings: Mapping[str, Any], batches: Sequence[Batch]) -> str:
    """A hash of all that decides what a batch adds.

    Args:
        record: of the run.
        settings: of the model and of what is measured.
        batches: by their tokens and what counts of them.
    """
    content = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.inputs["input_ids"], batch.real_N, batch.scored_N, batch.targets_N):
            content.update(f"{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    names = ("base_hash", "checkpoint_sha256", "device", "dtype")
    return key_of({**{name: record[name] for name in names}, "settings": settings, "batches": content.hexdigest()})


def _plain(value: Tensor | int) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _value(plain: Any) -> Any:
    return plain if isinstance(plain, int) else torch.tensor(plain, dtype=torch.float64)
