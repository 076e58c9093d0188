"""Schedules are pure functions of the step: everything here runs without a Trainer."""

import math
from collections import Counter

import pytest

from switchq.bitmap import Bitmap
from switchq.errors import UserError
from switchq.training.callbacks import Cyclic, InstantNet, Schedule, SPNet
from switchq.training.passes import check_plan, shares

NAMES = [f"h.{block}.{part}" for block in range(2) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
LADDER = ["8", "8/4", "4", "4/2", "2"]


def bound(schedule: Schedule, widths=(2, 8, 4)) -> Schedule:
    return schedule.bind(NAMES, widths)


def subclasses(base=Schedule):
    return [
        found for sub in base.__subclasses__() for found in (sub, *subclasses(sub)) if "switchq" in found.__module__
    ]


@pytest.mark.parametrize("schedule", subclasses(), ids=lambda schedule: schedule.__name__)
def test_every_schedule_gives_the_same_valid_plan_for_the_same_step(schedule):
    one, other = bound(schedule()), bound(schedule())
    for step in (0, 1, 17, 1000):
        plan = check_plan(one.passes(step))
        assert plan == other.passes(step) == one.passes(step)
        assert all(len(part.bitmap) == len(NAMES) for part in plan)


def test_spnet_takes_one_step_over_the_ladder():
    plan = bound(SPNet()).passes(3)
    assert [str(one.bitmap) for one in plan] == LADDER
    assert not any(one.step or one.teachers for one in plan)


def test_spnet_can_distil_from_the_widest():
    plan = bound(SPNet(distill=0.5, temperature=2.0)).passes(0)
    assert plan[0].teachers == ()
    assert all((one.teachers, one.kd, one.temperature) == ((0,), 0.5, 2.0) for one in plan[1:])


def test_the_sandwich_keeps_the_ends_and_draws_new_middles():
    schedule = bound(SPNet(sampler="sandwich", mixed=2, seed=1))
    plans = [schedule.passes(step) for step in range(50)]
    assert {(str(plan[0].bitmap), str(plan[-1].bitmap), len(plan)) for plan in plans} == {("8", "2", 4)}
    drawn = [one.bitmap for plan in plans for one in plan[1:-1]]
    assert len(set(drawn)) > 90
    counts = Counter(bits for bitmap in drawn for bits in bitmap)
    assert all(abs(counts[bits] / (len(drawn) * len(NAMES)) - 1 / 3) < 0.05 for bits in (8, 4, 2))
    assert drawn != [one.bitmap for step in range(50) for one in bound(SPNet(sampler="sandwich")).passes(step)[1:-1]]


def test_instantnet_learns_from_every_wider_one():
    plan = bound(InstantNet(weight=1.0)).passes(0)
    assert [one.teachers for one in plan] == [tuple(range(i)) for i in range(5)]
    assert all(one.ce == 1.0 for one in plan)


def test_instantnet_can_learn_from_one_wider_one():
    assert [one.teachers for one in bound(InstantNet(teachers="widest")).passes(0)] == [(), (0,), (0,), (0,), (0,)]
    assert [one.teachers for one in bound(InstantNet(teachers="next")).passes(0)] == [(), (0,), (1,), (2,), (3,)]
    assert bound(InstantNet(teachers="next", bare_teacher=True)).passes(0)[1].teachers == (0,)


def test_instantnet_top_teacher_is_the_bare_model_and_learns_nothing():
    plan = bound(InstantNet(bare_teacher=True)).passes(0)
    assert (str(plan[0].bitmap), plan[0].adapters, plan[0].learns) == ("16", False, False)
    assert [one.teachers for one in plan[1:]] == [tuple(range(i)) for i in range(1, 6)]


def test_instantnet_weight_warms_up():
    schedule = bound(InstantNet(weight=2.0, warmup_steps=4))
    assert [schedule.passes(step)[-1].kd for step in (0, 1, 4, 50)] == pytest.approx([0.4, 0.8, 2.0, 2.0])


def test_cyclic_each_steps_after_every_bitmap():
    plan = bound(Cyclic()).passes(7)
    assert [str(one.bitmap) for one in plan] == LADDER
    assert all(one.step for one in plan)


def test_cyclic_turns_can_learn_from_full_precision():
    plan = bound(Cyclic(mode="turns", bitmaps=["2", "16"], distill=0.5, temperature=2.0)).passes(0)
    assert [one.label for one in plan] == ["16", "2"]
    teacher, pupil = plan
    assert not teacher.learns
    assert teacher.adapters
    assert (pupil.teachers, pupil.kd, pupil.temperature, pupil.ce) == ((0,), 0.5, 2.0, 1.0)
    assert shares(plan) == [0.0, 1.0]
    (alone,) = bound(Cyclic(mode="turns", bitmaps=["2", "16"], distill=0.5)).passes(1)
    assert alone.label == "16"
    assert not alone.teachers
    with pytest.raises(UserError, match="`turns` only"):
        Cyclic(mode="each", distill=0.5)


@pytest.mark.parametrize("schedule", [SPNet, Cyclic, InstantNet])
def test_settings_that_make_no_sense_are_refused(schedule):
    with pytest.raises(UserError, match=r"schedule.temperature must be above 0, not 0"):
        schedule(temperature=0)
    weight = "weight" if schedule is InstantNet else "distill"
    with pytest.raises(UserError, match=rf"schedule.{weight} must be at least 0, not -1"):
        schedule(**{weight: -1})
    assert isinstance(schedule(**{weight: 0}, temperature=0.1), schedule)


def test_cyclic_turns_runs_one_bitmap_a_batch_in_the_order_given():
    schedule = bound(Cyclic(mode="turns", bitmaps=["8", "2", "mixed", "2"]))
    plans = [schedule.passes(step) for step in range(8)]
    assert all(len(plan) == 1 for plan in plans)
    labels = [plan[0].label for plan in plans]
    assert labels == ["8", "2", "mixed", "2"] * 2
    assert plans[2] != plans[6]
    assert plans[6] == bound(Cyclic(mode="turns", bitmaps=["8", "2", "mixed", "2"])).passes(6)
    assert [bound(Cyclic(mode="turns")).passes(step)[0].label for step in range(6)] == [*LADDER, LADDER[0]]


def test_cyclic_cosine_follows_equation_1():
    schedule = bound(Cyclic(mode="cosine", cycles=4, low=3, high=8))
    schedule.total_steps = 400
    for step in range(400):
        (one,) = schedule.passes(step)
        expected = round(3 + 0.5 * 5 * (1 - math.cos((step % 100) / 100 * math.pi)))
        assert one.bitmap == Bitmap.stripe([expected], len(NAMES))
    assert [schedule.width(step) for step in (0, 99, 100)] == [3, 8, 3]


def test_a_found_lower_bound_is_part_of_the_state():
    schedule = bound(Cyclic(mode="cosine", low="auto"))
    schedule.load_state_dict({"found_low": 4})
    assert schedule.state_dict() == {"found_low": 4}
    assert schedule.width(0) == 4


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        pytest.param(SPNet(bitmaps=["8,4"]), "8 quantised layers", id="wrong length"),
        pytest.param(SPNet(bitmaps=["9"]), "no bit-width 9", id="unknown width"),
        pytest.param(SPNet(bitmaps=[]), "at least one bitmap", id="no bitmaps"),
        pytest.param(InstantNet(bitmaps=["attnn=4"]), "matches no", id="unknown layer"),
        pytest.param(Cyclic(mode="cosine", low=8, high=4), "above its high", id="bounds swapped"),
    ],
)
def test_bitmaps_that_do_not_fit_are_refused_before_training(schedule, says):
    with pytest.raises(UserError, match=says):
        bound(schedule)
