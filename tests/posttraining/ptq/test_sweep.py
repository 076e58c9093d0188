"""A sweep: its figures, a kill in the middle, faults of a method, seeds, calibration sets."""

import copy
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from switchq.errors import UserError
from switchq.evaluation import text_perplexity
from switchq.evaluation.tasks import Perplexity
from switchq.models import content_hash
from switchq.posttraining.ptq import calibration_batches, load_methods, quantise
from switchq.posttraining.ptq.folder import SweepFolder, read_sweep
from switchq.posttraining.ptq.leaderboard import cross_table, entries, figures
from switchq.posttraining.ptq.plan import pick_methods, plan
from switchq.posttraining.ptq.results import RunRecord, read_run, unpack_items
from switchq.posttraining.ptq.sweep import Sweep

from .parts import METHODS, SETTING, make_sweep, open_sweep, silent, without_times, write_text

Tiny = Callable[..., PreTrainedModel]


@pytest.fixture(scope="session")
def character_tokenizer(character_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As `load_tokenizer` would give it: it pads with its end token."""
    padded = copy.deepcopy(character_tokenizer)
    padded.pad_token = padded.eos_token
    return padded


@pytest.fixture
def text(tmp_path: Path) -> str:
    return write_text(tmp_path / "text.txt")


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_figures_are_those_of_quantising_and_scoring_by_hand(
    architecture: str, tiny: Tiny, character_tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    sweep = make_sweep(tiny(architecture), character_tokenizer, text, tmp_path / "out")
    before = content_hash(sweep.base)
    runs = plan([METHODS["rtn"], METHODS["fed"]], SETTING, [4, 2], [text])
    records = sweep.run(runs, silent)
    assert [(one.name, one.bits, one.calibration) for one in records] == [
        ("full precision", 16, None), ("rtn", 4, None), ("fed", 4, text), ("rtn", 2, None), ("fed", 2, text),
    ]  # fmt: skip
    assert content_hash(sweep.base) == before
    windows = Perplexity("text", text, window=40).examples(character_tokenizer, 64)
    assert records[0].figure("text", "perplexity") == pytest.approx(text_perplexity(tiny(architecture), windows))
    for run, record in zip(runs[1:], records[1:]):
        assert run.setting is not None
        assert run.method is not None
        model = tiny(architecture)
        batches = calibration_batches(run.setting, character_tokenizer, 2) if run.calibration else []
        made = quantise(model, run.method, run.setting, batches, progress=False)
        assert record.figure("text", "perplexity") == pytest.approx(text_perplexity(model, windows))
        assert record.effective_bits == made.effective_bits == run.bits + (16 + run.bits) / 16
        assert record.size_mb == made.bytes_after / 1e6
        assert record.compression == pytest.approx(made.bytes_before / made.bytes_after)


def test_what_is_on_the_disk_is_what_was_returned(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    sweep = make_sweep(tiny_gpt2(), character_tokenizer, text, tmp_path / "out")
    records = sweep.run(plan([METHODS["rtn"]], SETTING, [3]), silent)
    content = read_sweep(tmp_path / "out" / "sweep.json")
    assert [RunRecord.from_record(one) for one in content["runs"]] == [
        RunRecord.from_record(json.loads(json.dumps(one.record()))) for one in records
    ]
    for record in records:
        file = sweep.folder.file(record)
        assert read_run(file).scores == record.scores
        items = unpack_items(file.with_suffix(".npz"), record.items_sha256)
        assert items["text"]["perplexity"].figure() == record.figure("text", "perplexity")
        assert len(items["text"]["perplexity"].values) == record.counts["text"]["windows"]


def test_a_failing_method_is_reported_and_the_rest_go_on(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    sweep = make_sweep(tiny_gpt2(), character_tokenizer, text, tmp_path / "out")
    runs = plan(pick_methods(["broken", "nan", "rtn"], METHODS), SETTING, [4])
    records = sweep.run(runs, silent)
    assert [record.error is None for record in records] == [True, False, False, True]
    assert records[1].error == "out of luck"
    assert "RuntimeError" in records[1].run["traceback"]
    assert "not finite" in str(records[2].error)
    assert records[1].scores == records[2].scores == {}
    again = make_sweep(tiny_gpt2(), character_tokenizer, text, sweep.folder.path)
    assert [run.name for run in again.missing(runs)] == ["broken", "nan"]


def test_seeds_count_where_a_method_depends_on_them(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    sweep = make_sweep(tiny_gpt2(), character_tokenizer, text, tmp_path / "out")
    runs = plan(pick_methods(["rtn", "fed", "drawn"], METHODS), SETTING, [3], [text], seeds=[0, 1, 2])
    records = sweep.run(runs, silent)
    by_name: dict[str, list[float]] = {}
    for record in records:
        by_name.setdefault(record.name, []).append(float(record.figure("text", "perplexity") or 0))
    assert {name: len(set(values)) for name, values in by_name.items()} == {
        "full precision": 1, "rtn": 1, "fed": 3, "drawn": 3,
    }  # fmt: skip
    (row,) = (row for row in entries(records) if row.name == "fed")
    mean = sum(by_name["fed"]) / 3
    assert row.mean("text", "perplexity") == pytest.approx(mean)
    variance = sum((value - mean) ** 2 for value in by_name["fed"]) / 2
    assert row.spread("text", "perplexity") == pytest.approx(variance**0.5)


def test_the_first_seed_comes_before_all_others(text: str) -> None:
    runs = plan(pick_methods(["rtn", "fed"], METHODS), SETTING, [4, 2], [text], seeds=[5, 6], checkpoint=True)
    assert [(run.name, run.bits, run.seed) for run in runs[1:]] == [
        ("rtn", 4, 5), ("fed", 4, 5), ("switchq", 4, 0), ("rtn", 2, 5), ("fed", 2, 5), ("switchq", 2, 0),
        ("fed", 4, 6), ("fed", 2, 6),
    ]  # fmt: skip


def test_the_leaderboard_has_what_other_processes_kept_so_far(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    first, other = (make_sweep(tiny_gpt2(), character_tokenizer, text, tmp_path / name) for name in ("one", "other"))
    runs = plan([METHODS["rtn"], METHODS["drawn"]], SETTING, [4])
    other.run(runs[2:], silent)
    for file in (tmp_path / "other/runs").iterdir():
        (tmp_path / "one/runs").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "one/runs")
    first.run(runs[:2], silent)
    found = read_sweep(tmp_path / "one/sweep.json")["runs"]
    assert [run["name"] for run in found] == ["full precision", "drawn", "rtn"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_sweep_that_stays_on_the_gpu_gives_the_same(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    runs, figures = plan([METHODS["rtn"], METHODS["fed"]], SETTING, [3], [text]), []
    for offload in (True, False):
        sweep = make_sweep(tiny_gpt2(), character_tokenizer, text, tmp_path / str(offload))
        sweep = Sweep(tiny_gpt2(), "tiny", sweep.suite, sweep.folder, torch.device("cuda"), offload=offload)
        figures.append([record.figure("text", "perplexity") for record in sweep.run(runs, silent)])
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)


def test_a_method_with_a_width_of_its_own_runs_once(text: str) -> None:
    methods = [METHODS["rtn"], load_methods()["smoothquant-w8a8"]]
    runs = plan(methods, SETTING, [4, 2], [text])
    assert [(run.name, run.bits) for run in runs[1:]] == [("rtn", 4), ("smoothquant-w8a8", 8), ("rtn", 2)]
    assert runs[2].setting is not None
    assert runs[2].setting.bits == 8


def test_calibration_sets_make_a_cross_table(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("9 + 9 = 18; 27 / 3 = 9. " * 30)
    tasks = [Perplexity("text", text, window=40), Perplexity("sums", str(other), window=40)]
    sweep = make_sweep(tiny_gpt2(), character_tokenizer, text, tmp_path / "out", tasks)
    records = sweep.run(plan(pick_methods(["rtn", "fed"], METHODS), SETTING, [3], [text, str(other)]), silent)
    assert [record.name for record in records] == ["full precision", "rtn", "fed", "fed"]
    for column in figures(sweep.tasks):
        assert cross_table(entries(records), column) == {
            ("fed", 3): {record.calibration: record.figure(column.task, "perplexity") for record in records[2:]}
        }
    values = [record.figure("text", "perplexity") for record in records[2:]]
    assert values[0] != values[1]


KILLED = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from posttraining.ptq.parts import METHODS, SETTING, open_sweep, silent
import torch
from switchq.posttraining.ptq.plan import pick_methods, plan

torch.set_num_threads(1)  # as the tests run: sums over another number of threads end in other last digits
base, folder, text, count = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
seen = []
def start(run):
    seen.append(run)
    if len(seen) > count:
        os.kill(os.getpid(), signal.SIGKILL)
    return silent(run)
open_sweep(base, text, folder).run(plan(pick_methods(["rtn", "fed"], METHODS), SETTING, [4, 2], [text]), start)
"""


def test_a_killed_sweep_goes_on_and_ends_like_an_unbroken_one(
    save_tiny: Callable[..., Path], text: str, tmp_path: Path
) -> None:
    base, tests = save_tiny("gpt2"), Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(tests), str(base), str(tmp_path / "killed"), text, "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = sorted((tmp_path / "killed" / "runs").glob("*.json"))
    assert len(kept) == 2
    times = [file.stat().st_mtime_ns for file in kept]
    runs = plan(pick_methods(["rtn", "fed"], METHODS), SETTING, [4, 2], [text])
    resumed = open_sweep(base, text, tmp_path / "killed")
    assert len(resumed.missing(runs)) == 3
    resumed.run(runs, silent)
    assert [file.stat().st_mtime_ns for file in kept] == times
    whole = open_sweep(base, text, tmp_path / "whole")
    whole.run(runs, silent)
    ends = [read_sweep(tmp_path / name / "sweep.json") for name in ("killed", "whole")]
    assert without_times(ends[0]) == without_times(ends[1])
    names = [sorted(file.name for file in (tmp_path / name / "runs").iterdir()) for name in ("killed", "whole")]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith(".npz"):
            assert (tmp_path / "killed/runs" / name).read_bytes() == (tmp_path / "whole/runs" / name).read_bytes()


def test_a_run_is_another_if_anything_that_decides_its_figures_is(
    tiny_gpt2: Tiny, character_tokenizer: PreTrainedTokenizerFast, text: str, tmp_path: Path
) -> None:
    sweep = make_sweep(tiny_gpt2(), character_tokenizer, text, tmp_path / "out")
    (_, run) = plan([METHODS["fed"]], SETTING, [4], [text])
    keys = {sweep.key(run)}
    assert run.setting is not None
    for change in ({"group_size": 8}, {"seed": 1}, {"samples": 2}, {"symmetric": True}, {"bits": 3}):
        (_, other) = plan([METHODS["fed"]], replace(SETTING, **change), [change.get("bits", 4)], [text])
        if "seed" in change:
            (_, other) = plan([METHODS["fed"]], SETTING, [4], [text], seeds=[1])
        keys.add(sweep.key(other))
    other_model = make_sweep(tiny_gpt2(seed=1), character_tokenizer, text, tmp_path / "out2")
    keys.add(other_model.key(run))
    Path(text).write_text(Path(text).read_text() + "More of it. ")
    keys.add(make_sweep(tiny_gpt2(), character_tokenizer, text, tmp_path / "out3").key(run))
    assert len(keys) == 8


def test_only_one_process_writes_and_another_sweep_is_refused(tmp_path: Path) -> None:
    header = {"key": "a", "base": "b", "tasks": {}, "setting": {}}
    first = SweepFolder(tmp_path / "out")
    first.claim(header, False)
    with pytest.raises(UserError, match="another sweep is writing"):
        SweepFolder(tmp_path / "out").claim(header, False)
    first.close()
    with pytest.raises(UserError, match="another model or with other tasks"):
        SweepFolder(tmp_path / "out").claim({**header, "key": "z"}, False)
    last = SweepFolder(tmp_path / "out")
    last.claim({**header, "key": "z"}, True)
    last.close()
    assert read_sweep(tmp_path / "out" / "sweep.json")["key"] == "z"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bits": []}, "nothing to run"),
        ({"bits": [4, 4]}, "twice"),
        ({"seeds": [1, 1]}, "twice"),
        ({}, "fed needs calibration text"),
    ],
    ids=str,
)
def test_plans_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        plan([METHODS["fed"]], SETTING, **{"bits": [4], **options})


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="no method 'gtpq'; there are rtn, fed"):
        pick_methods(["gtpq"], METHODS)


def test_what_a_kill_in_the_middle_of_writing_leaves_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".sweep.json.4711.part").write_text('{"kind": ')
    SweepFolder(folder).check(False)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds something else \(thesis.txt\)"):
        SweepFolder(folder).check(False)
