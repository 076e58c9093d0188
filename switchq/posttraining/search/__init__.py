"""The search for mixed precision: which width each layer should run at."""

from switchq.posttraining.search.evolution import Evolution
from switchq.posttraining.search.metric import Metric, MetricName
from switchq.posttraining.search.objective import Measurement, Objective, Scored
from switchq.posttraining.search.run import Method, run_methods
from switchq.posttraining.search.space import Cost, Group, Space, search_space
from switchq.posttraining.search.study import Study

__all__ = [
    "Cost",
    "Evolution",
    "Group",
    "Measurement",
    "Method",
    "Metric",
    "MetricName",
    "Objective",
    "Scored",
    "Space",
    "Study",
    "run_methods",
    "search_space",
]
