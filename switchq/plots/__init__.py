"""Charts: rows of plain values in, Vega-Altair charts out, and what turns a chart into SVG or PNG."""
