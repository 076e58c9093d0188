"""Tables of sensitivities: the order of layers, and their width on a terminal."""

import io

import pytest
from rich.console import Console

from switchq.posttraining.sensitivity import Sensitivity
from switchq.posttraining.sensitivity.tables import correlation_table, cost_table, sensitivity_tables, short_names


def printed(*tables: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    for table in tables:
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def smol() -> Sensitivity:
    """Thirty blocks with the long names of a Llama, at four widths."""
    linears = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    layers = tuple(f"model.layers.{block}.{linear}" for block in range(30) for linear in linears)
    rows = {bits: tuple(float((i * 7919) % 120 + bits) for i in range(120)) for bits in (8, 6, 4, 2)}
    cost = {"kl": {"seconds": 1234.5, "forwards": 180.5, "forwards_naive": 481.0, "peak_memory_mb": 1234.0}}
    return Sensitivity(layers, (1,) * 120, (8, 6, 4, 2), {"kl": rows}, {"kl": {"kl": None}}, cost=cost)


def test_long_names_and_many_widths_stay_narrow(smol: Sensitivity) -> None:
    tables = sensitivity_tables(smol)
    assert len(tables) == 2
    text = printed(*tables)
    assert max(map(len, text.splitlines())) <= 80
    assert [bits for bits in (8, 6, 4, 2) if f"{bits} bits" in text] == [8, 6, 4, 2]


def test_the_most_sensitive_layers_come_first(smol: Sensitivity) -> None:
    rows = [line.split() for line in printed(sensitivity_tables(smol, top=3)[0]).splitlines() if line[:1].isdigit()]
    values = smol.scores["kl"][8]
    best = sorted(range(120), key=lambda i: -values[i])[:3]
    assert [row[1] for row in rows] == [smol.layers[i].removeprefix("model.layers.") for i in best]
    assert [row[2] for row in rows] == [f"{values[i]:.1e}" for i in best]


def test_a_correlation_that_is_not_defined_stays_empty(smol: Sensitivity) -> None:
    assert printed(correlation_table(smol)).split()[-1] == "kl"


def test_the_title_of_a_narrow_table_stays_on_one_line() -> None:
    row = {"mse": 1.0, "mae": 0.5}
    few = Sensitivity(("h.0.a",), (1,), (4,), {"mse": {4: (0.1,)}, "mae": {4: (0.2,)}}, {"mse": row, "mae": row})
    titles = [printed(table).splitlines()[0].rstrip() for table in (*sensitivity_tables(few), correlation_table(few))]
    assert titles == ["Most sensitive layers by mse", "Rank correlations"]


def test_the_cost(smol: Sensitivity) -> None:
    assert printed(cost_table(smol)).split()[-5:] == ["kl", "1,234.5", "180.5", "481.0", "1,234.0"]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["t.h.0.a", "t.h.0.b"], ["a", "b"]),
        (["t.h.0.a", "t.h.1.a", "head"], ["t.h.0.a", "t.h.1.a", "head"]),
        (["t.h.0.a"], ["a"]),
        (["a.b", "a.b.c"], ["b", "b.c"]),
    ],
    ids=["shared", "nothing shared", "one layer", "one inside the other"],
)
def test_short_names(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short
