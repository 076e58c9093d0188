r"""How a question becomes tokens: `[bos] context | \nQuestion: ...\nAnswer: | answer eos`.

The context, the rest of the prompt, and the answer are tokenised apart, so that a prompt that is too long can lose
tokens at the end of its context and nowhere else, and so that the prompt's tokens are the same whether the answer is
known (training) or not (generation). The special tokens that the tokenizer puts in front of a text (Llama's and OPT's
bos, nothing for GPT-2) come first, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from switchq.data.squad import Question
from switchq.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """Tokens of one question.

    Attributes:
        prompt_ids: tokens up to and with `Answer:`.
        answer_ids: tokens of the target, the eos token last.
        cut: tokens of the context that were dropped to fit.
    """

    prompt_ids: list[int]
    answer_ids: list[int]
    cut: int

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True)
class Prompt:
    r"""The text layout of a question.

    Attributes:
        template: text with `{context}` and `{question}` once each; the answer follows it after a space.
        no_answer: the target of an unanswerable question (SQuAD v2.0).
    """

    template: str = "{context}\nQuestion: {question}\nAnswer:"
    no_answer: str = "unanswerable"

    def __post_init__(self) -> None:
        for field in ("{context}", "{question}"):
            if self.template.count(field) != 1:
                raise UserError(f"A prompt template needs {field} exactly once, not {self.template!r}.")
        if not self.no_answer.strip():
            raise UserError("The target of unanswerable questions (no_answer) must not be empty.")

    def text(self, question: Question) -> str:
        """The prompt as text, uncut."""
        head, tail = self._around(question)
        return head + question.context + tail

    def target(self, question: Question) -> str:
        """The text to be generated after the prompt, without the eos token: a space and the first gold answer."""
        return " " + (question.answers[0].strip() if question.answers else self.no_answer)

    def encode(
        self, question: Question, tokenizer: "PreTrainedTokenizerBase", max_length: int, reserve: int = 0
    ) -> Encoded:
        """`encode_all` for one question."""
        return self.encode_all([question], tokenizer, max_length, reserve)[0]

    def encode_all(
        self, questions: Sequence[Question], tokenizer: "PreTrainedTokenizerBase", max_length: int, reserve: int = 0
    ) -> list[Encoded]:
        """Tokenises questions in bulk, each distinct context once.

        Args:
            questions: any number of them.
            tokenizer: needs an eos token.
            max_length: most tokens of a prompt and its answer, e.g. the context window.
            reserve: least room for the answer in tokens, e.g. the number to be generated.

        Returns:
            One `Encoded` each, with `len(prompt_ids) + max(len(answer_ids), reserve) <= max_length`.

        Raises:
            UserError: a question and its answer do not fit even without the context; no eos token.
        """
        if not questions:
            return []
        if tokenizer.eos_token_id is None:
            raise UserError("The tokenizer has no eos token, so the end of an answer cannot be marked.")
        around = [self._around(question) for question in questions]
        targets = [self.target(question) for question in questions]
        first_ids = leading_special_tokens(tokenizer)
        contexts = list(dict.fromkeys(question.context for question in questions))
        context_ids = dict(zip(contexts, _tokenize(tokenizer, contexts), strict=True))
        heads = _tokenize(tokenizer, [head for head, _ in around])
        tails = _tokenize(tokenizer, [tail for _, tail in around])
        tails_and_targets = _tokenize(
            tokenizer, [tail + target for (_, tail), target in zip(around, targets, strict=True)]
        )
        bare_targets = _tokenize(tokenizer, targets)

        encoded = []
        for question, head, tail, both, bare in zip(
            questions, heads, tails, tails_and_targets, bare_targets, strict=True
        ):
            answer = (both[len(tail) :] if both[: len(tail)] == tail else bare) + [tokenizer.eos_token_id]
            context = context_ids[question.context]
            fixed = len(first_ids) + len(head) + len(tail) + max(len(answer), reserve)
            room = max_length - fixed
            if room < 0:
                raise UserError(
                    f"Question {question.id} and its answer need {fixed} tokens without the context, "
                    f"but only {max_length} fit: allow the answer fewer tokens, or the whole more (up to the window)."
                )
            kept = context[:room]
            encoded.append(Encoded(first_ids + head + kept + tail, answer, cut=len(context) - len(kept)))
        return encoded

    def _around(self, question: Question) -> tuple[str, str]:
        head, tail = self.template.split("{context}")
        return head.replace("{question}", question.question), tail.replace("{question}", question.question)


def _tokenize(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def leading_special_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The special tokens that a tokenizer puts in front of a text."""
    probe = "a"
    bare = tokenizer(probe, add_special_tokens=False)["input_ids"]
    full = tokenizer(probe)["input_ids"]
    return next((full[:start] for start in range(len(full)) if full[start : start + len(bare)] == bare), [])
