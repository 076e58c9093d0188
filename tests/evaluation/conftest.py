"""Tiny random models of every supported architecture, with a byte-level tokenizer made on the spot."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from switchq.data.squad import Question
from switchq.models import make_switchable

EOS = 256
VOCABULARY = 258
WINDOW = 128


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)} | {"<eos>": EOS, "<unk>": EOS + 1}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>")


def tiny_model(architecture: str, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """A random model whose greedy text varies with the prompt."""
    ends = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": EOS}
    config = {
        "gpt2": lambda: GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=WINDOW, vocab_size=vocabulary, **ends),
        "llama": lambda: LlamaConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=WINDOW,
            vocab_size=vocabulary,
            **ends,
        ),
        "opt": lambda: OPTConfig(
            num_hidden_layers=2,
            hidden_size=32,
            ffn_dim=64,
            num_attention_heads=2,
            max_position_embeddings=WINDOW,
            word_embed_proj_dim=24,
            vocab_size=vocabulary,
            **ends,
        ),
    }[architecture]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(params=["gpt2", "llama", "opt"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


@pytest.fixture
def gpt2() -> PreTrainedModel:
    return tiny_model("gpt2")


@pytest.fixture
def switchable() -> PreTrainedModel:
    return make_switchable(tiny_model("gpt2"), bits=(8, 2), rank={8: 2, 2: 4})


@pytest.fixture
def questions() -> list[Question]:
    return [
        Question("a", "The red cat sat.", "Who sat?", ("The red cat", "cat")),
        Question("b", "Ann lives in a tall house in Rome.", "Where?", ("Rome",)),
        Question("c", "Snow is white.", "What colour is it?", ("white",)),
    ]
