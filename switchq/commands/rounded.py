"""A base model that was rounded before."""

import sys
from pathlib import Path

from switchq.evaluation.sealed import check_files, read_seal
from switchq.models.made import is_rounded
from switchq.parallel import is_first


def warn_if_rounded(base: str) -> None:
    """Say that what is called 16 bits is not full precision, where the folder of a model says so.

    Raises:
        UserError: a file of such a folder is missing or has changed.
    """
    if is_first() and is_rounded(base):
        folder = Path(base).expanduser()
        check_files(folder, read_seal(folder)["files"])
        print(
            f"switchq: warning: the weights in {base} are rounded already, so that 16 bits are not full precision "
            f"(switchq verify {base})",
            file=sys.stderr,
        )
