import copy
import doctest
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import switchq.bitmap
from switchq.bitmap import FULL, WIDTHS, Bitmap, ladder
from switchq.errors import UserError

NAMES = tuple(f"transformer.h.{block}.{part}" for block in range(12) for part in ("attn.c_attn", "mlp.c_fc"))

ALL_WIDTHS = (*WIDTHS, FULL)

widths = st.sampled_from(ALL_WIDTHS)


def test_doctests() -> None:
    result = doctest.testmod(switchq.bitmap)
    assert result.attempted > 0
    assert result.failed == 0


@given(st.lists(widths, min_size=1, max_size=30))
def test_formatting_and_parsing_round_trip(bits: list[int]) -> None:
    names = [f"layer.{i}" for i in range(len(bits))]
    bitmap = Bitmap(bits)
    assert Bitmap.parse(str(bitmap), names) == bitmap
    assert list(bitmap) == bits


@given(st.lists(widths, min_size=1, max_size=4), st.integers(1, 30))
def test_period_is_the_shortest_stripe(pattern: list[int], layers: int) -> None:
    bitmap = Bitmap.stripe(pattern, layers)
    assert list(bitmap) == [pattern[i % len(pattern)] for i in range(layers)]
    assert Bitmap.stripe(bitmap.period, layers) == bitmap
    assert len(bitmap.period) <= min(len(pattern), layers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8", [8] * 24),
        (8, [8] * 24),
        (" 16 ", [16] * 24),
        ("8/4", [8, 4] * 12),
        ("8 / 4 / 2", [8, 4, 2] * 8),
        (",".join(["8", "3"] * 12), [8, 3] * 12),
        (", ".join(["5"] * 24), [5] * 24),
        ("attn=8,mlp=4", [8, 4] * 12),
        ("attn=8", [8, 16] * 12),
        ("*=4, mlp=2", [4, 2] * 12),
        ("mlp=2,*=4", [4] * 24),
        ("h.1=2", [16] * 2 + [2] * 2 + [16] * 20),
        ("h.1?=2", [16] * 20 + [2] * 4),
        ("transformer.h.0.attn.c_attn=3", [3] + [16] * 23),
        ("c_*=8", [8] * 24),
        ("[!a]*.c_fc=8", [16, 8] * 12),
    ],
    ids=str,
)
def test_written_forms(text: str | int, expected: list[int]) -> None:
    assert list(Bitmap.parse(text, NAMES)) == expected


def test_parsing_a_bitmap_gives_it_back() -> None:
    bitmap = Bitmap.parse("8/4", NAMES)
    assert Bitmap.parse(bitmap, NAMES) == bitmap


@pytest.mark.parametrize(
    "content",
    [
        [8, 4] * 12,
        {"attn": 8, "mlp": 4},
        {name: 8 if "attn" in name else 4 for name in NAMES},
        {"bitmap": [8, 4] * 12, "F1": 80.0},
        {"bitmap": {"attn": 8, "mlp": "4"}},
        {"bitmap": "8/4"},
        "8/4",
    ],
    ids=["list", "globs", "names", "record", "record of globs", "record of text", "text"],
)
def test_files(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "bitmap.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert list(Bitmap.parse(f"@{path}", NAMES)) == [8, 4] * 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8,4", "2 widths.*24 quantised layers"),
        (",".join(["8"] * 25), "25 widths.*24 quantised layers"),
        ("9", "no bit-width 9"),
        ("1", "no bit-width 1"),
        ("0", "no bit-width 0"),
        ("-8", "no bit-width -8"),
        ("32", "no bit-width 32"),
        ("8/1", "no bit-width 1"),
        ("eight", "'eight' is not a bit-width"),
        ("", "'' is not a bit-width"),
        ("8.0", "'8.0' is not a bit-width"),
        ("attn=8,mlp=9", "no bit-width 9"),
        ("attn=", "'' is not a bit-width"),
        ("attention=8", "'attention' matches no quantised layer.*transformer.h.0.attn.c_attn"),
        ("att=8", "'att' matches no"),
        ("h.12=8", "'h.12' matches no"),
        ("=8", "'' matches no"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Bitmap.parse(text, NAMES)


def test_a_bitmap_of_another_model_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"48 widths.*24 quantised layers"):
        Bitmap.parse(Bitmap.stripe([8], 48), NAMES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[8, 4", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe8", "cannot read the bitmap file"),
        (b"8", "neither a list of widths nor"),
        (b"null", "neither a list of widths nor"),
        (b'{"bitmap": 1.5}', "neither a list of widths nor"),
        (b'"@other.json"', "neither a list of widths nor"),
        (b"[8, 4]", "2 widths.*24 quantised layers"),
        (b"[[8], [4]]", "is not a bit-width"),
        (b"[true]", "is not a bit-width"),
        (b'{"head": 8}', "'head' matches no"),
        (b'{"attn": null}', "is not a bit-width"),
    ],
    ids=str,
)
def test_mistakes_in_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bitmap.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Bitmap.parse(f"@{path}", NAMES)


@pytest.mark.parametrize("name", ["absent.json", "."], ids=["missing", "folder"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot read the bitmap file"):
        Bitmap.parse(f"@{tmp_path / name}", NAMES)


def test_an_empty_bitmap_is_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        Bitmap([])


def test_is_an_immutable_value() -> None:
    bitmap = Bitmap([8, 4, 2])
    with pytest.raises(TypeError):
        bitmap[0] = 2  # type: ignore[index]
    with pytest.raises(AttributeError):
        bitmap.note = "no"  # type: ignore[attr-defined]
    assert {bitmap: "found"}[Bitmap(["8", "4", "2"])] == "found"  # type: ignore[list-item]
    assert bitmap == (8, 4, 2)
    for copied in (pickle.loads(pickle.dumps(bitmap)), copy.deepcopy(bitmap)):
        assert copied == bitmap
        assert isinstance(copied, Bitmap)


def test_average_bits_by_hand() -> None:
    bitmap = Bitmap([8, 4, 2])
    assert bitmap.average_bits([10, 10, 10]) == pytest.approx(14 / 3)
    assert bitmap.average_bits([100, 200, 700]) == pytest.approx((800 + 800 + 1400) / 1000)
    assert bitmap.code_bytes([100, 200, 700]) == 375
    with pytest.raises(UserError, match="2 layer sizes for a bitmap of 3"):
        bitmap.average_bits([1, 2])
    with pytest.raises(UserError, match="1 layer size for a bitmap of 2 widths"):
        Bitmap([8, 4]).average_bits([1])


@given(st.lists(st.tuples(widths, st.integers(1, 1000)), min_size=1))
def test_average_bits_lies_between_the_widths(layers: list[tuple[int, int]]) -> None:
    bits, sizes = zip(*layers)
    assert min(bits) - 1e-9 <= Bitmap(bits).average_bits(sizes) <= max(bits) + 1e-9


@pytest.mark.parametrize(
    ("widths", "rungs"),
    [((8, 4, 2), ("8", "8/4", "4", "4/2", "2")), ((2, 8), ("8", "8/2", "2")), ((3,), ("3",)), ((4, 4), ("4",))],
    ids=str,
)
def test_ladder(widths: tuple[int, ...], rungs: tuple[str, ...]) -> None:
    assert ladder(widths) == rungs
    averages = [Bitmap.parse(rung, ["a", "b"]).average_bits([1, 1]) for rung in rungs]
    assert averages == sorted(averages, reverse=True)
