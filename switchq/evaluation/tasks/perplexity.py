"""Perplexity of running text: WikiText-2, C4, AG News, or any other."""

from dataclasses import dataclass
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.text import JOINS, Join, join_of, text_windows
from switchq.errors import UserError
from switchq.evaluation.perplexity import window_nll
from switchq.evaluation.tasks.task import Advance, Items, Metric, Score, Task

LONGEST = 2048
"""Tokens of a window unless told otherwise, where the model reads that many."""


@dataclass(frozen=True)
class Perplexity(Task):
    """exp of the mean negative log-likelihood per token, over windows of running text.

    Attributes:
        window: tokens of a window; by default the model's context window, 2,048 at most.
        stride: tokens from one window's start to the next; the window by default. With a shorter stride a token has
            at least `window - stride` tokens before it, and is still counted once.
        join: what stands between documents: `eos` (the end-of-text token), `blank` (a blank line), or `auto`: `eos`
            for a local `.jsonl` or SQuAD `.json` file, `blank` for a Hub data set.
        documents: read only so many documents.
        limit: score only the first so many windows.
    """

    window: int | None = None
    stride: int | None = None
    join: Join = "auto"
    documents: int | None = None

    metrics: ClassVar = (Metric("perplexity", "lower", "perplexity"),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.join not in JOINS:
            raise UserError(f"task {self.name}: join must be one of {', '.join(JOINS)}, not {self.join!r}")
        if self.documents is not None and self.documents < 1:
            raise UserError(f"task {self.name}: documents must be at least 1, not {self.documents}")

    def length(self, window: int) -> int:
        """Tokens of a window, for a model that reads `window`.

        Raises:
            UserError: the model does not read that many.
        """
        length = self.window or min(window, LONGEST)
        if not 2 <= length <= window:
            raise UserError(f"task {self.name}: window must be 2 to {window}, not {self.window}")
        return length

    def examples(self, tokenizer: PreTrainedTokenizerBase, window: int) -> list[list[int]]:
        windows = text_windows(
            self.source,
            tokenizer,
            self.length(window),
            self.stride,
            self.split,
            join=self.join,
            documents=self.documents,
        )
        return windows[: self.limit]

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[list[int]], advance: Advance
    ) -> Score:
        length = max(map(len, examples))
        nll = list(window_nll(model, examples, length - (self.stride or length), advance))
        counts = tuple(float(len(one)) for one in nll)
        items = Items(tuple(float(one.double().sum()) for one in nll), counts, "exp")
        return Score(
            {"perplexity": items.figure()},
            {"perplexity": items},
            {"windows": len(examples), "tokens": int(sum(counts))},
        )

    def protocol(self, window: int) -> str:
        length = self.length(window)
        joined = {
            "eos": "documents joined by the end-of-text token",
            "blank": "documents joined by blank lines",
            "one": "one text",
        }[join_of(self.source, self.join)]
        parts = [
            f"windows of {length} tokens every {self.stride or length}, each token but the very first "
            f"{'counted once' if (self.stride or length) < length else 'of a window counted'}",
            joined,
            f"first {self.documents:,} documents" if self.documents else "",
            f"first {self.limit:,} windows" if self.limit else "",
        ]
        return "; ".join(part for part in parts if part)
