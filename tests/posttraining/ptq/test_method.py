"""Methods from YAML and back, and what a wrong entry is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from switchq.errors import UserError
from switchq.posttraining.ptq import Method, Setting, load_methods
from switchq.posttraining.ptq.activations import PerToken
from switchq.posttraining.ptq.rounders.gptq import Gptq
from switchq.posttraining.ptq.rounders.nearest import Nearest
from switchq.posttraining.ptq.statistics import Needs
from switchq.posttraining.ptq.transforms.protect import Protect
from switchq.quant import Asymmetric, Symmetric

METHODS = load_methods()


@pytest.mark.parametrize("name", METHODS)
def test_shipped_methods_survive_a_round_trip(name: str) -> None:
    assert METHODS[name].name == name
    assert Method.from_dict(name, METHODS[name].to_dict()) == METHODS[name]
    METHODS[name].grid_for(Setting(symmetric=True))


def test_which_methods_need_calibration() -> None:
    assert {name for name, one in METHODS.items() if not one.needs()} >= {"rtn", "rtn-mse", "hqq"}
    assert METHODS["gptq"].needs() == Needs.of("gram")
    assert METHODS["awq-sh"].needs() == Needs.of("mean", "mean_square", samples=2048)


def test_the_long_form() -> None:
    content = {
        "transforms": [{"class_path": "transforms.protect.Protect", "init_args": {"share": 0.1}}],
        "rounder": {"class_path": "switchq.posttraining.ptq.rounders.gptq.Gptq", "init_args": {"damp": 0.1}},
        "grid": {"init_args": {"scale": "mse"}},
        "activations": {"class_path": "activations.PerToken", "init_args": {"bits": 4}},
    }
    method = Method.from_dict("mine", content)
    assert method.rounder == Gptq(damp=0.1)
    assert method.transforms == (Protect(share=0.1),)
    assert method.activations == PerToken(4)
    assert method.grid_for(Setting(group_size=32)) == Asymmetric(32, "mse")
    assert method.grid_for(Setting(group_size=None, symmetric=True)) == Symmetric(None, "mse")


def test_a_rounder_of_ones_own_goes_by_its_name() -> None:
    @dataclass(frozen=True)
    class Backwards(Nearest):
        pass

    method = Method.from_dict("mine", {"rounder": "Backwards"})
    assert method.rounder == Backwards()
    assert Method.from_dict("mine", method.to_dict()) == method


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "method m: no rounder"),
        ({"rounder": "rounders.nearest.Nearest", "colour": 1}, "'colour' is no part"),
        ({"rounder": "rounders.nearest.Furthest"}, "no rounder 'rounders.nearest.Furthest'"),
        ({"rounder": "rounders.missing.Nearest"}, "no rounder"),
        ({"rounder": "transforms.protect.Protect"}, "no rounder"),
        ({"rounder": "os.system"}, "no rounder"),
        ({"rounder": ["rounders.nearest.Nearest"]}, "not a class path"),
        (
            {"rounder": {"class_path": "rounders.gptq.Gptq", "init_args": {"damping": 1}}},
            "damping; it takes damp",
        ),
        ({"rounder": {"class_path": "rounders.gptq.Gptq", "init_args": {"damp": -1}}}, "above zero"),
        ({"rounder": {"class_path": "rounders.gptq.Gptq", "init_args": {"damp": "a"}}}, "'damp': 'a'.*wrong type"),
        ({"rounder": {"class_path": "rounders.gptq.Gptq", "init_args": 3}}, "wrong type"),
        ({"rounder": "rounders.nearest.Nearest", "transforms": 3}, "wrong type"),
        ({"rounder": "rounders.nearest.Nearest", "grid": {"init_args": 3}}, "wrong type"),
        ({"rounder": "rounders.nearest.Nearest", "grid": {"class_path": "Hexagonal"}}, "no such grid"),
    ],
)
def test_mistakes(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Method.from_dict("m", content)


@pytest.mark.parametrize("text", ["- a\n", "rtn: 3\n", "rtn: {", ""], ids=["list", "number", "broken", "empty"])
def test_files_that_hold_no_methods(text: str, tmp_path: Path) -> None:
    path = tmp_path / "methods.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"methods\.yaml"):
        load_methods(path)
    with pytest.raises(UserError, match="cannot read"):
        load_methods(tmp_path / "missing.yaml")
