"""Figures in sentences: one of a thing is one of it, not one of them. Commands that a shell takes."""

import shlex
from pathlib import Path

import pytest
from rich.console import Console

from switchq.commands import verify
from switchq.commands.search_live import live_bar
from switchq.posttraining.report.sections.search import _named
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


@pytest.mark.parametrize(
    ("known", "said"),
    [(0, ""), (1, "1 evaluation is known"), (5, "5 evaluations are known")],
)
def test_what_an_unfinished_search_knows(known: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with live_bar(known):
        pass
    told = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert told == ([f"Going on with an unfinished search: {said}"] if said else [])


def test_layers_of_a_bitmap_that_is_written_out() -> None:
    assert _named({"bitmap": "8,4"}) == "1 layer at 8, 1 at 4"
    assert _named({"bitmap": "8,8,4"}) == "2 layers at 8, 1 at 4"


@pytest.mark.parametrize(
    ("files", "said"),
    [(["a"], "1 file has the hash that was saved"), (["a", "b"], "2 files have the hashes that were saved")],
)
def test_files_that_were_verified(
    files: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "read_fixed", lambda folder: (None, dict.fromkeys(files)))
    monkeypatch.setattr(verify, "check_files", lambda folder, files: None)
    monkeypatch.setattr(verify, "show_fixed", lambda console, title, fixed: None)
    verify._verify_fixed(Console(), Path("folder"))
    assert capsys.readouterr().out == f"{said}\n"
