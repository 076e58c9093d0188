"""The journal of a search.

    {"eval": {"bits": [...], "rows": [...], ...}}   one bitmap's values on some of the questions
    {"row": {...}}                                  one row of the table, in the order tried
    {"dev": {...}}                                  one bitmap on the dev set

A search is a deterministic function of these values, so a killed one is repeated from its journal at no cost up to
where it was and ends with the same table, timings included.
"""

from switchq.posttraining.journal import Journal


class SearchJournal(Journal):
    """What a search has evaluated."""

    version = 2
    kinds = ("eval", "row", "dev")
    work = "search"
