import pytest
import torch

from switchq.errors import UserError
from switchq.models import pick_device


def test_auto_is_the_gpu_if_there_is_one() -> None:
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_by_name() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["gpu", "", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there(wanted: str) -> None:
    with pytest.raises(UserError, match=f"no device '{wanted}'.*use auto, cpu or cuda"):
        pick_device(wanted)
