"""The embedded reading-comprehension set: made-up facts about made-up names, in SQuAD v1.1's official JSON.

A paragraph is a shuffled grid of facts: two or three subjects of one kind times two or three relations. So every
question has distractors of both sorts in its context: the same relation of another subject, and another relation of the
same subject. Names and numbers are assembled from syllables and digits, and a checksum of each word assigns it to
`train` or `dev` for all seeds at once. A dev answer has therefore never been seen in training, however much training
text is generated: it can only be copied from the context.

Everything is a pure function of the seed. `python -m switchq.data.reading --output data/reading --seed 0` rebuilds the
committed files byte for byte.
"""

import argparse
import json
import random
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchq.data.relations import RELATIONS, Relation
from switchq.errors import UserError
from switchq.files import write_text

SPLITS = {"train": 6400, "dev": 1200}
"""Questions per split of the committed set."""

_ONSETS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "st", "tr")
_VOWELS = "aeiou"
_CODAS = "lmnrsk"
_TOWN_ENDINGS = ("ford", "ham", "burg", "mere", "ton")
_REGION_ENDINGS = ("ia", "land")
_COMPANY_NOUNS = ("Works", "Press", "Mills", "Group", "Brothers")
_BOOK_NOUNS = ("Garden", "Letters", "Mirror", "Songs", "Winter")
_SHAPES = ((2, 2), (2, 2), (2, 3), (3, 2))
_PARAGRAPHS_PER_ARTICLE = 20
_QUESTIONS_PER_PARAGRAPH = 4
_KINDS = tuple(dict.fromkeys(relation.subject for relation in RELATIONS))


@dataclass(frozen=True)
class Fact:
    """A question about one fact of a paragraph; `context[answer_start:]` begins with `answer`."""

    relation: Relation
    question: str
    answer: str
    answer_start: int


@dataclass(frozen=True)
class Paragraph:
    """A context and one question for every fact in it, in the order of the text."""

    kind: str
    context: str
    facts: tuple[Fact, ...]


def split_of(word: str) -> str:
    """The split that may use a made-up word or number: a quarter of all words is kept for `dev`."""
    return "dev" if zlib.crc32(word.lower().encode()) % 4 == 0 else "train"


class _Names:
    """Draws names for one paragraph; no made-up word is drawn twice."""

    def __init__(self, rng: random.Random, split: str) -> None:
        self.rng = rng
        self.split = split
        self.used: set[str] = set()

    def draw(self, kind: str) -> str:
        """A new name of a kind of subject or object."""
        if kind == "person":
            return f"{self._word()} {self._word()}"
        if kind == "company":
            return f"{self._word()} {self.rng.choice(_COMPANY_NOUNS)}"
        if kind == "book":
            return f"The {self._word()} {self.rng.choice(_BOOK_NOUNS)}"
        if kind == "town":
            return self._word(_TOWN_ENDINGS)
        if kind == "region":
            return self._word(_REGION_ENDINGS)
        if kind == "year":
            return self._number(1100, 2000)
        if kind == "count":
            return self._number(2000, 90000)
        return self._word()

    def _word(self, endings: tuple[str, ...] = ()) -> str:
        while True:
            stem = "".join(self.rng.choice(_ONSETS) + self.rng.choice(_VOWELS) for _ in range(2))
            ending = self.rng.choice(_CODAS) + self.rng.choice(endings) if endings else self.rng.choice(("", *_CODAS))
            word = (stem + ending).capitalize()
            if self._admits(word):
                return word

    def _number(self, low: int, high: int) -> str:
        while True:
            number = str(self.rng.randrange(low, high))
            if self._admits(number):
                return number

    def _admits(self, word: str) -> bool:
        if word in self.used or split_of(word) != self.split:
            return False
        self.used.add(word)
        return True


def make_paragraph(rng: random.Random, split: str, kind: str | None = None) -> Paragraph:
    """Draw a paragraph with names of `split` (`train` or `dev`) about subjects of `kind` (default: any)."""
    kind = kind or rng.choice(_KINDS)
    n_subjects, n_relations = rng.choice(_SHAPES)
    relations = rng.sample([relation for relation in RELATIONS if relation.subject == kind], n_relations)
    names = _Names(rng, split)
    subjects = [names.draw(kind) for _ in range(n_subjects)]
    grid = [(subject, relation) for subject in subjects for relation in relations]
    rng.shuffle(grid)
    context = ""
    facts = []
    for subject, relation in grid:
        answer = names.draw(relation.object)
        before, after = rng.choice(relation.facts).split("{o}")
        context += (" " if context else "") + before.format(s=subject)
        question = rng.choice(relation.questions).format(s=subject)
        facts.append(Fact(relation, question, answer, len(context)))
        context += answer + after.format(s=subject)
    return Paragraph(kind, context, tuple(facts))


def make_reading_set(split: str, seed: int, questions: int) -> dict[str, Any]:
    """A set of `questions` questions in SQuAD v1.1's official layout, at most four to a paragraph."""
    rng = random.Random(f"switchq reading {split} {seed}")
    articles: list[dict[str, Any]] = []
    total = 0
    while total < questions:
        kind = _KINDS[len(articles) % len(_KINDS)]
        paragraphs: list[dict[str, Any]] = []
        while total < questions and len(paragraphs) < _PARAGRAPHS_PER_ARTICLE:
            paragraph = make_paragraph(rng, split, kind)
            facts = rng.sample(paragraph.facts, min(_QUESTIONS_PER_PARAGRAPH, len(paragraph.facts), questions - total))
            qas = [
                {
                    "id": f"reading-{split}-{seed}-{total + index:05d}",
                    "question": fact.question,
                    "answers": [{"text": fact.answer, "answer_start": fact.answer_start}],
                }
                for index, fact in enumerate(facts)
            ]
            paragraphs.append({"context": paragraph.context, "qas": qas})
            total += len(qas)
        articles.append({"title": f"{kind.capitalize()} notes {len(articles) + 1}", "paragraphs": paragraphs})
    return {"version": "1.1", "data": articles}


def write_reading_set(output: Path, seed: int = 0) -> list[Path]:
    """Write `train.json` and `dev.json` into a folder, made if need be, and return their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = []
    try:
        output.mkdir(parents=True, exist_ok=True)
        for split, questions in SPLITS.items():
            path = output / f"{split}.json"
            text = json.dumps(make_reading_set(split, seed, questions), separators=(",", ":"))
            write_text(path, text + "\n")
            paths.append(path)
    except OSError as error:
        raise UserError(
            f"cannot write the reading set to {output}: {error.strerror}; choose another --output"
        ) from error
    return paths


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m switchq.data.reading", description="Write the reading set.")
    parser.add_argument("--output", type=Path, default=Path("data/reading"), help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the set is a pure function of it (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        paths = write_reading_set(options.output, options.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in paths:
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
