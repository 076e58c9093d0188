"""Greedy answers from a causal language model, in batches, with a key-value cache; batches are split over devices.

Prompts are sorted by length and padded on the left, so that the last column of every batch is a real token and each
step appends one column. Position ids follow from the attention mask (GPT-2, OPT and Llama models derive them in
`generate`), so that a row does not notice its padding. A row stops at the eos token or at the first token that holds a
newline; its text is what comes before either. The model's own generation settings (sampling, penalties, forced tokens)
are set aside for the call, so that the same weights always give the same text.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.batches import left_pad
from switchq.models.inference import own_generation_config
from switchq.parallel import split_map


@dataclass(frozen=True)
class Decoded:
    """Generated texts.

    Attributes:
        texts: one per prompt, in the order given: up to eos or the first newline, stripped.
        tokens: tokens generated per prompt, with the one that stopped it.
        seconds: wall-clock time inside `generate`, summed over all batches, whichever device they ran on.
    """

    texts: list[str]
    tokens: list[int]
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second on one device, reading the prompts included."""
        return sum(self.tokens) / self.seconds if self.seconds else 0.0


def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 32,
    min_new_tokens: int = 0,
    batch_size: int = 16,
    advance: Callable[[int], object] | None = None,
) -> Decoded:
    """Continue each prompt greedily.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer, with an eos token.
        prompts: token ids; the caller sees to it that prompt and `max_new_tokens` fit the context window.
        max_new_tokens: most tokens to generate per prompt.
        min_new_tokens: generate at least so many, by keeping off the tokens that stop.
        batch_size: prompts per batch.
        advance: called after each batch with the number of prompts done, e.g. to move a progress bar.
    """
    eos = int(tokenizer.eos_token_id)
    pad = eos if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    stops = frozenset({eos, *newline_ids(tokenizer)})
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=sorted(stops),
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
    )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    generate: Any = model.generate

    def answers(rows: list[int]) -> tuple[list[list[int]], float]:
        ids_BT, mask_BT = left_pad([prompts[i] for i in rows], pad, model.device)
        began = _clock(model.device)
        output_BT = generate(ids_BT, attention_mask=mask_BT, generation_config=config)
        return output_BT[:, ids_BT.shape[1] :].tolist(), _clock(model.device) - began

    with own_generation_config(model, config):
        found = split_map(answers, batches, advance, len)
    texts, tokens = [""] * len(prompts), [0] * len(prompts)
    for rows, (written, _) in zip(batches, found, strict=True):
        for i, new in zip(rows, written, strict=True):
            length = next((at + 1 for at, token in enumerate(new) if token in stops), len(new))
            tokens[i], texts[i] = length, _text(tokenizer, new[:length])
    return Decoded(texts, tokens, sum(seconds for _, seconds in found))


@lru_cache(maxsize=4)
def newline_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids of the tokens whose text holds a newline."""
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return tuple(i for i, piece in enumerate(pieces) if "\n" in piece)


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).partition("\n")[0].strip()


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
