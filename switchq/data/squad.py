"""SQuAD as a flat list of questions, from an official JSON file or from the Hub.

The official layout nests `data[i].paragraphs[j].qas[k]`; a `Question` holds what is left once the nesting is undone,
with the context repeated (by reference) in every question of a paragraph. Version 2.0 marks a question that its context
cannot answer with `is_impossible`; here it simply has no gold answers. An error in a file names the record at fault by
its path in that nesting.

Formats: Rajpurkar et al. 2016 (arXiv:1606.05250) and 2018 (arXiv:1806.03822).
"""

import os.path
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchq.data.hub import load_hub
from switchq.data.local import looks_like_file, parse_json, read_text
from switchq.errors import UserError


@dataclass(frozen=True)
class Question:
    """One question about a context. `answers` holds the gold answers as raw text; empty means unanswerable."""

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    title: str = ""


def read_squad(source: str | Path, split: str = "validation") -> list[Question]:
    """Reads SQuAD v1.1 or v2.0.

    Args:
        source: path of an official JSON file, or a Hub name such as `rajpurkar/squad` or `rajpurkar/squad_v2`.
        split: split of a Hub data set; a file holds one split, so it is ignored there.

    Raises:
        UserError: missing, unreadable, malformed or empty file (naming the record); Hub out of reach.
    """
    path = Path(source)
    if os.path.isdir(path):
        raise UserError(
            f"{path} is a folder: give an official SQuAD JSON file in it, such as {path / 'dev-v1.1.json'}."
        )
    if looks_like_file(source):
        questions = list(_questions(parse_json(read_text(path), str(path)), path.name))
    else:
        questions = list(_hub_questions(str(source), split))
    if not questions:
        raise UserError(f"{source} is an empty data set: it holds no questions.")
    return questions


def _questions(document: Any, name: str) -> Iterable[Question]:
    for article, where in _records(document, "data", name):
        title = _field(article, "title", str, where, default="")
        for paragraph, where_paragraph in _records(article, "paragraphs", where):
            context = _field(paragraph, "context", str, where_paragraph)
            for qa, where_qa in _records(paragraph, "qas", where_paragraph):
                impossible = _field(qa, "is_impossible", bool, where_qa, default=False)
                answers = [_field(answer, "text", str, at) for answer, at in _records(qa, "answers", where_qa)]
                if not impossible and not any(answer.strip() for answer in answers):
                    raise UserError(f"{where_qa}: 'answers' is empty, but 'is_impossible' is not set.")
                yield Question(
                    id=_field(qa, "id", str, where_qa),
                    context=context,
                    question=_field(qa, "question", str, where_qa),
                    answers=() if impossible else tuple(answer for answer in answers if answer.strip()),
                    title=title,
                )


def _records(record: Any, key: str, where: str) -> Iterable[tuple[Mapping[str, Any], str]]:
    """The items of the list `record[key]`, each with its path for messages (`where: data[3].paragraphs[0]`)."""
    separator = "." if "[" in where else ": "
    for index, item in enumerate(_field(record, key, list, where)):
        yield item, f"{where}{separator}{key}[{index}]"


def _field(record: Any, key: str, kind: type, where: str, default: Any = None) -> Any:
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: expected an object with '{key}', found {type(record).__name__}.")
    if key not in record:
        if default is None:
            raise UserError(f"{where}: '{key}' is missing.")
        return default
    if not isinstance(record[key], kind):
        raise UserError(f"{where}: '{key}' must be a {kind.__name__}, not {type(record[key]).__name__}.")
    return record[key]


def _hub_questions(name: str, split: str) -> Iterable[Question]:
    part = "dev" if split == "validation" else split
    table = load_hub(name, split, f"use a local file instead, such as PATH/{part}-v1.1.json")
    needed = {"id", "context", "question", "answers"}
    if missing := needed - set(table.column_names):
        raise UserError(f"{name} is not laid out like SQuAD: it has no column {', '.join(sorted(missing))}.")
    for row in table:
        yield Question(row["id"], row["context"], row["question"], tuple(row["answers"]["text"]), row.get("title", ""))
