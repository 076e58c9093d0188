"""Plans, the weights of their passes, and distillation losses."""

import pytest
import torch
from torch.nn import functional as F

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.training.losses import distillation, non_finite, top_k_distillation
from switchq.training.passes import Pass, check_plan, shares, targets

EIGHT, MIXED = Bitmap([8, 8, 8, 8]), Bitmap([8, 2, 2, 4])


@pytest.mark.parametrize(
    ("steps", "weights"),
    [
        pytest.param([False, False, False], [1 / 3] * 3, id="one step shared by three"),
        pytest.param([True, True, True], [1.0] * 3, id="a step each"),
        pytest.param([False, True, False], [1 / 2, 1 / 2, 1.0], id="two then one"),
    ],
)
def test_each_optimiser_step_is_a_mean_over_its_passes(steps, weights):
    assert shares(tuple(Pass(EIGHT, step=step) for step in steps)) == pytest.approx(weights)


def test_a_pass_that_only_teaches_takes_no_share():
    plan = (Pass(EIGHT, ce=0.0), Pass(EIGHT, teachers=(0,)), Pass(EIGHT))
    assert shares(plan) == pytest.approx([0.0, 1 / 2, 1 / 2])
    assert [one.learns for one in plan] == [False, True, True]


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param((), id="empty"),
        pytest.param((Pass(EIGHT, ce=0.0),), id="nothing learns"),
        pytest.param((Pass(EIGHT, teachers=(1,)), Pass(EIGHT)), id="teacher comes later"),
        pytest.param((Pass(EIGHT, teachers=(0,)),), id="teaches itself"),
    ],
)
def test_impossible_plans_are_refused(plan):
    with pytest.raises(UserError):
        check_plan(plan)


def test_labels_of_logs():
    assert [Pass(EIGHT).label, Pass(MIXED).label, Pass(EIGHT, adapters=False).label] == ["8", "mixed", "8 bare"]


def test_distillation_is_the_kl_divergence_and_zero_for_an_equal_teacher():
    student_NV, teacher_NV = torch.randn(5, 11), torch.randn(5, 11)
    p, q = (teacher_NV / 2).softmax(-1), (student_NV / 2).softmax(-1)
    by_hand = 4 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(distillation(student_NV, teacher_NV, 2.0), by_hand)
    assert distillation(teacher_NV, teacher_NV).abs() < 1e-6


def test_top_k_distillation_with_all_tokens_is_the_full_cross_entropy():
    student_NV, teacher_NV = torch.randn(4, 7), torch.randn(4, 7)
    logprobs_NK, ids_NK = teacher_NV.log_softmax(-1).topk(7)
    full = F.cross_entropy(student_NV, teacher_NV.softmax(-1))
    torch.testing.assert_close(top_k_distillation(student_NV, ids_NK, logprobs_NK), full)


def test_targets_are_shifted_by_one_and_leave_out_unlabelled_tokens():
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.long),
        "labels": torch.tensor([[-100, -100, 7, 8]]),
    }
    inputs, where_N, targets_N = targets(batch)
    assert where_N.tolist() == [1, 2]
    assert targets_N.tolist() == [7, 8]
    assert set(inputs) == {"input_ids"}


def test_the_first_loss_that_is_not_finite_is_named():
    good, bad = torch.tensor(1.0), torch.tensor(float("nan"))
    assert non_finite(["8", "2"], [good, bad]) == "2"
    assert non_finite(["8", "2"], [good, good]) is None
