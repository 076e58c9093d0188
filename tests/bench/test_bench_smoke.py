"""The benchmarks run, at toy size, and write what they promise; the figures themselves are not judged here."""

import json
import random
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import bench_artifact
import bench_autoscheme
import bench_cpu_peers
import bench_losses
import bench_mixed
import bench_praq
import bench_ptq_memory
import bench_ptq_peers
import bench_search
import bench_seed_scheme
import bench_sensitivity
import bench_starts
import bench_step
import bench_switch
import numpy as np
import outside
import pytest
from subjects import TOKENIZER, save_random
from transformers import AutoConfig
from workshop import Workshop

from switchq.bitmap import Bitmap
from switchq.commands.subject import load_subject
from switchq.nn import switch_layers
from switchq.posttraining.search import search_space
from switchq.posttraining.search.front import hypervolume
from switchq.posttraining.sensitivity import Sensitivity
from switchq.training.callbacks import SPNet


@pytest.fixture(autouse=True)
def _timings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of kernels are kept for the test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


CONFIGS = Path(__file__).parents[2] / "configs"
TOY = ["--device", "cpu", "--shapes", "toy", "--rounds", "1"]


def test_starts_are_told_apart(workshop: Workshop, tmp_path: Path) -> None:
    output = tmp_path / "starts.json"
    options = ["--model", str(workshop.base), "--data", str(workshop.train), "--blocks", "0", "1", "--questions", "8"]
    options += ["--group_size", "16", "--rank", "4", "--shared_rank", "4", "--output", str(output)]
    found = bench_starts.main(["--device", "cpu", *options])
    assert found["layers"] == 8
    for bits in (4, 3, 2):
        rows = {name: row[bits] for name, row in found["errors"].items()}
        assert all(0 < adapted < alone for alone, adapted in rows.values())
        assert rows["asymmetric, GPTQ"][0] < rows["asymmetric, nearest"][0]
        assert rows["nested, nearest, rank of both"][1] < rows["nested, nearest"][1]
    assert rows["nested, shared start"][0] < rows["nested, nearest"][0]
    assert json.loads(output.read_text())["errors"].keys() == rows.keys()


def test_losses_of_all_positions_and_of_parts_are_timed(tmp_path: Path) -> None:
    sizes = ["--positions", "8", "--vocabulary", "64", "--numbers", "100"]
    output = tmp_path / "losses.json"
    rows = bench_losses.main(["--device", "cpu", "--rounds", "1", *sizes, "--output", str(output)])
    assert [row.name for row in rows] == list(bench_losses.NAMES)
    assert set(json.loads(output.read_text())["peak_mb"]) == set(bench_losses.NAMES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("main", "options", "rows"),
    [
        pytest.param(bench_step.main, ["--batch", "1", "--tokens", "8", "--rungs", "8", "2"], 8, id="step"),
        pytest.param(
            bench_step.main,
            ["--batch", "1", "--tokens", "8", "--config", CONFIGS / "cyclic.yaml", "--labels", "all"],
            6,
            id="recipe step",
        ),
        pytest.param(bench_switch.main, [], 1, id="switch"),
        pytest.param(bench_artifact.main, ["--tokens", "2", "--prompt", "3"], 8, id="artifact"),
        pytest.param(
            bench_cpu_peers.main, ["--tokens", "2", "--prompt", "3", "--peer-python", sys.executable], 4, id="cpu peers"
        ),
        pytest.param(
            bench_seed_scheme.main,
            ["--questions", "20", "--batch", "1", "--tokenizer", str(TOKENIZER), "--data", bench_seed_scheme.READING],
            2,
            id="seed scheme",
        ),
        pytest.param(
            bench_sensitivity.main,
            ["--questions", "3", "--batch", "2", "--tokenizer", str(TOKENIZER), "--data", bench_seed_scheme.READING],
            6,
            id="sensitivity",
        ),
    ],
)
def test_writes_its_figures(main: Callable[[list[str]], Any], options: list[str], rows: int, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    main([*TOY, *map(str, options), "--output", str(output)])
    content = json.loads(output.read_text())
    assert len(content["rows"]) == rows
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in content["rows"])
    assert content["machine"]["torch"]


@pytest.mark.filterwarnings("ignore")
def test_what_a_configuration_trains_is_timed(tmp_path: Path) -> None:
    """Its ranks, and a round of its schedule: every turn an optimiser step, or all widths one."""
    save_random("toy", "float32", tmp_path)
    for name, plans in (("cyclic", [[8], [4], [2], [4], [3], [2]]), ("spnet", [[8, 4, 3, 2]])):
        module, schedule = bench_step.configured(CONFIGS / f"{name}.yaml", tmp_path, "float32", False)
        assert module.hparams["rank"] == {4: 48, 3: 64}
        assert module.hparams["shared_rank"] == 32
        schedule.bind(["one", "two"], module.hparams["bits"])
        assert [[one.bitmap for one in plan] for plan in bench_step.a_round(schedule)] == [
            [Bitmap([width] * 2) for width in plan] for plan in plans
        ]


@pytest.mark.filterwarnings("ignore")
def test_search_writes_its_figures(tmp_path: Path) -> None:
    subject = load_subject(None, str(TOKENIZER))
    layers = switch_layers(subject.model)
    ranks = tuple(float(number) for number in range(len(layers)))
    names, sizes = zip(*((one.name, one.linear.weight.numel()) for one in layers))
    Sensitivity(names, sizes, (2,), {"mse": {2: ranks}}).write(tmp_path / "sensitivity.json")
    options = ["--model", TOKENIZER, "--sensitivity", tmp_path / "sensitivity.json", "--questions", "6"]
    data = ["--data", bench_seed_scheme.READING, "--metric", "KL", "--output", tmp_path / "figures.json"]
    share = bench_search.main(["--device", "cpu", *map(str, [*options, *data])])
    content = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["greedy, plain", "greedy, fast"]
    assert (
        content["question_evaluations"]["greedy, plain"] == 46 * 6
    )  # two of the three uniform bitmaps were on its way
    assert content["fast_better_by"]["questions"] == 6
    assert 0 < share < 1


def test_the_best_front_of_few_points() -> None:
    rng = random.Random(0)
    for count in (1, 3, 5):
        points = [(rng.uniform(0, 9), rng.uniform(-9, 0)) for _ in range(8)]
        brute = max(hypervolume(chosen, (10.0, 0.0)) for chosen in combinations(points, count))
        assert bench_search.best_volume(points, count, (10.0, 0.0)) == pytest.approx(brute)


@pytest.mark.filterwarnings("ignore")
def test_allocations_are_scored_without_the_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    output = tmp_path / "figures.json"
    options = ["--model", TOKENIZER, "--calibration", text, "--text", text, "--averages", "3", "5", "--seeds", "2"]
    sizes = ["--calibration-windows", "2", "--calibration-window", "32", "--windows", "2", "--window", "32"]
    bench_autoscheme.main(["--device", "cpu", *map(str, [*options, *sizes]), "--output", str(output)])
    content = json.loads(output.read_text())
    assert [row["target"] for row in content["rows"]] == [None] + [3] * 6 + [5] * 6
    chosen = [row for row in content["rows"] if row["name"].startswith(("ilp", "random"))]
    assert all(row["average_bits"] <= row["target"] + 1e-6 for row in chosen)
    assert all(row["average_bits"] > row["target"] - 0.2 for row in chosen if row["name"].startswith("random"))
    assert all(row["perplexity"]["text"] > 1 for row in content["rows"])
    assert not any(row["name"] == "AutoScheme" for row in content["rows"])
    assert "left out" in capsys.readouterr().out


def test_no_allocation_is_worse_than_a_uniform_one_that_costs_no_more() -> None:
    """Scores that call the harmful width harmless."""
    subject = load_subject(None, str(TOKENIZER))
    space = search_space(subject.model, (8, 4, 2))
    scores = np.tile([0.0, 3.0, 2.0, 1.0], (len(space.names), 1))

    def loss(bitmap: Bitmap) -> float:
        return float(sum({16: 0, 8: 1, 4: 2, 2: 100}[bits] for bits in bitmap))

    for budget, expected in ((2.0, 2), (4.0, 4), (5.0, 4), (8.0, 8)):
        assert loss(bench_autoscheme.programmed(space, scores, budget, loss)) <= loss(
            Bitmap.stripe([expected], len(space.names))
        )


def test_the_line_between_uniform_bitmaps() -> None:
    costs, scores = [2.0, 4.0, 8.0], [40.0, 60.0, 70.0]
    found = [sum(np.multiply(bench_mixed.line(bits, costs), scores)) for bits in (2, 3, 4, 7, 8)]
    assert found == [40, 50, 60, 67.5, 70]
    with pytest.raises(ValueError, match="beyond"):
        bench_mixed.line(9, costs)


def test_the_line_between_the_widths_that_are_mixed() -> None:
    """A bitmap of 2 and 8 bits has nothing of the 4 bits between them; three quarters of the weights are narrow."""

    def scored(bits: tuple[int, ...], average: float, mb: float, *f1: float) -> bench_mixed.Scored:
        return bench_mixed.Scored(bits, {"average_bits": average, "weight_mb": mb}, np.array(f1))

    uniform = [scored((2,), 2, 10.0, 40, 40), scored((4,), 4, 20.0, 50, 70), scored((8,), 8, 40.0, 64, 64)]
    found = bench_mixed.over_lines(scored((2, 8), 3.5, 17.5, 40, 60), uniform, sizes=(30, 10))
    assert found == {
        "over_line_of_average_bits": 50 - 55,
        "error_of_average_bits": pytest.approx(2.5),  # -7.5 and -2.5: standard deviation 5 / sqrt(2), of 2
        "over_line_of_weight_mb": 50 - 55,
        "error_of_weight_mb": pytest.approx(2.5),
        "over_line_of_shares": 50 - 46,
        "error_of_shares": pytest.approx(10.0),
    }
    beyond = bench_mixed.over_lines(scored((2, 8), 3.5, 9.0, 40, 60), uniform, sizes=(30, 10))
    assert "over_line_of_weight_mb" not in beyond
    assert "over_line_of_average_bits" in beyond


def test_a_bitmap_is_surely_below_where_its_error_says_so() -> None:
    found = bench_mixed.summary([(-1.9, 0.1), (-2.5, 0.1), (-2.5, 0.5), (1.0, 0.5)])
    assert (found["count"], found["not_below"], found["surely_below"], found["worst"]) == (4, 2, 1, -2.5)


def test_mixed_bitmaps_spread_over_the_widths() -> None:
    drawn = bench_mixed.draw([2, 4, 8], 100, 50, seed=0)
    averages = [sum(bitmap) / 100 for bitmap in drawn]
    assert min(averages) < 3
    assert max(averages) > 6.5
    assert len(set(drawn)) == 50
    assert drawn == bench_mixed.draw([2, 4, 8], 100, 50, seed=0) != bench_mixed.draw([2, 4, 8], 100, 50, seed=1)


@pytest.mark.filterwarnings("ignore")
def test_mixed_bitmaps_of_a_checkpoint(workshop: Workshop, tmp_path: Path) -> None:
    workshop.fit(SPNet(["8", "2"]), tmp_path, 1)
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    options = ["--ckpt", checkpoint, "--data", workshop.dev, "--count", "3", "--output", tmp_path / "mixed.json"]
    bench_mixed.main(["--device", "cpu", *map(str, options)])
    content = json.loads((tmp_path / "mixed.json").read_text())
    assert [len(content["uniform"]), len(content["mixed"]), content["count"]] == [3, 3, 3]
    costs, scores = ([row[name] for row in content["uniform"]] for name in ("weight_mb", "F1"))
    for row in content["mixed"]:
        known = sum(np.multiply(bench_mixed.line(row["weight_mb"], costs), scores))
        assert row["over_line_of_weight_mb"] == pytest.approx(row["F1"] - known)
        assert row["error_of_weight_mb"] >= 0
    for cost in ("average_bits", "weight_mb", "shares"):
        assert content[cost]["worst"] <= content[cost]["mean"] <= content[cost]["best"]
        assert content[cost]["count"] == 3


@pytest.mark.filterwarnings("ignore")
def test_memory_of_quantisation_at_one_depth(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--shapes", "toy", "--samples", "4", "--length", "32", "--depth", "2"]
    bench_ptq_memory.main(["--device", "cpu", *sizes])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["weights_mb"] == pytest.approx((1024 * 64 + 1024 * 64 + 2 * 49984 + 128) * 4 / 1e6)
    assert found["mb"] >= 0


@pytest.mark.filterwarnings("ignore")
def test_a_peer_is_scored_by_the_weights_that_it_gives_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in in this interpreter: it gives the weights back as they are, and fails at 3 bits."""
    script = tmp_path / "standin.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(outside.PEERS)!r})\nfrom dense import serve\n"
        "def quantise(model, ids_NT, arguments):\n"
        "    if arguments.bits == 3:\n        raise ValueError('not at 3 bits')\n"
        "    assert ids_NT.shape == (2, 32)\n"
        "    return lambda: {name: value for name, value in model.state_dict().items() if 'lm_head' not in name}\n"
        "serve('torch', quantise)\n"
    )
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    peers = {
        "stand-in": bench_ptq_peers.Peer("torch", script, "rtn"),
        "absent": bench_ptq_peers.Peer("no-such-package", script, "rtn"),
    }
    monkeypatch.setattr(bench_ptq_peers, "PACKAGES", peers)
    output = tmp_path / "figures.json"
    options = ["--model", TOKENIZER, "--calibration", text, "--text", text, "--peer-python", sys.executable]
    sizes = ["--bits", "2", "3", "--group", "32", "--samples", "2", "--length", "32", "--windows", "2"]
    written = ["--output", output, "--rows", tmp_path / "rows.jsonl"]
    bench_ptq_peers.main(["--device", "cpu", *map(str, [*options, *sizes, "--window", "32", *written])])
    content = json.loads(output.read_text())
    full, two, theirs, three = content["rows"]
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["perplexity"] for line in lines] == [row["perplexity"] for row in content["rows"]]
    assert theirs["case"] == {"bits": 2, "group": 32, "seed": 0}
    assert [row["name"] for row in (full, two, theirs, three)] == [
        "full precision",
        "switchq rtn",
        "stand-in",
        "switchq rtn",
    ]
    assert theirs["perplexity"] == full["perplexity"]
    assert two["perplexity"] != full["perplexity"]
    assert theirs["perplexity_ratio"]["text"] == two["perplexity"]["text"] / theirs["perplexity"]["text"]
    assert theirs["cpu_seconds"] >= 0
    assert theirs["versions"]["torch"]
    assert content["remarks"] == [
        "absent: left out, no --peer-python has no-such-package",
        "stand-in, 3 bits, groups of 32, seed 0: left out, it failed: ValueError: not at 3 bits",
    ]


def test_praq_is_compared_on_every_linear(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    options = ["--model", TOKENIZER, "--calibration", text, "--group", 32, "--samples", 2, "--length", 32]
    output = tmp_path / "praq.json"
    found = bench_praq.main(["--device", "cpu", *map(str, [*options, "--output", output])])
    assert json.loads(output.read_text())["linears"] == found
    layers = AutoConfig.from_pretrained(TOKENIZER).n_layer
    assert len(found) == 2 + 4 * layers
    asleep = found["loud silence, asleep"]
    assert asleep["overlap"] == 0
    assert asleep["risk_mse"] < asleep["plain_mse"]
