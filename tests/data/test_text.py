"""Windows of running text: every token in exactly one place, from every kind of source."""

import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from switchq.data.batches import IGNORED
from switchq.data.local import looks_like_file
from switchq.data.modules import TextData
from switchq.data.rows import read_rows
from switchq.data.text import text_windows, window_example
from switchq.errors import UserError


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.raw"
    path.write_bytes("The Rhine rises\r\n in the Alps.\n\n é ".encode() * 20)
    return path


@given(window=st.integers(2, 700), data=st.data())
def test_each_token_is_new_in_one_window(
    text_file: Path, tokenizer: PreTrainedTokenizerFast, window: int, data: st.DataObject
) -> None:
    ids = tokenizer(text_file.read_bytes().decode())["input_ids"]
    stride = data.draw(st.integers(1, window))
    windows = text_windows(text_file, tokenizer, window, stride)
    new = windows[0] + [token for later in windows[1:] for token in later[window - stride :]]
    rest = len(ids) - len(new)
    assert new == ids[: len(new)]
    assert rest == 0 or (rest == 1 and stride == window)  # one token alone has nothing to be predicted from
    assert all(len(one) == window for one in windows[:-1])
    assert 2 <= len(windows[-1]) <= window


def test_json_lines_are_joined_by_the_end_token(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("The Rhine", "rises\nin", "the Alps")) + "\n")
    (window,) = text_windows(path, tokenizer, 100)
    assert tokenizer.decode(window) == "The Rhine<eos>rises\nin<eos>the Alps"


@pytest.mark.parametrize("ends", ["\u2028", "\u2029", "\x85", "\x0b"])
def test_json_lines_end_with_a_line_feed_alone(ends: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"text": f"The{ends}Rhine"}
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\r\n\n" + json.dumps(row) + "\n", encoding="utf-8")
    (window,) = text_windows(path, tokenizer, 100)
    assert tokenizer.decode(window).count("<eos>") == 1
    assert read_rows(path, "train") == [row, row]


def test_hub_rows_are_joined_by_blank_lines(
    monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    table = datasets.Dataset.from_dict({"text": ["The Rhine", "rises"]})
    monkeypatch.setattr("switchq.data.text.load_hub", lambda name, split, advice: table)
    (window,) = text_windows("owner/name:config", tokenizer, 100)
    assert tokenizer.decode(window) == "The Rhine\n\nrises"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "empty data set"),
        ("a.jsonl", "", "empty data set"),
        ("a.jsonl", '{"text": "a"}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", '{"body": "a"}', "line 1 has no string field 'text'"),
        ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000, "line 2 is nested too deeply"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "line 1 is not JSON"),
        ("a.jsonl", '{"text": "a \\uD800 b"}', r"line 1 holds \\ud800, half of a surrogate pair"),
    ],
    ids=["empty text", "empty jsonl", "cut off", "no text field", "deep", "digits", "half a pair"],
)
def test_a_bad_file_gives_one_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        text_windows(tmp_path / name, tokenizer, 8)


def test_endings_count_in_capitals_too(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "TEXT.JSONL"
    path.write_text('{"text": "The"}\n{"text": "Rhine \\ud83d\\ude00"}\n')
    (window,) = text_windows(path, tokenizer, 100)
    assert tokenizer.decode(window).startswith("The<eos>Rhine")


@pytest.mark.parametrize(
    ("source", "is_file"),
    [
        ("no.parquet", True),
        ("no.csv", True),
        ("data/no.jsonl.gz", True),
        ("a/b/c", True),
        ("./no", True),
        ("../no", True),
        ("data/..", True),
        ("C:/data/no.json", True),
        ("C:\\data\\no.json", True),
        ("squad", False),
        ("owner/name", False),
        ("owner/name-1.1", False),
        ("owner/name:config", False),
        ("owner/name:folder/one.jsonl", False),
        ("owner/name:en/one.json.gz", False),
    ],
)
def test_what_means_a_file(source: str, is_file: bool) -> None:
    assert looks_like_file(source) is is_file


def test_a_file_that_is_not_read_says_what_is(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["The Rhine"] * 100}).to_parquet(path)
    with pytest.raises(UserError, match=r"\.parquet files are not read: convert it to plain text, \.jsonl or \.json"):
        text_windows(path, tokenizer, 8)
    with pytest.raises(UserError, match=r"no\.parquet: no such file"):
        text_windows("no.parquet", tokenizer, 8)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (8, 0), (8, 9)])
def test_impossible_windows_are_refused(
    text_file: Path, tokenizer: PreTrainedTokenizerFast, window: int, stride: int
) -> None:
    with pytest.raises(UserError, match="window"):
        text_windows(text_file, tokenizer, window, stride)


def test_wikitext_is_the_whole_file_in_order(shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-mini")
    path = shared / "data" / "wikitext-2-raw" / "wiki.valid.raw"
    windows = text_windows(path, tokenizer, 1024)
    assert tokenizer.decode([token for ids in windows for token in ids]) == path.read_bytes().decode()
    assert {len(ids) for ids in windows[:-1]} == {1024}


def test_module_trains_on_all_tokens_and_scores_each_once(text_file: Path, model_folder: str) -> None:
    path = str(text_file)
    data = TextData(model_folder, path, val=path, test=path, window=64, batch_size=2)
    data.setup()
    (whole,) = text_windows(text_file, data.tokenizer, 10_000)
    trained = [batch["labels"][batch["labels"] != IGNORED] for batch in data.train_dataloader()]
    assert sum(map(len, trained)) == len(whole)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        (scoring_set,) = loader
        (windows,) = scoring_set.texts.values()
        assert [token for ids in windows for token in ids] == whole


def test_module_without_texts_to_score_has_no_loaders(text_file: Path, model_folder: str) -> None:
    data = TextData(model_folder, str(text_file), limit_train=3, window=32)
    data.setup()
    assert (data.val_dataloader(), data.test_dataloader()) == ([], [])
    assert data.counts["training"].sequences == 3


def test_window_example_ignores_what_was_scored_before() -> None:
    assert window_example([1, 2, 3], scored_before=2) == {"input_ids": [1, 2, 3], "labels": [IGNORED, IGNORED, 3]}


def test_contexts_of_a_squad_file_are_its_documents(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [{"id": str(i), "question": "q", "answers": [{"text": "Rhine", "answer_start": 4}]} for i in range(2)]
    paragraphs = [{"context": text, "qas": asked} for text in ("The Rhine", "the Alps", "The Rhine rises")]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    (window,) = text_windows(path, tokenizer, 100, documents=2)
    parts = tokenizer(["The Rhine", "the Alps"], add_special_tokens=False)["input_ids"]
    first = tokenizer("The Rhine")["input_ids"]
    assert window == first + [tokenizer.eos_token_id] + parts[1]


def test_one_file_of_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    seen: list[tuple[tuple[object, ...], dict[str, object]]] = []
    table = datasets.Dataset.from_dict({"text": ["one two", "three", "four"]})

    def load(*arguments: object, **options: object) -> datasets.Dataset:
        seen.append((arguments, options))
        return table

    monkeypatch.setattr("datasets.load_dataset", load)
    from switchq.data.hub import load_hub

    assert load_hub("allenai/c4:en/c4-validation.00000.json.gz", "validation", "") is table
    assert load_hub("allenai/ai2_arc:ARC-Easy", "test", "") is table
    assert load_hub("gpt", "test", "") is table
    assert seen == [
        (("allenai/c4",), {"split": "validation", "data_files": {"validation": "en/c4-validation.00000.json.gz"}}),
        (("allenai/ai2_arc",), {"split": "test", "name": "ARC-Easy"}),
        (("gpt",), {"split": "test", "name": None}),
    ]
