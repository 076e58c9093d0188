"""What is to be scored, as one object: questions, running text, and how they are put to the model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

from switchq.data.prompt import Prompt
from switchq.data.squad import Question
from switchq.words import count_of


class ScoringSet:
    """Questions to be answered and texts to be read.

    Not a dataclass on purpose: Lightning would take it apart to look for tensors. Its `to` does nothing for the same
    reason.

    Args:
        name: what to call it in a title.
        source: the file or Hub name it came from, for the record.
        questions: to be answered.
        texts: name -> windows of token ids, for perplexity.
        prompt: how a question becomes text.
        batch_size: questions answered together.
        max_new_tokens: most tokens of an answer.
        max_length: most tokens of a prompt and its answer; None means the model's context window.
    """

    def __init__(
        self,
        name: str,
        source: str | None = None,
        questions: Sequence[Question] = (),
        texts: Mapping[str, Sequence[Sequence[int]]] = {},
        prompt: Prompt = Prompt(),
        batch_size: int = 32,
        max_new_tokens: int = 32,
        max_length: int | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.questions = questions
        self.texts = texts
        self.prompt = prompt
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.max_length = max_length

    def __bool__(self) -> bool:
        """Whether there is anything to score."""
        return bool(self.questions) or bool(self.texts)

    def first(self, count: int | None) -> "ScoringSet":
        """The same with only the first `count` questions."""
        return ScoringSet(**{**vars(self), "questions": self.questions[:count]})

    def describe(self) -> str:
        """For example `1,000 questions of dev.json`."""
        parts = [count_of(len(self.questions), "question")] if self.questions else []
        parts += [f"{count_of(len(windows), 'window')} of {name}" for name, windows in self.texts.items()]
        return f"{' and '.join(parts) or 'nothing'} ({self.name})"

    def sha256(self) -> str:
        """SHA-256 of what is asked and how, but for what of it is answered together."""
        how = {name: value for name, value in self.settings().items() if name != "batch_size"}
        texts = {name: [list(map(int, row)) for row in rows] for name, rows in self.texts.items()}
        content = [[asdict(question) for question in self.questions], texts, how]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """How the model is asked, as plain values."""
        return {
            "template": self.prompt.template,
            "no_answer": self.prompt.no_answer,
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
            "max_length": self.max_length,
            "windows": {name: [len(rows), max(map(len, rows))] for name, rows in self.texts.items()},
        }

    def to(self, device: Any, non_blocking: bool = False) -> Self:
        """Itself: there are no tensors to move."""
        return self
