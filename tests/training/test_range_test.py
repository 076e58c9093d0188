"""CPT's precision range test on learners whose right answer is known."""

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from workshop import Workshop, assert_same, trained

from switchq.nn import get_switch
from switchq.training import range_test
from switchq.training.range_test import precision_range_test


def batches(workshop: Workshop, count: int = 4) -> list[dict[str, Tensor]]:
    data = workshop.data(batch_size=8)
    data.setup("fit")
    return list(islice(iter(data.train_dataloader()), count))


def test_weights_bitmap_and_gradients_are_as_before(workshop: Workshop) -> None:
    module = workshop.module()
    before = trained(module)
    precision_range_test(module, batches(workshop), (8, 4, 2), 3)
    assert_same(trained(module), before)
    assert str(get_switch(module.model).bitmap) == "16"
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("grows", "found"),
    [({2, 4, 8}, 2), ({4, 8}, 4), ({8}, 8), (set(), 8)],
    ids=["2 learns", "4 learns", "8 learns", "none learns"],
)
def test_the_narrowest_width_that_learns(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, grows: set[int], found: int
) -> None:
    counts: dict[int, int] = {}

    def accuracy(learner: Any, *_: Any) -> float:
        bits = get_switch(learner.model).bitmap[0]
        counts[bits] = counts.get(bits, 0) + 1
        return 0.1 + 0.05 * counts[bits] * (bits in grows)

    monkeypatch.setattr(range_test, "_train_once", accuracy)
    assert precision_range_test(workshop.module(), batches(workshop), (8, 2, 4), 4) == found


def test_a_learner_that_can_learn_at_two_bits_is_found_out(workshop: Workshop) -> None:
    one = batches(workshop)[:1]
    assert precision_range_test(workshop.module(lr=3e-2), one, (8, 4, 2), 30) == 2
    assert precision_range_test(workshop.module(lr=0.0), one, (8, 4, 2), 4) == 8


def test_accuracy_is_that_of_the_tokens_with_a_loss(workshop: Workshop) -> None:
    module, batch = workshop.module(), batches(workshop)[0]
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0)
    with torch.no_grad():
        guesses = module.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].argmax(-1)
    taken = batch["labels"][:, 1:] != -100
    expected = (guesses == batch["labels"][:, 1:])[taken].float().mean()
    assert range_test._train_once(module, batch, optimizer) == pytest.approx(float(expected))
