"""One self-contained HTML page from any result files of this program."""

from switchq.posttraining.report.page import Report, build, render
from switchq.posttraining.report.sources import UNDERSTOOD, Sources, read_sources

__all__ = ["UNDERSTOOD", "Report", "Sources", "build", "read_sources", "render"]
