"""Timings are taken once, kept, and lead to the faster way."""

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from switchq.inference import SwitchableLM, tuning
from switchq.inference.kernels import Integer
from switchq.inference.tuning import Timing, timing
from switchq.nn import get_switch
from switchq.quant import Nested

GRID = Nested()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tuning, "_TIMINGS", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def timed() -> Timing:
    params = GRID.fit(torch.randn(16, 32), 4)
    codes_OI = torch.zeros(16, 32, dtype=torch.int8)
    return timing("a kind", Integer(codes_OI, params, 4), lambda: GRID.decode(codes_OI, params))


def test_measured_once_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = timed()
    assert first.kernel > 0
    monkeypatch.setattr(tuning, "_measure", lambda *_: pytest.fail("measured again"))
    assert timed() == first
    monkeypatch.setattr(tuning, "_TIMINGS", {})
    assert timed() == first
    assert (tmp_path / "switchq" / "kernels.json").is_file()


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', "\x00", json.dumps({tuning.machine(): [1]})])
def test_a_damaged_file_is_measured_again(content: str, tmp_path: Path) -> None:
    (tmp_path / "switchq").mkdir()
    (tmp_path / "switchq" / "kernels.json").write_text(content)
    assert timed().decode > 0


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "switchq").write_text("a file")
    assert timed().decode > 0


@pytest.mark.parametrize(
    ("kernel_long", "dense_long", "decode", "tokens"),
    [(256, 512, 100, None), (256, 256, 100, None), (512, 256, 100, 100), (512, 256, 1, 16)],
)
def test_where_decoding_pays(kernel_long: float, dense_long: float, decode: float, tokens: int | None) -> None:
    assert Timing(1, 1, kernel_long, dense_long, decode).tokens_to_decode == tokens


@pytest.mark.parametrize("bits", [8, 4])
def test_long_inputs_take_the_decoded_weight(
    bits: int, trained: object, export: object, tmp_path: Path, tokens_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kernels that are said to be slow, a prompt gives the numbers of training; one token does not."""
    model: PreTrainedModel = trained()  # type: ignore[operator]
    export(model, tmp_path / "artifact")  # type: ignore[operator]
    monkeypatch.setattr(tuning, "_measure", lambda *_: Timing(3.0, 1.0, 512, 256, 1))
    lm = SwitchableLM.from_pretrained(tmp_path / "artifact", bits)
    plain = SwitchableLM.from_pretrained(tmp_path / "artifact", bits, packed=False)
    assert get_switch(lm.model).layers[0].linear.ready.long == 16  # type: ignore[attr-defined]
    torch.testing.assert_close(lm(tokens_BT).logits, plain(tokens_BT).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(lm(tokens_BT[:1, :3]).logits, plain(tokens_BT[:1, :3]).logits, rtol=1e-6, atol=1e-6)
    assert lm.slower_than_float32() == {bits: 3.0}
    assert plain.slower_than_float32() == {}
