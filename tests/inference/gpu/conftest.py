"""Where the kernels run in tests: on a GPU, else interpreted by Triton on the CPU, else nowhere."""

import os
from importlib.util import find_spec

import pytest
import torch

from switchq.inference.artifact import Artifact
from switchq.inference.gpu.kernel import PlanesKernel, PlaneStore, products
from switchq.inference.source import ArtifactSource, Prefer


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device on which Triton runs here; on a CPU artifacts are loaded as for a GPU, in float16."""
    if find_spec("triton") is None:
        pytest.skip("needs triton")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") != "1":  # read when triton is imported
        pytest.skip("needs a GPU, or TRITON_INTERPRET=1 in the environment")
    monkeypatch.setattr(PlanesKernel, "_products", lambda self: products())
    monkeypatch.setattr("switchq.inference.model._dtype_on", lambda device, dtype: dtype or torch.float16)
    monkeypatch.setattr("switchq.inference.model.ArtifactSource", AsOnAGpu)
    return torch.device("cpu")


class AsOnAGpu(ArtifactSource):
    """Keeps planes as words on a CPU."""

    def __init__(
        self, artifact: Artifact, packed: bool, device: torch.device, dtype: torch.dtype, prefer: Prefer
    ) -> None:
        super().__init__(artifact, packed, device, dtype, prefer)
        self.store = PlaneStore(device)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are loaded as for a GPU without Triton, on the CPU and in float32."""
    monkeypatch.setattr("switchq.inference.model.ArtifactSource", AsOnAGpu)


@pytest.fixture
def gpu() -> torch.device:
    """A GPU, with Triton."""
    if not torch.cuda.is_available() or find_spec("triton") is None:
        pytest.skip("needs a GPU and triton")
    return torch.device("cuda")
