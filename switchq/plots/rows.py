"""What charts are made of, and what they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

Rows = Sequence[Mapping[str, Any]]
"""One mapping of plain values per mark."""

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart


def data(rows: Rows) -> alt.Data:
    """Rows inside the chart, however many."""
    return alt.Data(values=[dict(row) for row in rows])
