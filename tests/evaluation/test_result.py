import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from switchq.evaluation.result import EvalResult, read_results, write_predictions, write_results
from switchq.evaluation.squad_score import QuestionScore
from switchq.evaluation.tables import before_after_table, results_table, show_table


def result(label: str = "8", bits: int = 8, **changes: Any) -> EvalResult:
    base = EvalResult(
        bitmap=label,
        bits=(bits,) * 48,
        label=label,
        average_bits=float(bits),
        adapters=True,
        n_questions=1000,
        n_cut=3,
        EM=71.25,
        F1=80.5,
        answer_perplexity=1.875,
        weight_mb=176.34,
        weight_parts_mb={"codes": 84.9, "scales": 0.3, "adapters": 9.4, "unquantised": 81.7},
        peak_memory_mb=1830.0,
        peak_memory_of="resident",
        tokens_per_s=1234.5,
        latency_ms=12.25,
        run={"seed": 0, "versions": {"python": "3.11"}},
    )
    return dataclasses.replace(base, **changes)


def shown(table: Table, width: int) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    return console.export_text().splitlines()


def test_json_is_a_plain_list_in_order_and_comes_back(tmp_path: Path) -> None:
    results = [
        result("4", 4),
        result("8", 8),
        result("2", 2, NoAns_f1=50.0, HasAns_total=7, text_perplexity={"w": 30.5}),
    ]
    write_results(tmp_path / "r.json", results)
    records = json.loads((tmp_path / "r.json").read_text())
    assert [record["bitmap"] for record in records] == ["4", "8", "2"]
    assert (records[0]["EM"], records[0]["F1"], records[0]["bits"]) == (71.25, 80.5, [4] * 48)
    assert "NoAns_f1" not in records[0]
    assert records[2]["NoAns_f1"] == 50.0
    assert read_results(tmp_path / "r.json") == results


def test_a_perplexity_that_is_not_finite_is_null(tmp_path: Path) -> None:
    write_results(tmp_path / "r.json", [result(answer_perplexity=math.inf)])
    (back,) = read_results(tmp_path / "r.json")
    assert back.answer_perplexity is None
    assert any("inf" in line for line in shown(results_table([back]), 100))


def test_predictions_and_scores_stay_out_of_the_record(tmp_path: Path) -> None:
    kept = result(predictions={"q1": "a cat"}, scores=(QuestionScore("q1", 1.0, 1.0, True),))
    assert not {"predictions", "scores"} & set(kept.record())
    write_predictions(tmp_path / "p.json", kept)
    assert json.loads((tmp_path / "p.json").read_text()) == {"q1": "a cat"}
    with pytest.raises(ValueError, match="keep_predictions"):
        write_predictions(tmp_path / "p.json", result())


LADDER = [("8", 8), ("8/4", 6), ("4", 4), ("4/2", 3), ("2", 2), ("mixed 5.25", 5)]


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_a_terminal(width: int) -> None:
    lines = shown(results_table([result(label, bits) for label, bits in LADDER]), width)
    rows = [line for line in lines if "71.2" in line]
    assert [row.split()[0] for row in rows] == ["8", "8/4", "4", "4/2", "2", "mixed"]
    for row in rows:
        for figure in ("80.5", "1.88", "176.3", "12.2", "1,234", "1,830"):
            assert figure in row
    assert not any("…" in line for line in lines)
    assert not any("NoAns" in line for line in lines)


@pytest.mark.parametrize(("width", "texts"), [(80, {}), (100, {"wikitext2": 25.25})])
def test_the_table_of_v2_shows_both_halves(width: int, texts: dict[str, float]) -> None:
    both = [result(label, bits, HasAns_f1=61.5, NoAns_f1=47.5, text_perplexity=texts) for label, bits in LADDER]
    text = "\n".join(shown(results_table(both), width))
    assert "…" not in text
    for piece in ("mixed", "5.25", "HasAns", "61.5", "NoAns", "47.5", *texts, *map(str, texts.values())):
        assert piece in text


@pytest.mark.parametrize("width", [80, 100])
def test_before_and_after(width: int) -> None:
    before = [result(label, bits, EM=0.5, F1=1.5, answer_perplexity=123456.0) for label, bits in LADDER]
    after = [result(label, bits) for label, bits in LADDER]
    lines = shown(before_after_table(before, after), width)
    rows = [line for line in lines if "0.5 → 71.2" in line]
    assert len(rows) == len(LADDER)
    assert all("1.5 → 80.5" in row and "1.2e5 → 1.88" in row for row in rows)
    assert not any("…" in line for line in lines)


def test_before_and_after_must_be_about_the_same_bitmaps() -> None:
    with pytest.raises(ValueError, match="same bitmaps"):
        before_after_table([result(bits=8)], [result(bits=4)])


def test_a_title_stays_on_one_line() -> None:
    """A terminal wraps it where it must; what is copied or piped is a path in one piece."""
    console = Console(width=40, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    title = "lightning_logs/version_12/checkpoints/last.ckpt on [22] windows, CPU"
    show_table(console, title, results_table([result()]))
    console.file.close()
    assert console.export_text().splitlines()[0] == title


def test_figures_that_do_not_fit_are_not_cut() -> None:
    """Nor are the names of bitmaps: the table becomes wider than the terminal, or the file that it goes to."""
    texts = {name: 3.25e7 for name in ("wikitext2", "c4-validation", "lambada")}
    rows = [result(label, bits, HasAns_f1=61.5, NoAns_f1=47.5, text_perplexity=texts) for label, bits in LADDER]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show_table(console, "all", results_table(rows))
    console.file.close()
    lines = console.export_text().splitlines()
    assert "…" not in "".join(lines)
    found = [line.split() for line in lines if "61.5" in line]
    assert [row[0] for row in found] == ["8", "8/4", "4", "4/2", "2", "5.25"]  # below "mixed"
    assert all(row.count("3.2e7") == 3 and {"176.3", "12.2", "1,830"} <= set(row) for row in found)


def test_text_alone_has_no_speed_of_answers() -> None:
    silent = {"EM": None, "F1": None, "n_questions": 0, "answer_perplexity": None, "tokens_per_s": None}
    one = result(**silent, text_perplexity={"houses": 30.5})
    said = "\n".join(shown(before_after_table([one], [one]), 80))
    assert "houses" in said
    assert "30.50 → 30.50" in said
    assert not any(word in said for word in ("tokens", "F1", "EM"))
