"""Figures in sentences: one of a thing is one of it, not one of them. Commands that a shell takes."""

import shlex
from pathlib import Path

import pytest

from switchq.words import command_line, count_of


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


def test_a_command_survives_a_shell() -> None:
    words = ["switchq", "eval", "--ckpt", "my runs/last $1.ckpt", "--bitmap", "@s.json"]
    assert shlex.split(command_line(*words)) == words
    assert command_line("switchq", "eval", "--bitmap", 8, Path("a/b")) == "switchq eval --bitmap 8 a/b"
