"""One bitmap of a switchable model in formats that other programs load."""

from switchq.inference.formats.write import FORMATS, KIND, Fixed, Loss, export_fixed, read_fixed

__all__ = ["FORMATS", "KIND", "Fixed", "Loss", "export_fixed", "read_fixed"]
