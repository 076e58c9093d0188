"""The folder of a transfer.

statistics.safetensors   what was extracted from the source, entry by entry
source/, target/         sweeps, as `switchq ptq` keeps them: every run is there as soon as it is scored
transfer.json            what it came to
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from switchq.errors import UserError
from switchq.evaluation import write_json
from switchq.files import is_left_over
from switchq.posttraining.ptq.folder import SweepFolder
from switchq.posttraining.transfer.results import Outcome
from switchq.posttraining.transfer.statistics import SourceStatistics, read_statistics

KIND, VERSION = "transfer", 1

PARTS = ("statistics.safetensors", "source", "target", "transfer.json")


class TransferFolder:
    """Where everything lies.

    Args:
        path: the folder; made when something is written.

    Raises:
        UserError: not a folder, or a folder of something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.statistics, self.results = self.path / PARTS[0], self.path / PARTS[3]
        self.source, self.target = SweepFolder(self.path / "source"), SweepFolder(self.path / "target")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"cannot write to {self.path}: it is a file; give --output the name of a folder")
        found = list(self.path.iterdir()) if self.path.is_dir() else []
        strange = [one.name for one in found if one.name not in PARTS and not is_left_over(one)]
        if strange:
            raise UserError(f"{self.path} holds something else ({min(strange)}): give another --output")

    def check(self, overwrite: bool) -> None:
        """Refuse early what the sweeps would refuse."""
        for sweep in (self.source, self.target):
            sweep.check(overwrite)

    def clear(self) -> None:
        """Remove what an earlier transfer left."""
        self.statistics.unlink(missing_ok=True)
        self.results.unlink(missing_ok=True)
        shutil.rmtree(self.source.path, ignore_errors=True)

    def kept_statistics(self, fresh: SourceStatistics) -> SourceStatistics:
        """What was extracted before from the same model with the same setting, or `fresh`.

        Raises:
            UserError: it was extracted from another model or with another setting, or the file is damaged.
        """
        if not self.statistics.is_file():
            return fresh
        found = read_statistics(self.statistics)
        if found.source.sha256 != fresh.source.sha256:
            raise UserError(
                f"{self.statistics} was extracted from {found.source.name}, whose weights are not those of "
                f"{fresh.source.name}: give another --output, or --overwrite"
            )
        if dict(found.setting) != json.loads(json.dumps(dict(fresh.setting))):
            raise UserError(
                f"{self.statistics} was extracted with another setting: give another --output, or --overwrite"
            )
        return found

    def write(self, header: Mapping[str, Any], outcome: Outcome) -> None:
        """Write the results."""
        write_json(self.results, {"kind": KIND, "version": VERSION, **header, **asdict(outcome)})

    def close(self) -> None:
        """Let go of the sweeps."""
        for sweep in (self.source, self.target):
            sweep.close()
