import re

import pytest

from switchq.cli import main
from switchq.commands.help_screen import choices, one_kind
from switchq.verbs import COMMANDS


def screen(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `--help` prints, without line breaks in sentences."""
    monkeypatch.setenv("COLUMNS", "100")
    assert main([command, "--help"]) == 0
    return re.sub(r"\s+", " ", capsys.readouterr().out)


@pytest.mark.parametrize("command", [*COMMANDS, "fit", "validate", "test"])
def test_no_types_of_python_and_no_defaults_that_are_none(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = screen(command, capsys, monkeypatch)
    assert text.startswith(f"usage: switchq {command} [")
    assert not re.findall(r"type: |Optional\[|default: (?:null|None|False)|\(Literal|--\w+\+", text)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("eval", "--batch_size N questions a batch. (default: 32)"),
        ("eval", "--limit N score only so many questions"),
        ("eval", "--grid {symmetric,asymmetric,nested} of a plain model"),
        ("eval", "--adapters {on,off,both} with the LoRA adapters"),
        ("eval", "--bitmap BITMAP what to run at, repeatable"),
        ("export", "--output OUTPUT folder to write. (required)"),
        ("export", "--embeddings {8,16,32} bits of embeddings"),
        ("export", "--overwrite replace the folder"),
        ("gendata", "--temperature X of the sampling. (default: 1.0)"),
        ("fit", "--model.lr X peak learning rate"),
        ("fit", "--model.balance {true,false} give all passes"),
        ("fit", "--model.rank RANK width -> LoRA rank"),
        ("fit", "or a trained base. (dict[int, int])"),
    ],
)
def test_what_an_option_takes(
    command: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown in screen(command, capsys, monkeypatch)


def test_a_switch_can_be_given_as_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """And what is wrong with the command line is told after it."""
    assert main(["export", "--overwrite", "--output", "x"]) == 2
    assert "--overwrite" not in capsys.readouterr().err


def test_kinds() -> None:
    for written in ("int", "int | null", "Optional[int]", "list[int]", "Optional[list[int]]", "list[int] | null"):
        assert one_kind(written) == "int"
    assert one_kind("dict[int, int] | null") == "dict[int, int]"
    assert choices("Literal['a', 'b']") == "{a,b}"
    assert choices("Literal[8, 16]") == "{8,16}"
    assert choices("Sequence[Literal['a']]") is choices("int") is None
