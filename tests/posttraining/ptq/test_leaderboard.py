"""The leaderboard: order, groups, the best of a width, failed runs, a width of the terminal."""

from typing import Any

import pytest
from rich.console import Console

from switchq.commands.ptq_tables import cross_tables, figure_text, leaderboard_tables
from switchq.posttraining.ptq.leaderboard import best, by_width, entries, figures
from switchq.posttraining.ptq.results import RunRecord

TASKS = {
    f"text {i}": {"metrics": [{"name": "perplexity", "better": "lower", "form": "perplexity"}]} for i in range(9)
} | {
    "arc": {
        "metrics": [
            {"name": "accuracy", "better": "higher", "form": ".1f"},
            {"name": "macro F1", "better": "higher", "form": ".1f"},
        ]
    }
}  # fmt: skip


def record(name: str, bits: int, perplexity: float | None, accuracy: float = 50.0, **more: Any) -> RunRecord:
    scores = {f"text {i}": {"perplexity": perplexity} for i in range(9)}
    scores |= {"arc": {"accuracy": accuracy, "macro F1": accuracy / 2}}  # type: ignore[dict-item]
    values = {"scores": scores, "effective_bits": bits + 0.25, "size_mb": 1.0, "size_before_mb": 4.0, **more}
    return RunRecord(name, bits, **values)


RECORDS = [
    record("gptq", 2, 90.0, 40.0),
    record("switchq", 4, 31.0),
    record("rtn", 4, 36.0, 55.0),
    record("gptq", 4, 30.5),
    record("full precision", 16, 29.0, 60.0),
    record("rtn", 2, None, 25.0),
    RunRecord("awq", 4, error="out of luck"),
]


def test_full_precision_first_and_wide_before_narrow() -> None:
    rows = entries(RECORDS)
    assert [(bits, [row.name for row in group]) for bits, group in by_width(rows)] == [
        (16, ["full precision"]),
        (4, ["awq", "gptq", "rtn", "switchq"]),
        (2, ["gptq", "rtn"]),
    ]


def test_the_best_of_a_width() -> None:
    perplexity, accuracy = figures(TASKS, headlines=True)[0], figures(TASKS, headlines=True)[-1]
    groups = dict(by_width(entries(RECORDS)))
    assert (best(groups[4], perplexity), best(groups[4], accuracy)) == (30.5, 55.0)
    assert best(groups[16], perplexity) is None
    assert best(groups[2], perplexity) is None  # the other one is not finite


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_figure_is_on_a_table_that_fits(width: int) -> None:
    console = Console(width=width, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in leaderboard_tables(entries(RECORDS), TASKS, width):
        console.print(table)
    console.file.close()
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    assert words.count("30.50") == words.count("36.00") == 9
    assert words.count("inf") == 9
    for heading in ("macro", "smaller", "effective"):
        assert heading in words
    assert "awq (failed)" in text


def test_seeds_are_averaged() -> None:
    (row,) = entries([record("gptq", 4, value, seed=seed) for seed, value in enumerate((30.0, 31.0, 32.0))])
    assert (row.mean("text 0", "perplexity"), row.spread("text 0", "perplexity")) == (31.0, 1.0)
    assert len(row.runs) == 3


def test_cross_table_has_a_row_for_every_calibration_set() -> None:
    rows = entries([record("gptq", 4, 30.0, calibration="a"), record("gptq", 4, 31.0, calibration="b/c.txt")])
    (table,) = cross_tables(rows, TASKS)
    assert list(table.columns[0].cells) == ["a", "b/c.txt"]
    assert list(table.columns[1].cells) == ["30.00", "31.00"]
    assert cross_tables(rows[:1], TASKS) == []


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (None, ".1f", ""),
        (float("inf"), "perplexity", "inf"),
        (float("nan"), ".1f", "-"),
        (12345.6, "g", "12,346"),
        (0.01234, "g", "0.0123"),
        (97.25, ".1f", "97.2"),
    ],
)
def test_figures_as_text(value: float | None, form: str, text: str) -> None:
    assert figure_text(value, form) == text
