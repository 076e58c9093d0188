"""A base model that was rounded before."""

import sys
from pathlib import Path

from switchq.evaluation.sealed import check_files, read_seal
from switchq.models.made import is_rounded
from switchq.parallel import is_first


def check_base(base: str) -> None:
    """Compare the files of a rounded model with what its folder says, and say that its 16 bits are no full precision.

    Raises:
        UserError: a file of such a folder is missing or has changed.
    """
    if not is_rounded(base):
        return
    folder = Path(base).expanduser()
    check_files(folder, read_seal(folder)["files"])
    if is_first():
        print(
            f"switchq: warning: the weights in {base} are rounded already, so that 16 bits are not full precision "
            f"(switchq verify {base})",
            file=sys.stderr,
        )
