"""What kernels may rely on, told by NVIDIA's compute capability."""

from types import SimpleNamespace

import pytest
import torch

from switchq.inference.gpu import decode
from switchq.inference.gpu.device import H200, multiplies, multiprocessors, overlaps

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "has"),
    [
        ((7, 5), (False, False)),
        ((8, 0), (True, False)),
        ((8, 9), (True, False)),
        ((9, 0), (True, True)),
        ((12, 0), (True, True)),
    ],
)
def test_by_capability(capability: tuple[int, int], has: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (multiplies.__wrapped__(GPU), overlaps.__wrapped__(GPU)) == has


def test_no_gpu_of_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)  # as in PyTorch for AMD, whose capabilities are other numbers
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    assert not multiplies.__wrapped__(GPU)
    assert not multiplies(CPU)
    assert not overlaps(CPU)


def test_multiprocessors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles of rows a program where there are more than that."""
    pytest.importorskip("triton")
    from switchq.inference.gpu.products import vector_tile

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=108))
    assert multiprocessors.__wrapped__(GPU) == 108
    assert multiprocessors(CPU) == H200
    tiles = [vector_tile(2048, 2048, 4, count) for count in (108, H200)]
    assert [tile.down for tile in tiles] == [2, 1]


def test_launches_overlap_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    made = []
    monkeypatch.setattr(decode.Decoder, "__init__", lambda self, lm, step: None)
    monkeypatch.setattr(decode, "GraphStep", lambda model, blocks, products, pdl: made.append(pdl))
    lm = SimpleNamespace(model=SimpleNamespace(device=GPU))
    for can in (True, False):
        monkeypatch.setattr(decode, "overlaps", lambda device, can=can: can)
        decode.GraphDecoder(lm)
        decode.GraphDecoder(lm, pdl=False)
    assert made == [True, False, False, False]
