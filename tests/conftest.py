"""What all tests share: a seed, the folder of real data, and tiny random models of every supported architecture."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "opt")

BuildModel = Callable[..., PreTrainedModel]

settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("repeatable")  # a change is judged by the same examples each time; elsewhere by new ones

torch.set_num_threads(1)
"""Models here are too small to share out, and threads that wait for each other on a busy machine cost minutes."""


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """What it does in a shell, and in the processes that tests start; the workers of pytest-xdist ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared: real data and models that are not part of the repository")
    return folder


def build_tiny(architecture: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model of 2 blocks, width 32, 97 tokens and a window of 64, in evaluation mode.

    Weights are drawn wide enough that logits differ visibly from position to position, and biases are not zero.
    """
    common = {"vocab_size": 97, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    sizes: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    if architecture == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64}
    elif architecture == "opt":
        sizes |= {"ffn_dim": 64, "word_embed_proj_dim": 16, "pad_token_id": 1}
    else:
        sizes |= {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.for_model(architecture, **common | sizes | overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="session")
def tiny() -> BuildModel:
    """`tiny("llama", **config)`: a new random model of that architecture, the same one for the same arguments."""
    return build_tiny


@pytest.fixture(scope="session")
def tiny_gpt2() -> BuildModel:
    """`tiny_gpt2(**config)`: a new random GPT-2."""
    return lambda **overrides: build_tiny("gpt2", **overrides)


@pytest.fixture(scope="session")
def tiny_llama() -> BuildModel:
    """`tiny_llama(**config)`: a new random Llama, its head not tied to its embeddings."""
    return lambda **overrides: build_tiny("llama", **overrides)


@pytest.fixture(scope="session")
def tiny_opt() -> BuildModel:
    """`tiny_opt(**config)`: a new random OPT with narrow embeddings, as in OPT-350m."""
    return lambda **overrides: build_tiny("opt", **overrides)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Each supported `model_type` in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tokens_BT() -> torch.Tensor:
    """Token ids (3, 11)."""
    return torch.randint(2, 97, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def character_tokenizer() -> PreTrainedTokenizerFast:
    """96 single-character tokens and `<eos>`, which is 0; it has no padding token."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {"<eos>": 0} | {character: i + 1 for i, character in enumerate(characters)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.fixture(scope="session")
def save_tiny(
    tmp_path_factory: pytest.TempPathFactory, character_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Path]:
    """`save_tiny("opt", **config)`: a new folder with that model and a tokenizer."""

    def save(architecture: str = "gpt2", **overrides: Any) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        build_tiny(architecture, **overrides).save_pretrained(folder)
        character_tokenizer.save_pretrained(folder)
        return folder

    return save
