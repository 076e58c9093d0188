"""What commands say to try next can be pasted: it names all that is needed, and a blank in a path does no harm."""

import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from workshop import Workshop

from switchq.commands.search import _next
from switchq.commands.subject import Subject, load_subject
from switchq.training.identity import BaseIdentity

from .conftest import Outcome, Run, write_config

Switchq = Callable[..., Outcome]
QUESTIONS = {"train": "train.json", "dev": "dev.json", "holdout": 4}
TEXT = {"train": "train.txt", "val": None, "test": "test.txt"}


def trained(data: Mapping[str, Any], base: str | None = None) -> Subject:
    missing = cast(Any, None)
    return Subject(missing, missing, BaseIdentity("b", "0"), (8, 2), "my runs/last.ckpt", {}, data, base)


@pytest.mark.parametrize(
    ("data", "dev", "asked"),
    [
        (QUESTIONS, "dev.json", []),
        (QUESTIONS, None, []),
        (QUESTIONS, "my other.json", ["--data", "my other.json"]),
        (TEXT, "dev.json", ["--data", "dev.json"]),
        (TEXT, None, ["--data", "QUESTIONS.json"]),
    ],
)
def test_a_search_names_the_dev_set_that_the_checkpoint_would_not_take(
    data: dict[str, Any], dev: str | None, asked: list[str]
) -> None:
    words = shlex.split(_next(trained(data), dev, Path("a b/s.json")))
    assert words == ["switchq", "eval", "--ckpt", "my runs/last.ckpt", *asked, "--bitmap", "@a b/s.json"]


def test_a_base_that_was_given_is_given_again(run: Run, workshop: Workshop, tmp_path: Path) -> None:
    moved = tmp_path / "my base"
    shutil.copytree(workshop.base, moved)
    subject = load_subject(str(run.checkpoint), None, base=str(moved))
    assert subject.options == ["--ckpt", str(run.checkpoint), "--base", str(moved)]
    assert load_subject(str(run.checkpoint), None).options == ["--ckpt", str(run.checkpoint)]


def test_folders_with_blanks(workshop: Workshop, tmp_path: Path, switchq: Switchq) -> None:
    root = tmp_path / "my [red] runs"
    root.mkdir()
    done = switchq("fit", "--config", write_config(workshop, root))
    assert done.code == 0, done.err
    checkpoint = root / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    proposed = [shlex.split(line) for line in done.out.partition("Try next")[2].splitlines() if line.strip()]
    assert [words[:4] for words in proposed[:2]] == [["switchq", "eval", "--ckpt", str(checkpoint)]] * 2
    assert proposed[2] == ["tensorboard", "--logdir", str(root / "lightning_logs")]

    output, logs = root / "s 1.json", root / "logs"
    done = switchq("sensitivity", "--ckpt", checkpoint, "--scores", "mse", "--output", output, "--logdir", logs)
    assert done.code == 0, done.err
    heat_map, search = (shlex.split(line) for line in done.out.splitlines()[-2:])
    assert heat_map[2:] == ["tensorboard", "--logdir", str(logs / "version_0")]
    assert search[2:] == ["switchq", "search", "--ckpt", str(checkpoint), "--sensitivity", str(output)]

    folder = tmp_path / "my texts"
    options = ("--source", workshop.train, "--count", 2, "--max_new_tokens", 2, "--output", folder, "--device", "cpu")
    done = switchq("gendata", "--model", workshop.base, *options)
    assert done.code == 0, done.err
    assert shlex.split(done.out.splitlines()[-1])[-2:] == ["--data.train", str(folder)]

    artifact = tmp_path / "my artifact"
    done = switchq("export", "--ckpt", checkpoint, "--output", artifact)
    assert done.code == 0, done.err
    assert [shlex.split(line)[5] for line in done.out.splitlines()[-2:]] == [str(artifact)] * 2
