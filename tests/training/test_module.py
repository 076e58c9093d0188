"""A training step against naive implementations of the same algorithm: one autograd graph over the library's losses."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.utils.data import DataLoader
from workshop import Gradients, Workshop, assert_same, questions, trained

from switchq.bitmap import Bitmap
from switchq.data.batches import TrainingCollator, answer_example
from switchq.data.modules import SquadData
from switchq.errors import UserError
from switchq.nn import at, get_switch, set_bitmap
from switchq.training.callbacks import Cyclic, InstantNet, Schedule, SPNet
from switchq.training.losses import LossFunctions
from switchq.training.module import SwitchableModule

LADDER = ("8", "8/4", "4", "4/2", "2")


def needs_compiler(test: Any) -> Any:
    """Skips where torch.compile cannot work on the CPU; what it warns of inside torch is not ours to mend."""
    test = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")(test)
    test = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")(test)  # torch hides it
    return pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")(test)


class Batches(Callback):
    """Keeps the training batches."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.seen.append(batch)


class Logged(Callback):
    """Keeps what was logged after each batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def step_once(
    workshop: Workshop, schedule: Schedule, folder: Path, module: SwitchableModule | None = None, **options: Any
) -> tuple[SwitchableModule, SwitchableModule, Gradients, Batches, Logged]:
    """The module before and after one batch, and what happened in between."""
    module = module or workshop.module()
    before = deepcopy(module)
    watch = Gradients(), Batches(), Logged()
    workshop.fit(schedule, folder, 1, module, callbacks=watch, **options)
    return before, module, *watch


def autograd(module: SwitchableModule, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}


def answer_logits(module: SwitchableModule, batch: dict[str, Tensor], bitmap: str, adapters: bool = True) -> Tensor:
    with at(module.model, bitmap, adapters):
        logits = module.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1][batch["labels"][:, 1:] != -100]


def test_spnet_step_is_the_mean_of_hugging_face_losses(workshop: Workshop, tmp_path: Path) -> None:
    before, _, gradients, batches, logged = step_once(workshop, SPNet(), tmp_path)
    losses: list[Tensor] = []
    for bitmap in LADDER:
        set_bitmap(before.model, bitmap)
        losses.append(before.model(**batches.seen[0]).loss)
    assert_same(gradients.steps[0], autograd(before, torch.stack(losses).mean()), exact=False)
    assert {name: value for name, value in logged.rows[0].items() if name.startswith("ce/")} == pytest.approx(
        {f"ce/{bitmap}": loss.item() for bitmap, loss in zip(LADDER, losses)}, rel=1e-5
    )
    assert logged.rows[0]["loss"] == pytest.approx(float(torch.stack(losses).detach().mean()), rel=1e-5)
    norms = [logged.rows[0][f"gradient norm/{bitmap}"] for bitmap in LADDER]
    expected = [
        float(torch.nn.utils.get_total_norm(list(autograd(before, before.model(**batches.seen[0]).loss).values())))
        for bitmap in LADDER
        if set_bitmap(before.model, bitmap)
    ]
    assert norms == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bare", [False, True], ids=["own teachers", "bare teacher"])
def test_instantnet_step_is_a_cascade_from_detached_teachers(workshop: Workshop, tmp_path: Path, bare: bool) -> None:
    schedule = InstantNet(weight=0.7, temperature=2.0, bare_teacher=bare)
    before, _, gradients, batches, _ = step_once(workshop, schedule, tmp_path)
    batch = batches.seen[0]
    labels = batch["labels"][:, 1:][batch["labels"][:, 1:] != -100]
    teachers = [answer_logits(before, batch, "16", adapters=False).detach()] if bare else []
    total = torch.zeros(())
    for bitmap in LADDER:
        logits = answer_logits(before, batch, bitmap)
        total = total + F.cross_entropy(logits, labels)
        for teacher in teachers:
            p, q = (teacher / 2).softmax(-1), (logits / 2).softmax(-1)
            total = total + 0.7 / len(teachers) * 4 * (p * (p / q).log()).sum(-1).mean()
        teachers.append(logits.detach())
    assert_same(gradients.steps[0], autograd(before, total / len(LADDER)), exact=False)


def test_spnet_distils_from_the_widest_only(workshop: Workshop, tmp_path: Path) -> None:
    before, _, gradients, batches, _ = step_once(workshop, SPNet(bitmaps=["8", "4", "2"], distill=0.5), tmp_path)
    batch = batches.seen[0]
    teacher = answer_logits(before, batch, "8").detach().log_softmax(-1)
    total = torch.zeros(())
    for bitmap in ("8", "4", "2"):
        set_bitmap(before.model, bitmap)
        total = total + before.model(**batch).loss
        if bitmap != "8":
            student = answer_logits(before, batch, bitmap).log_softmax(-1)
            total = total + 0.5 * (teacher.exp() * (teacher - student)).sum(-1).mean()
    assert_same(gradients.steps[0], autograd(before, total / 3), exact=False)


def test_cyclic_takes_an_adamw_step_per_bitmap(workshop: Workshop, tmp_path: Path) -> None:
    before, after, gradients, batches, _ = step_once(
        workshop, Cyclic(), tmp_path, workshop.module(warmup_steps=0, weight_decay=0.1)
    )
    optimizer = torch.optim.AdamW([p for p in before.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for bitmap in LADDER:
        set_bitmap(before.model, bitmap)
        optimizer.zero_grad()
        before.model(**batches.seen[0]).loss.backward()
        optimizer.step()
    assert len(gradients.steps) == len(LADDER)
    assert_same(trained(after), trained(before), exact=False)


def test_figures_are_logged_by_batches_however_many_steps_a_batch_takes(workshop: Workshop, tmp_path: Path) -> None:
    logged = Logged()
    workshop.fit(Cyclic(bitmaps=["8", "2"]), tmp_path, 8, callbacks=[logged], log_every_n_steps=2)
    assert [sorted(row) for row in logged.rows[:1]] == [[]]
    assert {"ce/8", "ce/2", "gradient norm/8", "gradient norm/2", "learning rate"} <= set(logged.rows[1])
    assert logged.rows[2] == logged.rows[1] != logged.rows[3]


@needs_compiler
def test_compiled_losses_equal_the_plain_ones() -> None:
    plain, compiled = LossFunctions(), LossFunctions().compiled()
    for count in (3, 5, 7):
        student, teacher = (3 * torch.randn(2, count, 11)).unbind()
        targets, ids = torch.randint(11, (count,)), torch.randint(11, (count, 2))
        for name, others in (
            ("cross_entropy", (targets,)),
            ("distillation", (teacher, 2.0)),
            ("top_k_distillation", (ids, teacher.log_softmax(-1).gather(-1, ids))),
        ):
            mine, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
            one, other = getattr(plain, name)(mine, *others), getattr(compiled, name)(theirs, *others)
            one.backward()
            other.backward()
            torch.testing.assert_close(one, other)
            torch.testing.assert_close(mine.grad, theirs.grad)


@needs_compiler
def test_a_compiled_step_is_the_plain_step(workshop: Workshop, tmp_path: Path) -> None:
    gradients = []
    for compile in (False, True):
        torch.manual_seed(0)
        module = workshop.module(compile=compile)
        gradients.append(step_once(workshop, SPNet(["2"]), tmp_path, module)[2].steps[0])
    assert_same(*gradients, exact=False)


@needs_compiler
def test_blocks_share_what_is_compiled(make_workshop: Callable[..., Workshop], tmp_path: Path) -> None:
    """Whatever the depth, two graphs a bitmap (a first block's input takes no gradient) and the loss; none to score."""
    torch.compiler.reset()
    counters["stats"].clear()
    workshop = make_workshop(layers=5)
    module = workshop.module(compile=True)
    workshop.fit(SPNet(["2"]), tmp_path, 2, module, validate=True)
    assert len(module.results) == 2
    assert counters["stats"]["unique_graphs"] == 3


def test_cyclic_cosine_runs_one_width_per_batch(workshop: Workshop, tmp_path: Path) -> None:
    schedule, logged = Cyclic(mode="cosine", cycles=2), Logged()
    workshop.fit(schedule, tmp_path, 8, callbacks=[logged])
    assert schedule.total_steps == 8
    widths = [schedule.width(step) for step in range(8)]
    assert widths == [2, 3, 5, 7, 2, 3, 5, 7]
    assert [f"gradient norm/{bits}" in row for bits, row in zip(widths, logged.rows)] == [True] * 8


def test_passes_of_a_step_drop_the_same_units(dropout_workshop: Workshop, tmp_path: Path) -> None:
    """A teacher at the pupil's own bitmap: with the same dropout there is nothing to distil."""

    class Twice(SPNet):
        def passes(self, step: int) -> Any:
            first, second = (super(Twice, self).passes(step) for _ in range(2))
            return (*first[:1], type(second[0])(second[0].bitmap, teachers=(0,)))

    logged = Logged()
    module = dropout_workshop.module(adapter_dropout=0.2)
    dropout_workshop.fit(Twice(bitmaps=["4"]), tmp_path, 3, module, callbacks=[logged])
    assert all(row["kd/4"] == pytest.approx(0, abs=1e-6) for row in logged.rows)
    set_bitmap(module.model, "4")
    batch = {"input_ids": torch.arange(5, 25)[None]}
    assert module.training
    assert not torch.equal(module.model(**batch).logits, module.model(**batch).logits)


def test_dropout_differs_from_step_to_step(dropout_workshop: Workshop, tmp_path: Path) -> None:
    logged = Logged()
    module = dropout_workshop.module(lr=0.0)
    data = dropout_workshop.data(batch_size=20)
    dropout_workshop.fit(SPNet(bitmaps=["8"]), tmp_path, 3, module, data=data, callbacks=[logged])
    assert len({round(row["ce/8"], 4) for row in logged.rows}) == 3


def test_clipping_bounds_the_joint_norm(workshop: Workshop, tmp_path: Path) -> None:
    _, _, free, _, logged = step_once(workshop, SPNet(), tmp_path / "free")
    _, _, clipped, _, _ = step_once(workshop, SPNet(), tmp_path / "clipped", workshop.module(max_grad_norm=0.01))
    norm = float(torch.nn.utils.get_total_norm(list(free.steps[0].values())))
    assert logged.rows[0]["gradient norm/joint"] == pytest.approx(norm, rel=1e-5)
    assert norm > 0.01
    assert_same(clipped.steps[0], {name: g * 0.01 / norm for name, g in free.steps[0].items()}, exact=False)


class Given(SquadData):
    """Batches that a test has made."""

    batches: list[dict[str, Tensor]]

    def train_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def given(workshop: Workshop, sizes: list[int]) -> Given:
    """Consecutive batches of the same eight questions, whose answers are all of the same number of tokens."""
    data = Given(str(workshop.base), str(workshop.train), str(workshop.dev), holdout=0)
    asked = [one for one in questions(40) if one.answers == ("Rome",)][:8]
    encoded = data.prompt.encode_all(asked, data.tokenizer, 96)
    assert len({len(one.answer_ids) for one in encoded}) == 1
    examples = [answer_example(one) for one in encoded]
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    data.batches = [TrainingCollator(0)(examples[a:b]) for a, b in zip(edges, edges[1:])]
    return data


@pytest.mark.parametrize("schedule", [SPNet, InstantNet])
def test_two_accumulated_batches_equal_one_of_both(
    workshop: Workshop, tmp_path: Path, schedule: type[Schedule]
) -> None:
    grads = []
    for accumulate, sizes in ((1, [8]), (2, [4, 4])):
        *_, gradients, _, _ = step_once(
            workshop, schedule(), tmp_path / str(accumulate), workshop.module(accumulate=accumulate),
            data=given(workshop, sizes),
        )  # fmt: skip
        assert len(gradients.steps) == 1
        grads.append(gradients.steps[0])
    assert_same(*grads, exact=False)


def test_a_schedule_that_steps_after_each_pass_cannot_accumulate(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot accumulate"):
        workshop.fit(Cyclic(), tmp_path, 1, workshop.module(accumulate=2))


@pytest.mark.parametrize(
    ("schedule", "options", "trainer", "steps"),
    [
        pytest.param(SPNet, {}, {"max_steps": 7}, 7, id="max_steps"),
        pytest.param(SPNet, {}, {"max_steps": -1, "max_epochs": 2}, 10, id="epochs"),
        pytest.param(SPNet, {"accumulate": 2}, {"max_steps": -1, "max_epochs": 2}, 5, id="accumulate"),
        pytest.param(SPNet, {"accumulate": 3}, {"max_steps": -1, "max_epochs": 1}, 1, id="accumulate with a rest"),
        pytest.param(Cyclic, {}, {"max_steps": -1, "max_epochs": 1}, 10, id="cyclic"),
        pytest.param(Cyclic, {}, {"max_steps": 8, "max_epochs": 1}, 8, id="cyclic, steps before epochs"),
        pytest.param(SPNet, {}, {"max_steps": 15, "max_epochs": 1}, 5, id="epochs before steps"),
    ],
)
def test_the_learning_rate_falls_over_the_steps_that_are_taken(
    workshop: Workshop, tmp_path: Path, schedule: type[Schedule], options: Any, trainer: Any, steps: int
) -> None:
    logged = Logged()
    module = workshop.module(decay="linear", warmup_steps=0, **options)
    trainer = dict(trainer)
    workshop.fit(
        schedule(bitmaps=["8", "2"]), tmp_path, trainer.pop("max_steps"), module, callbacks=[logged], **trainer
    )
    assert module.trainer.global_step == steps == module.optimizer_steps()
    last = [row["learning rate"] for row in logged.rows if "learning rate" in row][-1]
    assert last == pytest.approx(1e-2 / steps, rel=1e-4)


def test_stored_teachers_are_learned_from(workshop: Workshop, tmp_path: Path) -> None:
    data = given(workshop, [4])
    (batch,) = data.batches
    generator = torch.Generator().manual_seed(0)
    shape = (*batch["input_ids"].shape, 3)
    batch["topk_ids"] = torch.rand(*shape[:2], 300, generator=generator).topk(3).indices
    batch["topk_logprobs"] = torch.randn(shape, generator=generator)
    module = workshop.module(stored_kd=0.4)
    before, _, gradients, _, logged = step_once(workshop, SPNet(bitmaps=["4", "2"]), tmp_path, module, data=data)
    plain = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    total = torch.zeros(())
    for bitmap in ("4", "2"):
        set_bitmap(before.model, bitmap)
        out = before.model(**plain)
        total = total + out.loss
        losses = []
        for row, position in (batch["labels"] != -100).nonzero():
            teacher = batch["topk_logprobs"][row, position].softmax(0)
            student = out.logits[row, position - 1].log_softmax(0)[batch["topk_ids"][row, position]]
            losses.append(-(teacher * student).sum())
        total = total + 0.4 * torch.stack(losses).mean()
    assert_same(gradients.steps[0], autograd(before, total / 2), exact=False)
    assert "stored kd/4" in logged.rows[0]


@pytest.mark.parametrize("schedule", [SPNet(), Cyclic(), InstantNet()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("train_base", [False, True], ids=["adapters", "base too"])
def test_training_lowers_the_loss_at_every_bitmap(
    workshop: Workshop, tmp_path: Path, schedule: Schedule, train_base: bool
) -> None:
    logged = Logged()
    module = workshop.module(train_base=train_base, base_lr=1e-3, max_grad_norm=1.0)
    workshop.fit(schedule, tmp_path, 75 if isinstance(schedule, Cyclic) else 15, module, callbacks=[logged])
    for bitmap in LADDER:
        assert logged.rows[-1][f"ce/{bitmap}"] < 0.8 * logged.rows[0][f"ce/{bitmap}"]


def test_switch_dropout_runs_some_layers_at_another_width(workshop: Workshop, tmp_path: Path) -> None:
    ran: list[Bitmap] = []

    class Watch(Callback):
        def on_before_backward(self, trainer: Any, pl_module: SwitchableModule, loss: Tensor) -> None:
            ran.append(get_switch(pl_module.model).bitmap)

    schedule = Cyclic("turns", bitmaps=["8", "2"], distill=1.0)
    workshop.fit(schedule, tmp_path, 100, workshop.module(switch_dropout=0.25), callbacks=[Watch()])
    assert len(ran) == 100
    for bits, others, turns in ((8, {4, 2}, ran[::2]), (2, {8, 4}, ran[1::2])):
        switched = [width for bitmap in turns for width in bitmap if width != bits]
        assert set(switched) == others
        assert len(switched) / sum(map(len, turns)) == pytest.approx(0.25, abs=0.06)
    assert len(set(ran)) > 50


def test_widths_and_the_shared_adapter_have_rates_of_their_own(workshop: Workshop, tmp_path: Path) -> None:
    rates = {"width_lr": {2: 3.0, 8: 0.5}, "shared_lr": 0.2}
    module = workshop.module(shared_rank=3, learn_scales=True, warmup_steps=0, **rates)
    before, after, *_ = step_once(workshop, SPNet(["8", "4", "2"]), tmp_path, module)
    old, new = trained(before), trained(after)
    # Adam's first step is the learning rate, up or down
    steps = {name: float((new[name] - old[name]).abs().max()) for name in old}
    for kind, rate in (("lora_A.bits_{}.", 1e-2), ("log_scale_{}bit", 1e-3)):
        for bits, factor in ((8, 0.5), (4, 1.0), (2, 3.0)):
            found = [step for name, step in steps.items() if kind.format(bits) in name]
            assert found
            assert found == pytest.approx([rate * factor] * len(found), rel=1e-2), (kind, bits)
    assert max(step for name, step in steps.items() if ".shared." in name) == pytest.approx(2e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"switch_dropout": -0.1}, "switch_dropout must be at least 0 and below 1"),
        ({"switch_dropout": 1.0}, "switch_dropout must be at least 0 and below 1"),
        ({"adapter_dropout": 3.0}, "adapter_dropout must be at least 0 and below 1"),
        ({"balance": True}, "model.balance is about what all widths train"),
        ({"lr": -1.0}, "lr must be at least 0"),
        ({"lr": float("nan")}, "lr must be at least 0"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"bits": (8, 8)}, "each width once"),
        ({"bits": (9,)}, "no bit-width 9"),
        ({"bitmaps": ["8,8"]}, "8 quantised layers"),
        ({"width_lr": {3: 2.0}}, "width_lr gives 3 bits"),
        ({"width_lr": {2: 0.0}}, "width_lr gives 2 bits"),
        ({"shared_lr": 0.0}, "shared_lr must be above 0"),
        ({"shared_lr": float("nan")}, "shared_lr must be above 0"),
        ({"rank": {8: 0}}, "rank of the 8-bit adapter"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_at_once(workshop: Workshop, options: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        SwitchableModule(base=str(workshop.base), **options)


def test_what_a_plan_cannot_honour_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    class Idle(Callback):
        pass

    with pytest.raises(UserError, match="no schedule"):
        workshop.fit(Idle(), tmp_path, 1)  # type: ignore[arg-type]
