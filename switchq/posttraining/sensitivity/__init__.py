"""How much each layer suffers at each width, by several scores, and the file that says so."""

from switchq.posttraining.sensitivity.divergence import divergences
from switchq.posttraining.sensitivity.fisher import fisher_scores
from switchq.posttraining.sensitivity.measure import SCORES, Score, measure
from switchq.posttraining.sensitivity.outputs import output_errors
from switchq.posttraining.sensitivity.ranking import correlations
from switchq.posttraining.sensitivity.result import Sensitivity

__all__ = [
    "SCORES",
    "Score",
    "Sensitivity",
    "correlations",
    "divergences",
    "fisher_scores",
    "measure",
    "output_errors",
]
