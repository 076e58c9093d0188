import pytest
import torch

from switchq.errors import UserError
from switchq.models import pick_device
from switchq.models.device import own_gpu


def test_auto_is_the_gpu_if_there_is_one() -> None:
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_by_name() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["gpu", "", "cuda:99", "cpu:x", "cpu:3", "meta", "meta:0", "privateuseone", "xla"])
def test_a_device_that_is_not_there(wanted: str) -> None:
    offered = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
    with pytest.raises(UserError, match=f"no device '{wanted}'.*use {offered}$"):
        pick_device(wanted)


@pytest.mark.parametrize(("wanted", "made_current"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_a_gpu_named_by_number_becomes_the_current_one(
    wanted: str, made_current: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[str] = []
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(str(device)))
    assert str(pick_device(wanted)) == wanted
    assert current == made_current


@pytest.mark.parametrize(
    ("gpus", "current", "rank", "found"),
    [
        (0, None, "1", None),
        (2, 0, None, "cuda:0"),
        (2, 1, None, "cuda:1"),
        (2, 0, "1", "cuda:1"),
        (1, 0, "1", "cuda:0"),
    ],
)
def test_the_gpu_of_a_process(
    gpus: int, current: int | None, rank: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert own_gpu() == (torch.device(found) if found else None)
