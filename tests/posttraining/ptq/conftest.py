"""The character tokenizer as `load_tokenizer` would give it."""

import copy

import pytest
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def character_tokenizer(character_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """It pads with its end token."""
    padded = copy.deepcopy(character_tokenizer)
    padded.pad_token = padded.eos_token
    return padded
