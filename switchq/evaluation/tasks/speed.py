"""Speed: how long a sample takes and how many tokens a second come out, weights rounded but stored as floats."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.data.text import text_windows
from switchq.evaluation.decode import decode
from switchq.evaluation.tasks.task import Advance, Metric, Score, Task


@dataclass(frozen=True)
class Speed(Task):
    """Greedy decoding of a few samples: milliseconds per sample and generated tokens per second, prompts included.

    Attributes:
        prompt_tokens: tokens of a prompt, cut out of the source's text.
        new_tokens: tokens to generate, all of them for every sample.
        limit: samples, 8 by default.
    """

    limit: int | None = 8
    batch_size: int = 1
    prompt_tokens: int = 64
    new_tokens: int = 32

    metrics: ClassVar = (Metric("tokens/s", "higher", ",.0f"), Metric("latency ms", "lower", ",.1f"))

    def examples(self, tokenizer: PreTrainedTokenizerBase, window: int) -> list[list[int]]:
        length = max(min(self.prompt_tokens, window - self.new_tokens), 2)
        return text_windows(self.source, tokenizer, length, split=self.split)[: self.limit]

    def score(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[list[int]], advance: Advance
    ) -> Score:
        generate = partial(
            decode, max_new_tokens=self.new_tokens, min_new_tokens=self.new_tokens, batch_size=self.batch_size
        )
        generate(model, tokenizer, examples[: self.batch_size])  # kernels are chosen before the clock runs
        decoded = generate(model, tokenizer, examples, advance=advance)
        figures = {"tokens/s": decoded.tokens_per_s, "latency ms": 1000 * decoded.seconds / len(examples)}
        return Score(figures, counts={"samples": len(examples), "tokens": sum(decoded.tokens)})

    def protocol(self, window: int) -> str:
        return (
            f"prompts of {self.prompt_tokens} tokens, {self.new_tokens} new ones, {self.batch_size} at a time; "
            f"weights are rounded, then multiplied as floats"
        )
