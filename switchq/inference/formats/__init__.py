"""One bitmap of a switchable model in formats that other programs load."""

from switchq.inference.formats.folder import FORMATS, PACKERS, read_folder, write_folder
from switchq.inference.formats.write import KIND, NONE, Fixed, Loss, export_fixed, read_fixed

__all__ = [
    "FORMATS",
    "KIND",
    "NONE",
    "PACKERS",
    "Fixed",
    "Loss",
    "export_fixed",
    "read_fixed",
    "read_folder",
    "write_folder",
]
