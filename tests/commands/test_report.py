"""`switchq report` from the command line: what it writes, and what it refuses."""

import json
import os
import re
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from switchq.posttraining import report as switchq_report

from .conftest import Outcome, Run


@pytest.fixture
def results(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results of a real run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.json").write_bytes((run.folder / "results.json").read_bytes())
    return Path("results.json")


def test_one_line_one_page(results: Path, run: Run, switchq: Callable[..., Outcome]) -> None:
    done = switchq("report", results, run.folder, "--title", "A & B", "--output", "new/report.html")
    assert (done.code, done.err) == (0, "")
    page = Path("new/report.html").read_text(encoding="utf-8")
    assert "<title>A &amp; B</title>" in page
    size = Path("new/report.html").stat().st_size / 1e6
    figures, tables = page.count("<figure"), page.count("<table>\n")
    assert figures >= 1
    count = f"{figures} figure{'s' * (figures > 1)}, {tables} table{'s' * (tables > 1)}"
    assert done.out == f"Report new/report.html ({size:.1f} MB, {count})\n"
    assert os.listdir("new") == ["report.html"]
    for record in json.loads(results.read_text()):
        assert f">{record['bitmap']}</span>" in page


def test_positional_arguments_may_stand_anywhere(results: Path, run: Run, switchq: Callable[..., Outcome]) -> None:
    orders = (
        ["report", results, run.folder, "--output", "a.html"],
        ["report", "--output", "b.html", results, run.folder],
        ["report", results, "--output=c.html", run.folder],
        ["report", "--run", results, "--run", run.folder, "--output", "d.html"],
    )
    tables = []
    for order in orders:
        assert switchq(*order).code == 0
        page = Path(str(order).split(".html")[0][-1] + ".html").read_text(encoding="utf-8")
        tables.append(re.findall(r"<tbody>.*?</tbody>", page, re.DOTALL))
    assert tables[0]
    assert all(one == tables[0] for one in tables)


def test_figures_as_svg_and_png(results: Path, switchq: Callable[..., Outcome]) -> None:
    assert switchq("report", results, "--figures", "plots").code == 0
    names = sorted(os.listdir("plots"))
    page = Path("report.html").read_text(encoding="utf-8")
    slugs = sorted(re.findall(r'data-figure="([^"]*)"', page))
    assert names == sorted(f"{slug}{end}" for slug in slugs for end in (".svg", ".png"))
    assert names[0].startswith("f1-against-size")
    for slug in slugs:
        assert Path(f"plots/{slug}.svg").read_text(encoding="utf-8").startswith("<svg")
        image = Path(f"plots/{slug}.png").read_bytes()
        assert struct.unpack(">II", image[16:24])[0] > 1400


def test_nothing_is_replaced_unless_asked(results: Path, switchq: Callable[..., Outcome]) -> None:
    Path("report.html").write_text("mine")
    done = switchq("report", results)
    assert done.code == 2
    assert done.err == "switchq: error: report.html exists already: give another --output, or --overwrite\n"
    assert Path("report.html").read_text() == "mine"
    assert switchq("report", results, "--overwrite").code == 0
    assert switchq("report", results, "--overwrite", "true", "--figures", "plots").code == 0
    done = switchq("report", results, "--output", "other.html", "--figures", "plots")
    assert "exists already: give another --figures, or --overwrite" in done.err
    assert not Path("other.html").exists()


MISTAKES = [
    ("report", "nothing to report on", "lightning_logs/version_N"),
    ("report none.json", "no file or folder none.json"),
    ("report half.json", "half.json is damaged or not JSON"),
    ("report empty.json", "empty.json holds no results"),
    ("report unknown.json", "'recipe'", "understood are"),
    ("report results.json unknown.json", "'recipe'"),
    ("report .", "is not a run folder"),
    ("report curveless", "nothing to show in curveless: name one or more of results of `switchq eval`"),
    ("report results.json --output file/below/r.html", "cannot write file/below/r.html"),
    ("report results.json --output folder --overwrite", "it is a folder"),
    ("report results.json --figures file/below", "cannot write file/below"),
    ("report results.json --titel x", "unknown option --titel"),
]


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row[0])
def test_a_mistake_is_one_line_and_leaves_nothing(
    row: tuple[str, ...], results: Path, tmp_path: Path, switchq: Callable[..., Outcome]
) -> None:
    command, *says = row
    (tmp_path / "half.json").write_text(results.read_text()[:300])
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "unknown.json").write_text('{"kind": "recipe"}')
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    SummaryWriter("curveless").close()
    if command == "report .":
        results.unlink()
    before = sorted(tmp_path.rglob("*"))
    done = switchq(*command.split())
    assert done.code == 2, done
    assert (done.out, done.err.count("\n")) == ("", 1), done
    for part in says:
        assert part in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_old_page(
    results: Path, switchq: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("report.html").write_text("mine")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = switchq("report", results, "--overwrite")
    assert done.code == 3
    assert "cannot write report.html (No space left on device)" in done.err
    assert Path("report.html").read_text() == "mine"


def test_the_template_is_part_of_the_package() -> None:
    settings = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8"))
    (pattern,) = settings["tool"]["setuptools"]["package-data"]["switchq.posttraining.report"]
    folder = Path(switchq_report.__file__).parent
    assert sorted(path.name for path in folder.glob(pattern)) == ["page.css", "page.html.j2", "page.js"]
