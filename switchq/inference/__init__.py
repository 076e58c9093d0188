"""Artifacts: one folder that holds a model at all its widths, and the model that runs from it."""

from switchq.inference.artifact import Artifact
from switchq.inference.export import Exported, export_artifact
from switchq.inference.formats import export_fixed
from switchq.inference.model import SwitchableLM

__all__ = ["Artifact", "Exported", "SwitchableLM", "export_artifact", "export_fixed"]
