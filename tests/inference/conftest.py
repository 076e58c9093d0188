"""Tiny switchable models on a nested grid, and artifacts of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from switchq.inference import Exported, export_artifact
from switchq.models import make_switchable
from switchq.quant import Grid, Nested

WIDTHS = (8, 4, 2)
BASE = {"name": "tiny", "sha256": "0" * 64}

Build = Callable[..., PreTrainedModel]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Timings of this machine are kept where the test can see them."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "switchq" / "kernels.json"


@pytest.fixture(scope="session")
def trained(tiny: Build) -> Build:
    """`trained("gpt2", grid=Nested(16))`: a switchable model whose adapters do something, in values float16 holds."""

    def build(architecture: str = "gpt2", grid: Grid = Nested(), **options: Any) -> PreTrainedModel:
        model = make_switchable(tiny(architecture), WIDTHS, grid, **{"rank": {8: 2, 4: 3, 2: 4}} | options)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                values = torch.randn(parameter.shape, generator=generator) * 0.1
                parameter.data = values.half().float()
        return model.eval()

    return build


@pytest.fixture(scope="session")
def export(character_tokenizer: PreTrainedTokenizerFast) -> Callable[..., Exported]:
    """`export(model, folder, embedding_bits=8)`."""

    def write(model: PreTrainedModel, folder: Path, embedding_bits: Any = 32, **options: Any) -> Exported:
        options = {"widths": WIDTHS, "base": BASE, **options}
        return export_artifact(model, character_tokenizer, folder, embedding_bits=embedding_bits, **options)

    return write
