"""A base model that was rounded before."""

import sys

from switchq.models.made import is_rounded
from switchq.parallel import is_first


def warn_if_rounded(base: str) -> None:
    """Say that what is called 16 bits is not full precision, where the folder of a model says so."""
    if is_first() and is_rounded(base):
        print(
            f"switchq: warning: the weights in {base} are rounded already, so that 16 bits are not full precision "
            f"(switchq verify {base})",
            file=sys.stderr,
        )
