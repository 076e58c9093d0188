"""Figures in sentences: one of a thing is one of it, not one of them."""

import pytest

from switchq.words import count_of


@pytest.mark.parametrize(
    ("number", "what", "text"),
    [
        (0, "question", "0 questions"),
        (1, "thread", "1 thread"),
        (1, "batch", "1 batch"),
        (2, "batch", "2 batches"),
        (12_345, "cache hit", "12,345 cache hits"),
    ],
)
def test_a_count_agrees_with_what_it_counts(number: int, what: str, text: str) -> None:
    assert count_of(number, what) == text
