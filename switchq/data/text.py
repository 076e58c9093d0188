"""Raw text as windows of tokens, the unit of language modelling and of perplexity.

A file is tokenised once, as a whole, and cut into windows [0, W), [S, S + W), ... of W tokens every S (the stride), the
last one shorter. With S = W the windows do not overlap, every token but the first of a window is predicted once: the
protocol of GPTQ and its successors on WikiText-2 (Frantar et al. 2022, arXiv:2210.17323). With S < W a window's first W
- S tokens are context that the window before has scored.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from switchq.data.batches import IGNORED, Example
from switchq.data.hub import load_hub
from switchq.data.local import looks_like_file, parse_json, read_text
from switchq.data.squad import read_squad
from switchq.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Join = Literal["auto", "eos", "blank"]

JOINS = get_args(Join)


def text_windows(
    source: str | Path,
    tokenizer: "PreTrainedTokenizerBase",
    window: int,
    stride: int | None = None,
    split: str = "test",
    *,
    join: Join = "auto",
    documents: int | None = None,
) -> list[list[int]]:
    """The windows of a text.

    Args:
        source: a text file, taken as one string; a `.jsonl` file with a field `text` in every line; a SQuAD `.json`
            file, whose contexts are the documents; or a Hub name (`owner/name` or `owner/name:config`) with a column
            `text`.
        tokenizer: its special tokens come once, at the very start.
        window: W, tokens in a window.
        stride: S, tokens from one window's start to the next; W by default.
        split: split of a Hub data set.
        join: what comes between documents: `eos`, the end-of-text token, or `blank`, a blank line; `auto` is `eos` for
            files and `blank` for the rows of a Hub data set.
        documents: read only so many, from the start.

    Returns:
        Lists of W token ids, the last one of 2 to W.

    Raises:
        UserError: unreadable or malformed source, or one with fewer than two tokens; impossible window or stride.
    """
    stride = window if stride is None else stride
    if window < 2 or not 1 <= stride <= window:
        raise UserError(
            f"A window of {window} tokens every {stride}: the window needs 2 or more, the stride 1 to the window."
        )
    ids = _tokens(_documents(source, split, documents), join_of(source, join) == "blank", tokenizer)
    if len(ids) < 2:
        raise UserError(f"{source} is an empty data set: it holds fewer than two tokens.")
    starts = range(0, max(len(ids) - max(window - stride, 1), 1), stride)
    return [ids[start : start + window] for start in starts]


def window_example(ids: list[int], scored_before: int = 0) -> Example:
    """A window as an example: loss on all tokens but the first `scored_before`."""
    return {"input_ids": ids, "labels": [IGNORED] * scored_before + ids[scored_before:]}


def join_of(source: str | Path, join: Join = "auto") -> Literal["eos", "blank", "one"]:
    """What comes between the documents of a source; `one` if it is a single text."""
    if looks_like_file(source) and Path(source).suffix.lower() not in (".json", ".jsonl"):
        return "one"
    if join == "auto":
        return "eos" if looks_like_file(source) else "blank"
    return join


def _documents(source: str | Path, split: str, count: int | None) -> list[str]:
    if not looks_like_file(source):
        table = load_hub(str(source), split, "use a local text file instead, such as PATH/train.txt")
        if "text" not in table.column_names:
            raise UserError(f"{source} has no column 'text'; it has {', '.join(table.column_names)}.")
        return list((table if count is None else table.take(min(count, len(table))))["text"])
    path = Path(source)
    if path.suffix.lower() == ".jsonl":
        return list(islice(_jsonl_texts(path), count))
    if path.suffix.lower() == ".json":
        return list(dict.fromkeys(question.context for question in read_squad(path)))[:count]
    return [read_text(path)]


def _tokens(texts: list[str], blank: bool, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    if not texts:
        return []
    if blank:
        texts = ["\n\n".join(texts)]
    separator = [tokenizer.eos_token_id]
    first, *rest = tokenizer(texts[:1], verbose=False)["input_ids"] + (
        tokenizer(texts[1:], add_special_tokens=False, verbose=False)["input_ids"] if texts[1:] else []
    )
    return list(first) + [token for ids in rest for token in separator + ids]


def _jsonl_texts(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = parse_json(line, f"{path.name}: line {number}")
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise UserError(f"{path.name}: line {number} has no string field 'text'.")
        yield record["text"]
