import logging
import warnings

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from switchq.evaluation.decode import decode, newline_ids

TEXTS = ["Hi", "A longer prompt, with more words.", "x", "Three little pigs went to", "The end is near; so is 42"]


@pytest.fixture
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def steer(model: PreTrainedModel, after: int, token: int) -> None:
    """Make a model without biases say `token` whenever the last token is `after`."""
    head = model.get_output_embeddings()

    def force(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[steer.last == after, -1, token] = 1e4  # type: ignore[attr-defined]
        return output

    def remember(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        steer.last = kwargs["input_ids"][:, -1]  # type: ignore[attr-defined]

    model.register_forward_pre_hook(remember, with_kwargs=True)
    head.register_forward_hook(force)


@torch.no_grad()
def naive_greedy(model: PreTrainedModel, prompt: list[int], stops: set[int], most: int) -> list[int]:
    """One prompt, no padding, no cache, no `generate`."""
    ids = list(prompt)
    while len(ids) < len(prompt) + most:
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


def test_batched_decoding_equals_a_naive_loop(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    stops = {tokenizer.eos_token_id, *newline_ids(tokenizer)}
    decoded = decode(model, tokenizer, prompts, max_new_tokens=12, batch_size=3)
    expected = [naive_greedy(model, prompt, stops, 12) for prompt in prompts]
    assert decoded.tokens == [len(ids) for ids in expected]
    texts = [tokenizer.decode(ids, skip_special_tokens=True).split("\n")[0].strip() for ids in expected]
    assert decoded.texts == texts
    assert len(set(texts)) == len(texts), "the prompts no longer lead to different texts, so the test shows little"


def test_batched_decoding_equals_generate_one_by_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    decoded = decode(model, tokenizer, prompts, max_new_tokens=12, batch_size=5)
    for prompt, text in zip(prompts, decoded.texts, strict=True):
        ids = torch.tensor([prompt])
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, len(prompt) :]
        assert text == tokenizer.decode(alone, skip_special_tokens=True).split("\n")[0].strip()


@pytest.mark.parametrize("stop", ["\n", "<eos>"])
def test_a_row_stops_alone(gpt2: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop: str) -> None:
    (q,) = tokenizer("Q")["input_ids"]
    (token,) = tokenizer(stop)["input_ids"]
    steer(gpt2, q, token)
    prompts = [tokenizer(text)["input_ids"] for text in ("ab", "this one stops Q")]
    decoded = decode(gpt2, tokenizer, prompts, max_new_tokens=5, batch_size=2)
    assert decoded.tokens[1] == 1
    assert decoded.texts[1] == ""
    assert decoded.tokens[0] > 1


def test_a_newline_cuts_the_text(gpt2: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    q, a, newline = (tokenizer(text)["input_ids"][0] for text in ("Q", "A", "\n"))
    steer(gpt2, q, a)
    steer(gpt2, a, newline)
    decoded = decode(gpt2, tokenizer, [[q]], max_new_tokens=5)
    assert (decoded.texts, decoded.tokens) == (["A"], [2])


def test_the_models_own_settings_do_not_leak(
    gpt2: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    plain = decode(gpt2, tokenizer, prompts, max_new_tokens=8)
    own = GenerationConfig(
        do_sample=True, temperature=5.0, top_p=0.5, repetition_penalty=9.0, min_new_tokens=7, suppress_tokens=[65, 66]
    )
    gpt2.generation_config = own
    state = torch.random.get_rng_state()
    assert decode(gpt2, tokenizer, prompts, max_new_tokens=8).texts == plain.texts
    assert gpt2.generation_config is own
    assert own.do_sample is True
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_message_is_printed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            decode(model, tokenizer, prompts, max_new_tokens=4, batch_size=2)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
    assert "".join(capfd.readouterr()) == ""


def test_counts_and_progress(
    gpt2: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    done: list[int] = []
    decoded = decode(gpt2, tokenizer, prompts, max_new_tokens=3, batch_size=2, advance=done.append)
    assert done == [2, 2, 1]
    assert decoded.tokens_per_s == pytest.approx(sum(decoded.tokens) / decoded.seconds)
    assert decode(gpt2, tokenizer, []).texts == []


def test_newline_ids_of_merged_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert [tokenizer.decode([i]) for i in newline_ids(tokenizer)] == ["\n"]
