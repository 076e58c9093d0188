"""CPT's precision range test on learners whose right answer is known."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from workshop import Workshop, assert_same, trained

from switchq.nn import at, get_switch
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


def test_shares_of_a_batch_step_as_the_whole_of_it(workshop: Workshop) -> None:
    """Two devices with unlike shares, one after the other: what the first would have sent is added to the second's."""
    batch = batches(workshop)[0]
    count = torch.tensor(float((batch["labels"] != -100).sum()))
    sent: list[Tensor] = []

    def stepped(share: slice, add_up: Callable[[Sequence[Tensor]], None] | None) -> tuple[dict[str, Tensor], float]:
        module = workshop.module()
        if add_up is not None:
            module.add_up, module.joint_count = add_up, lambda _: count  # type: ignore[method-assign]
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        with at(module.model, 8):
            accuracy = range_test._train_once(module, {key: value[share] for key, value in batch.items()}, optimizer)
        return trained(module), accuracy

    whole, of_all = stepped(slice(None), None)
    stepped(slice(1), lambda tensors: sent.extend(one.clone() for one in tensors))

    def add_what_was_sent(tensors: Sequence[Tensor]) -> None:
        for one, other in zip(tensors, sent, strict=True):
            one.add_(other)

    joint, of_both = stepped(slice(1, None), add_what_was_sent)
    assert of_both == pytest.approx(of_all)
    assert_same(joint, whole, exact=False)
