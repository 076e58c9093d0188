import math

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.prompt import Prompt
from switchq.data.squad import Question
from switchq.evaluation.perplexity import TokenPerplexity, answer_perplexity, text_perplexity, token_nll


@torch.no_grad()
def test_answer_perplexity_is_that_of_the_models_own_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> None:
    encoded = Prompt().encode_all(questions, tokenizer, 128)
    total, count = 0.0, 0
    for item in encoded:
        ids = torch.tensor([item.prompt_ids + item.answer_ids])
        labels = ids.clone()
        labels[:, : len(item.prompt_ids)] = -100
        total += float(model(input_ids=ids, labels=labels).loss) * len(item.answer_ids)
        count += len(item.answer_ids)
    expected = math.exp(total / count)
    for batch_size in (1, 2, 3):
        assert answer_perplexity(model, encoded, batch_size=batch_size) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_text_perplexity_is_that_of_the_models_own_loss(model: PreTrainedModel) -> None:
    windows = torch.randint(0, 256, (3, 50), generator=torch.Generator().manual_seed(0))
    expected = math.exp(float(model(input_ids=windows, labels=windows).loss))
    assert text_perplexity(model, windows) == pytest.approx(expected, rel=1e-4)


def test_the_head_runs_at_answer_positions_only(gpt2: PreTrainedModel) -> None:
    rows = []
    gpt2.lm_head.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 7, -100, -100]])
    nll = token_nll(gpt2, labels.clamp(min=0), torch.ones_like(labels), labels)
    assert rows == [3]
    assert nll.shape == (3,)
    assert not nll.requires_grad


def test_perplexity_averages_over_tokens_not_batches() -> None:
    metric = TokenPerplexity()
    metric.update(torch.tensor([1.0, 1.0, 1.0]))
    metric.update(torch.tensor([5.0]))
    assert float(metric.compute()) == pytest.approx(math.exp(2.0))


@pytest.mark.parametrize(("nll", "shown"), [(1000.0, math.inf), (math.nan, math.nan)], ids=["huge", "nan"])
def test_a_broken_model_has_no_finite_perplexity(nll: float, shown: float) -> None:
    metric = TokenPerplexity()
    metric.update(torch.tensor([nll]))
    assert float(metric.compute()) == pytest.approx(shown, nan_ok=True)
