"""Result files of every kind, small and made up, and the page of all of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from switchq.posttraining.report import Report, build, read_sources, render
from switchq.posttraining.sensitivity import Sensitivity

LAYERS = [f"h.{block}.{linear}" for block in range(2) for linear in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")]
RUN = {
    "base": "models/tiny",
    "base_hash": "ab" * 32,
    "checkpoint": "runs/last.ckpt",
    "data": "data/dev.json",
    "data_sha256": "cd" * 32,
    "device": "cpu (x86_64, 1 thread)",
    "seed": 7,
    "settings": {"grid": {"class_path": "Symmetric"}, "scoring": {"batch_size": 32, "windows": {}}},
    "versions": {"torch": "2.13.0"},
    "command": "switchq eval --ckpt runs/last.ckpt --limit 50",
}


def record(label: str, bits: Sequence[int], f1: float | None, mb: float, **more: Any) -> dict[str, Any]:
    """One record of a results file."""
    return {
        "bitmap": label,
        "bits": list(bits),
        "label": label,
        "average_bits": sum(bits) / len(bits),
        "adapters": True,
        "weight_mb": mb,
        "weight_parts_mb": {"codes": mb},
        "peak_memory_mb": 100.0,
        "peak_memory_of": "resident",
        "n_questions": 50,
        "n_cut": 0,
        **({} if f1 is None else {"F1": f1, "EM": f1 - 2.5}),
        "answer_perplexity": 1.25,
        "tokens_per_s": 1234.0,
        "latency_ms": 5.5,
        "text_perplexity": {},
        "run": RUN,
        **more,
    }


RECORDS = [
    record("16", [16] * 6, 80.0, 200.0),
    record("8", [8] * 6, 79.6, 101.0, F1_interval=[77.0, 82.0]),
    record("8/4", [8, 4] * 3, 79.0, 82.0),
    record("attn=8,mlp=4", [8, 8, 4, 8, 8, 4], 79.2, 90.0),
    record("4", [4] * 6, 72.0, 60.0),
    record("2", [2] * 6, 10.5, 43.0),
]


def search_point(bits: Sequence[int], f1: float, accepted: bool | None, method: str) -> dict[str, Any]:
    """One row of a search."""
    mean = sum(bits) / len(bits)
    return {
        "bitmap": ",".join(map(str, bits)),
        "bits": list(bits),
        "F1": f1,
        "average_bits": mean,
        "weight_mb": 20 + 10 * mean,
        "accepted": accepted,
        "method": method,
        "questions": 64,
    }


TRIED = [
    search_point([8, 8, 8, 8, 8, 8], 78.0, True, "greedy"),
    search_point([4, 8, 8, 8, 8, 8], 77.5, True, "greedy"),
    search_point([4, 2, 8, 8, 8, 8], 41.0, False, "greedy"),
    search_point([4, 4, 8, 8, 8, 8], 77.0, True, "greedy"),
    search_point([2, 4, 8, 2, 4, 8], 30.0, False, "evolution"),
    search_point([4, 4, 4, 4, 8, 4], 70.0, True, "evolution"),
]


def write_search(folder: Path) -> Path:
    """`search.json` and `search.csv`."""
    content = {
        "kind": "search",
        "run": {**RUN, "data": "data/train.json", "command": "switchq search --budget 0.3"},
        "settings": {"metric": "F1", "budget": 0.3, "dev": "data/dev.json"},
        "methods": {"greedy": {"evaluations": 4}},
        "points": TRIED,
        "front": [TRIED[0], TRIED[1], TRIED[3], TRIED[5]],
        "baselines": [{"label": "8", **TRIED[0]}],
        "chosen": TRIED[3],
        "dev": [{**{k: v for k, v in RECORDS[1].items() if k != "run"}, "f1_interval": [76.0, 83.0]}],
    }
    (folder / "search.json").write_text(json.dumps(content))
    names = [name for name in TRIED[0] if name != "bits"]
    lines = [",".join(names)]
    for row in TRIED:
        cells = [str(row[name]).lower() if name == "accepted" else str(row[name]) for name in names]
        lines.append(",".join(f'"{cell}"' for cell in cells))
    (folder / "search.csv").write_text("\n".join(lines) + "\n")
    return folder / "search.csv"


def write_run(folder: Path) -> Path:
    """A run folder with curves of two bitmaps, scores before and after, and its configuration."""
    writer = SummaryWriter(str(folder))
    for step in range(0, 40):
        writer.add_scalar("loss", 2 - step / 40, step)
        for label, level in (("8", 1.0), ("8/4", 1.5)):
            writer.add_scalar(f"ce/{label}", level - step / 80, step)
            writer.add_scalar(f"gradient norm/{label}", level, step)
        writer.add_scalar("learning rate", 1e-3, step)
    writer.close()
    (folder / "results.json").write_text(json.dumps(RECORDS[:3]))
    (folder / "before.json").write_text(json.dumps([{**one, "F1": one["F1"] / 2} for one in RECORDS[:3]]))
    (folder / "config.yaml").write_text("model:\n  bits: [8, 4, 2]\n")
    return folder


def write_sensitivity(path: Path) -> Path:
    """Two scores of six layers at three widths; one value is not finite."""
    scores = {
        name: {bits: tuple(scale * 4.0**-bits * (1 + (i * 7) % 5) for i in range(len(LAYERS))) for bits in (8, 4, 2)}
        for name, scale in (("kl", 1.0), ("fisher", 30.0))
    }
    scores["fisher"][2] = (float("inf"), *scores["fisher"][2][1:])
    agree = {"kl": {"kl": 1.0, "fisher": 0.87}, "fisher": {"kl": 0.87, "fisher": 1.0}}
    sizes = tuple(1000 * (i + 1) for i in range(len(LAYERS)))
    command = {**RUN, "command": "switchq sensitivity --ckpt runs/last.ckpt"}
    cost = {"kl": {"seconds": 81.5}}
    Sensitivity(tuple(LAYERS), sizes, (8, 4, 2), scores, agree, command, cost).write(path)
    return path


@dataclass(frozen=True)
class Files:
    """One file of each kind."""

    results: Path
    search: Path
    sensitivity: Path
    run: Path

    @property
    def all(self) -> list[Path]:
        return [self.results, self.search, self.sensitivity, self.run]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """All of them, in one folder."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "results.json").write_text(json.dumps(RECORDS))
    run = write_run(folder / "version_0")
    return Files(folder / "results.json", write_search(folder), write_sensitivity(folder / "sensitivity.json"), run)


@dataclass(frozen=True)
class Page:
    """A report, its HTML, and where that lies."""

    report: Report
    html: str
    path: Path


@pytest.fixture(scope="session")
def page(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of all files."""
    report = build(read_sources(files.all), "Six layers")
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(report), encoding="utf-8")
    return Page(report, path.read_text(encoding="utf-8"), path)


EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>'\"&{{7*7}}\u2028\ud800"


@pytest.fixture
def hostile(tmp_path: Path, files: Files) -> str:
    """A page whose every text is an attack."""
    run = {**RUN, **{key: EVIL for key in ("base", "checkpoint", "device", "command")}, "settings": {EVIL: EVIL}}
    records = [record(EVIL, [8, 4, 2, 2, 2, 2], 70.0, 80.0, run=run), record("16", [16] * 6, 80.0, 99.0, run=run)]
    records[0]["text_perplexity"] = records[1]["text_perplexity"] = {EVIL: 3.5}
    (tmp_path / "results.json").write_text(json.dumps(records))
    scores = json.loads(files.sensitivity.read_text())
    scores["layers"] = [{"name": f"h.{i}.{EVIL}", "weights": 5} for i in range(6)]
    scores["scores"] = {EVIL: scores["scores"]["kl"], "kl": scores["scores"]["kl"]}
    scores["correlations"] = {EVIL: {"kl": 0.5}}
    (tmp_path / "s.json").write_text(json.dumps(scores))
    search = json.loads(files.search.with_suffix(".json").read_text())
    for point in search["points"]:
        point |= {"label": EVIL, "method": "greedy" + EVIL}
    search["chosen"] = {EVIL: search["chosen"]}
    (tmp_path / "q.json").write_text(json.dumps(search))
    return render(build(read_sources([tmp_path / name for name in ("results.json", "s.json", "q.json")]), EVIL))
