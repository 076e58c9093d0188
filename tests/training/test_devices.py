"""Two devices against one with the joint batch: by DDP and by FSDP2, for every schedule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch import Trainer
from workshop import Workshop

from switchq.data.batches import IGNORED, Share
from switchq.errors import UserError
from switchq.training.checkpoint import load_checkpoint
from switchq.training.losses import cross_entropy, distillation, state_distance, top_k_distillation

from .several_devices import SCENARIOS, SHARDED, train, work

RUNS = [("ddp", name) for name in SCENARIOS] + [("fsdp2", name) for name in SHARDED]

START, SHARED_START = "spnet, block start", "spnet, shared start"
STARTS = (START, SHARED_START)
"""The scenarios of what comes before the first step; their steps have a rate of zero."""

Found = dict[tuple[str, str], dict[str, Any]]


def on_two(workshop: Workshop, folder: Path, accelerator: str) -> list[Found]:
    """What each of two processes came to."""
    processes.spawn(work, (workshop, str(folder), accelerator, find_free_network_port()), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def found(workshop: Workshop, folder: Path) -> list[Found]:
    return on_two(workshop, folder, "cpu")


def products(trained: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adapters as products of their factors, whose signs an SVD takes from the last bits of what it is given."""
    pairs = {name: name.replace("lora_A", "lora_B") for name in trained if "lora_A" in name}
    rest = {name: value for name, value in trained.items() if name not in {*pairs, *pairs.values()}}
    return rest | {name: trained[other] @ trained[name] for name, other in pairs.items()}


def check(found: list[Found], run: tuple[str, str], workshop: Workshop, tmp_path: Path, accelerator: str) -> None:
    alone = train(workshop, run[1], tmp_path, accelerator=accelerator, devices=1)
    rounded = run[1] == "bfloat16" or (run[1] in STARTS and accelerator == "gpu")
    close = 1e-2 if rounded else 5e-4 if run[1] in STARTS else 1e-5  # sums in bfloat16 depend on how a batch is cut
    for part in ("started", "trained"):
        first, second = (one[run][part] for one in found)
        assert first.keys() == second.keys() == alone[part].keys()
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
        mine, theirs = (products(one) if run[1] in STARTS else one for one in (first, alone[part]))
        for name, value in theirs.items():
            if run[1] in STARTS:  # Adam goes no less far where last bits decide a sign: some numbers, not the whole
                assert (mine[name] - value).norm() <= 0.15 * value.norm() + 1e-5, name
            else:
                torch.testing.assert_close(mine[name], value, rtol=0, atol=close)
    for part, value in alone["latest"].items():
        assert found[0][run]["latest"][part] == pytest.approx(value, abs=100 * close), part
    both = [one[run] for one in found]
    assert both[0]["figures"].keys() == both[1]["figures"].keys() == alone["figures"].keys()
    for label, figures in alone["figures"].items():
        for figure in (name for name in figures if name.split("/")[0] in ("F1", "EM", "answer perplexity")):
            values = [one["figures"][label][figure] for one in both]
            assert values[0] == values[1]
            assert values[0] == pytest.approx(
                figures[figure], rel=5e-2 if rounded else 20 * close if run[1] in STARTS else 1e-4
            )
    assert both[0]["answers"] == both[1]["answers"]
    assert {label: list(one) for label, one in both[0]["answers"].items()} == {
        label: list(one) for label, one in alone["answers"].items()
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_two_processes_train_what_one_does(
    found: list[Found], run: tuple[str, str], workshop: Workshop, tmp_path: Path
) -> None:
    check(found, run, workshop, tmp_path, "cpu")


@pytest.mark.filterwarnings("ignore")
def test_two_gpus_train_what_one_does(workshop: Workshop, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    found = on_two(workshop, tmp_path, "gpu")
    for run in RUNS:
        check(found, run, workshop, tmp_path / "alone", "gpu")


@pytest.mark.filterwarnings("ignore")
def test_a_start_by_block_goes_on_from_one_by_layer(
    found: list[Found], workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two processes were found to start alike is more than they would have without training the blocks."""
    schedule, options, *rest = SCENARIOS[START]
    monkeypatch.setitem(SCENARIOS, "by layer", (schedule, {**options, "adapter_start": "qera"}, *rest))
    before = products(train(workshop, "by layer", tmp_path, accelerator="cpu", devices=1)["started"])
    after = products(found[0]["ddp", START]["started"])
    moved = {name for name, value in before.items() if not torch.allclose(value, after[name], rtol=0, atol=1e-4)}
    assert {name.split(".")[-2] for name in moved if "lora" in name} == {"bits_4", "bits_2"}
    assert {name.split("_")[-1] for name in moved if "log_scale" in name} == {"4bit", "2bit"}


def test_the_same_seed_gives_the_same_bits(found: list[Found]) -> None:
    name = "spnet, clipped"
    for one in found:
        for key, value in one["ddp", name]["trained"].items():
            assert torch.equal(value, one["again", name]["trained"][key]), key


@pytest.mark.parametrize("name", SHARDED)
def test_a_sharded_run_goes_on(found: list[Found], name: str) -> None:
    for one in found:
        for key, value in one["fsdp2", name]["trained"].items():
            assert torch.equal(value, one["resumed", name]["trained"][key]), key


def test_a_sharded_run_goes_on_with_what_was_taken_out(found: list[Found]) -> None:
    """Nothing is trained there, so that the model answers as before if its weights are what they were."""
    whole, resumed = (found[0][what, SHARED_START]["figures"] for what in ("fsdp2", "resumed"))
    assert whole.keys() == resumed.keys() >= {"8", "2"}
    for bitmap, figures in whole.items():
        name = f"answer perplexity/{bitmap}"
        assert resumed[bitmap][name] == pytest.approx(figures[name], rel=1e-5)


@pytest.mark.parametrize("what", ["to fsdp2", "to ddp"])
def test_a_run_goes_on_by_the_other_strategy(found: list[Found], what: str) -> None:
    name = "spnet, clipped"
    for one in found:
        for key, value in one["ddp", name]["trained"].items():
            torch.testing.assert_close(one[what, name]["trained"][key], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("run", [("ddp", "cyclic, turns"), ("fsdp2", "cyclic, turns")], ids=" ".join)
def test_a_checkpoint_of_two_loads_on_one(found: list[Found], run: tuple[str, str], folder: Path) -> None:
    module = load_checkpoint(folder / " ".join(run) / "checkpoints/last.ckpt")
    own = module.state_dict()
    for name, value in found[0][run]["trained"].items():
        assert torch.equal(own[name], value), name


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_two_goes_on_on_one(found: list[Found], folder: Path, workshop: Workshop, tmp_path: Path) -> None:
    schedule, options, _, steps = SCENARIOS["cyclic, turns"]
    last = folder / "ddp cyclic, turns/checkpoints/last.ckpt"
    resumed = workshop.fit(schedule(), tmp_path / "a", steps + 3, workshop.module(**options), resume=last)
    whole = workshop.fit(schedule(), tmp_path / "b", steps + 3, workshop.module(**options))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_make_up_the_batch(count: int) -> None:
    examples = [{"input_ids": [i, i], "labels": [IGNORED, i]} for i in range(4)]
    shares = [Share(number, count).of(examples) for number in range(count)]
    counted = [one for share in shares for one in share if one["labels"] != [IGNORED, IGNORED]]
    assert sorted(one["input_ids"][0] for one in counted) == [0, 1, 2, 3]
    assert all(shares)


@pytest.mark.parametrize("cut", [0, 3, 5])
def test_losses_of_parts_add_up_to_that_of_the_whole(cut: int) -> None:
    logits, teacher = torch.randn(5, 7), torch.randn(5, 7)
    states, others = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    targets, ids, logprobs = torch.arange(5), torch.randint(7, (5, 3)), torch.randn(5, 3)
    losses: list[Callable[..., torch.Tensor]] = [
        lambda rows, **count: cross_entropy(logits[rows], targets[rows], **count),
        lambda rows, **count: distillation(logits[rows], teacher[rows], 2.0, **count),
        lambda rows, **count: state_distance([one[rows] for one in states], [one[rows] for one in others], **count),
        lambda rows, **count: top_k_distillation(logits[rows], ids[rows], logprobs[rows], **count),
    ]
    for loss in losses:
        parts = [loss(rows, count=torch.tensor(5.0)) for rows in (slice(cut), slice(cut, None))]
        torch.testing.assert_close(sum(parts), loss(slice(None)))


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_other_strategies_are_refused(workshop: Workshop, strategy: str) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, use_distributed_sampler=False)
    with pytest.raises(UserError, match="DDPStrategy cannot train several passes a step: use ddp or fsdp2"):
        workshop.module().check_trainer(trainer)


def test_batches_are_not_shared_out_twice(workshop: Workshop) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    with pytest.raises(UserError, match="use_distributed_sampler false"):
        workshop.module().check_trainer(trainer)
