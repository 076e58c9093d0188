"""What passes learn from earlier ones beside their predictions of labels."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from workshop import Workshop, assert_same

from switchq.nn import at, set_bitmap
from switchq.training import losses
from switchq.training.callbacks import InstantNet, SPNet
from switchq.training.losses import cross_entropy, distillation, state_distance, top_k_distillation
from switchq.training.module import SwitchableModule
from switchq.training.teaching import Seen, Teaching

from .test_module import autograd, step_once


def test_the_likeliest_tokens_and_the_rest_are_a_coarser_distribution() -> None:
    student_NV, teacher_NV = torch.randn(6, 9), torch.randn(6, 9)
    whole = distillation(student_NV, teacher_NV, 2.0)
    coarse = [distillation(student_NV, teacher_NV, 2.0, top_k=k) for k in range(1, 9)]
    assert all(one < more for one, more in zip(coarse, coarse[1:]))
    torch.testing.assert_close(coarse[-1], whole)  # the rest is one token
    torch.testing.assert_close(distillation(student_NV, teacher_NV, 2.0, top_k=9), whole)
    assert distillation(teacher_NV, teacher_NV, top_k=3).abs() < 1e-6
    p, q = (teacher_NV / 2).softmax(-1), (student_NV / 2).softmax(-1)
    best_N = p.argmax(-1)
    p_N, q_N = p[range(6), best_N], q[range(6), best_N]
    by_hand = p_N * (p_N / q_N).log() + (1 - p_N) * ((1 - p_N) / (1 - q_N)).log()
    torch.testing.assert_close(coarse[0], 4 * by_hand.mean())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of what operators return for as long as it lives, and the most at once.

    Args:
        there: tensors that do not count.
    """

    def __init__(self, *there: Tensor) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known = {one.untyped_storage()._cdata for one in there}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                self.most = max(self.most, self.live)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def losses_of(
    student_NV: Tensor, teacher_NV: Tensor, targets_N: Tensor, count: Tensor | None
) -> dict[str, Callable[[], Tensor]]:
    """All losses that look at a whole vocabulary."""
    ids_NK = teacher_NV.topk(4).indices
    stored_NK = teacher_NV.float().log_softmax(-1).gather(-1, ids_NK)
    return {
        "labels": lambda: cross_entropy(student_NV, targets_N, count),
        "teacher": lambda: distillation(student_NV, teacher_NV, 2.0, count),
        "its likeliest": lambda: distillation(student_NV, teacher_NV, 2.0, count, top_k=3),
        "stored": lambda: top_k_distillation(student_NV, ids_NK, stored_NK, count),
    }


@pytest.mark.parametrize("name", ["labels", "teacher", "its likeliest", "stored"])
@pytest.mark.parametrize("count", [None, torch.tensor(100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_positions_are_looked_at_in_parts(
    name: str, count: Tensor | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same loss and gradient, for less memory: with a real vocabulary each copy of the logits is gigabytes."""
    student_NV = torch.randn(61, 1000, dtype=dtype, requires_grad=True)
    teacher_NV = torch.randn(61, 1000).to(dtype)
    loss = losses_of(student_NV, teacher_NV, torch.randint(1000, (61,)), count)[name]
    found, copies = {}, {}
    for numbers in (61_000, 1_999):  # all at once, or one position after the other
        monkeypatch.setattr(losses, "NUMBERS", numbers)
        with LiveBytes(student_NV, teacher_NV) as seen:
            value = loss() * len(student_NV)
            found[numbers] = value.detach(), *torch.autograd.grad(value, student_NV)
        copies[numbers] = seen.most / student_NV.nbytes
    torch.testing.assert_close(found[1_999], found[61_000], rtol=16 * torch.finfo(dtype).eps, atol=1e-8)
    assert copies[1_999] < 1.5 < copies[61_000]  # the gradient alone


def test_the_distance_of_states_is_relative() -> None:
    teacher_LNI = torch.randn(3, 4, 5)
    for scale in (1.0, 100.0):
        torch.testing.assert_close(state_distance(1.1 * scale * teacher_LNI, scale * teacher_LNI), torch.tensor(0.01))
    assert state_distance(teacher_LNI, teacher_LNI) == 0


def watched(module: SwitchableModule, batch: dict[str, Tensor], bitmap: str) -> tuple[Tensor, Tensor]:
    """Logits (M, V) that predict real tokens, and hidden states (L, M, I) there."""
    with at(module.model, bitmap):
        output = module.model(batch["input_ids"], output_hidden_states=True)
    real_BM = batch["attention_mask"][:, 1:] == 1
    return output.logits[:, :-1][real_BM], torch.stack([one[:, :-1][real_BM] for one in output.hidden_states[1:]])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_pass_learns_predictions_and_states_at_all_tokens(
    workshop: Workshop, tmp_path: Path, accumulate: int
) -> None:
    module = workshop.module(kd_tokens="all", kd_hidden=0.3, accumulate=accumulate)
    before, _, gradients, batches, logged = step_once(
        workshop, SPNet(["8", "2"], distill=0.5), tmp_path, module, data=workshop.data(pad_multiple=16)
    )
    assert len(batches.seen) == accumulate
    total = torch.zeros(())
    for batch in batches.seen:
        assert (batch["attention_mask"] == 0).any()  # or padding might be learned unseen
        (logits_8, states_8), (logits_2, states_2) = (watched(before, batch, bitmap) for bitmap in ("8", "2"))
        assert len(logits_8) > 3 * (batch["labels"] != -100).sum()
        divergence = F.kl_div(
            logits_2.log_softmax(-1), logits_8.detach().log_softmax(-1), log_target=True, reduction="batchmean"
        )
        teacher = states_8.detach()
        distance = ((states_2 - teacher).square().sum(-1) / teacher.square().sum(-1)).mean()
        for bitmap in ("8", "2"):
            set_bitmap(before.model, bitmap)
            total = total + before.model(**batch).loss
        total = total + 0.5 * (divergence + 0.3 * distance)
        last = divergence.item(), distance.item()
    assert_same(gradients.steps[0], autograd(before, total / (2 * accumulate)), exact=False)
    assert (logged.rows[-1]["kd/2"], logged.rows[-1]["hidden/2"]) == pytest.approx(last, rel=1e-4)


@pytest.mark.parametrize(("teachers", "held"), [("all", [0, 1, 2]), ("next", [0, 1, 1]), ("widest", [0, 1, 1])])
def test_a_teacher_goes_with_its_last_pupil(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teachers: Any, held: list[int]
) -> None:
    """At all tokens of a real vocabulary each holds gigabytes."""
    made: list[weakref.ref[Seen]] = []
    found: list[int] = []
    detached, look = Seen.detached, Teaching.look

    def keep(seen: Seen) -> Seen:
        teacher = detached(seen)
        made.append(weakref.ref(teacher))
        return teacher

    def count(self: Teaching, *args: Any) -> Seen:
        found.append(sum(one() is not None for one in made))
        return look(self, *args)

    monkeypatch.setattr(Seen, "detached", keep)
    monkeypatch.setattr(Teaching, "look", count)
    workshop.fit(InstantNet(["8", "4", "2"], teachers=teachers), tmp_path, 1)
    assert found == held
