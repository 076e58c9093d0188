"""How much each layer suffers at each width, and the file that says so."""

from switchq.posttraining.sensitivity.result import Sensitivity

__all__ = ["Sensitivity"]
