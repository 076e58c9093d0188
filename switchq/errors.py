"""The exceptions that are the user's to read: the command line prints their message on one line and exits."""

from collections.abc import Mapping
from typing import Any


class UserError(ValueError):
    """Something the caller can mend: a wrong value, a damaged file, a missing connection.

    The message is one line that says what is wrong and what to do about it.

    Attributes:
        exit_code: of the command that fails with it.
    """

    exit_code = 2


class MachineError(UserError):
    """The machine gave way, not the command: a full disk, no memory left, a GPU or a process that was lost.

    The same command may work when that is mended, and goes on where it keeps what it has done.
    """

    exit_code = 3


def reason(error: Exception) -> str:
    """What an error of reading a file says, without the path, which the message that it goes into has already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def check_unchanged(group: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the options of a checkpoint, as far as it has them, with those given now; what is empty is alike.

    Raises:
        UserError: one is another; `group` is what they belong to on the command line.
    """
    for name, value in now.items():
        if name in before and (before[name] or None) != (value or None):
            raise UserError(
                f"the checkpoint was trained with {group}.{name} {before[name]}, not {value}: use the same, or start "
                f"anew without --ckpt_path"
            )
