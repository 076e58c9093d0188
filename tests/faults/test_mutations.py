"""Readers of files against thousands of mutated ones: an error of one line or the right answer, nothing else."""

import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from switchq.bitmap import Bitmap
from switchq.data.squad import Question, read_squad
from switchq.errors import UserError
from switchq.files import signed
from switchq.inference import export_artifact
from switchq.inference.artifact import MANIFEST, Artifact
from switchq.models import make_switchable
from switchq.quant import Nested

MUTATIONS = int(os.environ.get("SWITCHQ_MUTATIONS", "10000"))
"""Of the artifact; all of them by default."""

NAMES = [f"h.{block}.{part}" for block in range(2) for part in ("attn", "mlp")]

VALUES = [None, True, -1, 0, 1e308, "", "../../../etc/passwd", "x" * 3000, [], {}, [[]], {"a": None}, 2**70]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The bytes with something changed: bits, a cut, a piece lost, doubled, moved, or overwritten."""
    at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    end = min(end, at + draw.choice([1, 2, 8, 100, len(content)]))
    piece = content[at:end]
    return draw.choice(
        [
            lambda: content[:at] + bytes(byte ^ 1 << draw.randrange(8) for byte in piece[:1]) + content[at + 1 :],
            lambda: content[:at],
            lambda: content[:at] + content[end:],
            lambda: content[:at] + piece + content[at:],
            lambda: content[:at] + draw.randbytes(len(piece)) + content[end:],
            lambda: content[:at] + bytes(len(piece)) + content[end:],
            lambda: content + draw.randbytes(9),
            lambda: content[at:] + content[:at],
        ]
    )()


def altered(content: Any, draw: random.Random) -> Any:
    """Plain values with one of them replaced, removed, or given another name."""
    if isinstance(content, dict) and content and draw.random() < 0.9:
        key = draw.choice(list(content))
        how = draw.randrange(4)
        if how == 0:
            return {name: value for name, value in content.items() if name != key}
        if how == 1:
            return {(draw.choice(["../x", "", "é"]) if name == key else name): value for name, value in content.items()}
        return {**content, key: altered(content[key], draw)}
    if isinstance(content, list) and content and draw.random() < 0.8:
        place = draw.randrange(len(content))
        return [*content[:place], altered(content[place], draw), *content[place + 1 :]]
    return draw.choice(VALUES)


@pytest.fixture
def artifact(tiny_gpt2: Callable[..., Any], character_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    model = make_switchable(tiny_gpt2(n_layer=1, n_embd=8, n_head=1), (4, 2), Nested(), rank={4: 1, 2: 1})
    base = {"name": "tiny", "sha256": "0" * 64}
    export_artifact(model, character_tokenizer, tmp_path / "a", widths=(4, 2), base=base)
    return tmp_path / "a"


def tensors(folder: Path) -> dict[str, Tensor]:
    artifact = Artifact(folder)
    return {name: artifact.tensor(name).clone() for name in artifact.names("")}


def test_a_mutated_artifact_is_an_error_or_the_same(artifact: Path) -> None:
    draw, expected = random.Random(0), tensors(artifact)
    good = {path.name: path.read_bytes() for path in artifact.iterdir()}
    manifest = {key: value for key, value in json.loads(good[MANIFEST]).items() if key != "sha256"}
    refused, told = 0, set[str]()
    for number in range(MUTATIONS):
        name = draw.choice(sorted(good)) if number % 3 else MANIFEST
        if number % 3:
            content = mutated(good[name], draw)
        else:  # whoever changes a manifest can also sign it again
            changed = altered(manifest, draw)
            sealed = signed(changed) if isinstance(changed, dict) else changed
            content = json.dumps(sealed).encode()
        (artifact / name).unlink()  # a mapped file must not change under its reader
        (artifact / name).write_bytes(content)
        try:
            found = tensors(artifact)
            assert all(torch.equal(value, expected[key]) for key, value in found.items()), (number, name)
        except UserError as error:
            refused += 1
            told.add(str(error))
        (artifact / name).unlink()
        (artifact / name).write_bytes(good[name])
    assert refused > MUTATIONS / 2
    assert [text for text in told if str(artifact) not in text] == []


DOCUMENT = {
    "version": "v2.0",
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "The Rhine rises in the Alps.",
                    "qas": [
                        {"id": "q", "question": "Where?", "answers": [{"text": "the Alps", "answer_start": 19}]},
                        {"id": "r", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize("kind", ["bytes", "values"])
def test_a_mutated_squad_file(kind: str, tmp_path: Path) -> None:
    draw, path = random.Random(1), tmp_path / "squad.json"
    good = json.dumps(DOCUMENT).encode()
    read, told = 0, list[str]()
    for _ in range(2000):
        content = mutated(good, draw) if kind == "bytes" else json.dumps(altered(DOCUMENT, draw)).encode()
        path.write_bytes(content)
        try:
            found = read_squad(path)
            assert found
            assert all(isinstance(one, Question) and isinstance(one.context, str) for one in found)
            read += 1
        except UserError as error:
            told.append(str(error))
    assert 0 < read < 2000
    assert [text for text in told if "squad.json" not in text or "\n" in text] == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=300, deadline=None)
def test_any_json_as_a_squad_file(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({"data": content} if not isinstance(content, dict) else content))
    with pytest.raises(UserError, match=r"any\.json"):
        read_squad(path)


@given(st.text(max_size=40) | st.from_regex(r"[0-9/,=@*\[\]!?. a-z\-]{0,30}", fullmatch=True))
@settings(max_examples=1500, deadline=None)
def test_any_text_as_a_bitmap(text: str) -> None:
    try:
        bitmap = Bitmap.parse(text, NAMES)
    except UserError:
        return
    assert len(bitmap) == len(NAMES)
    assert set(bitmap) <= {2, 3, 4, 5, 6, 7, 8, 16}
    assert Bitmap.parse(str(bitmap), NAMES) == bitmap


@given(json_values)
@settings(max_examples=300, deadline=None)
def test_any_json_as_a_bitmap_file(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "bitmap.json"
    path.write_text(json.dumps(content))
    with suppress(UserError):
        assert len(Bitmap.parse(f"@{path}", NAMES)) == len(NAMES)
