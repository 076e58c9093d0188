"""The LightningDataModules: questions (`SquadData`) and running text (`TextData`).

Both can train on a folder of self-generated data instead. Their hyper-parameters are plain values, so that a
checkpoint can rebuild them.
"""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from switchq.data.batches import answer_example
from switchq.data.generated import is_generated
from switchq.data.prompt import Encoded, Prompt
from switchq.data.scoring_set import ScoringSet
from switchq.data.squad import Question, read_squad
from switchq.data.text import text_windows, window_example
from switchq.data.training_data import TrainingData, subset
from switchq.errors import UserError
from switchq.words import count_of


class SquadData(TrainingData):
    """SQuAD, v1.1 or v2.0: loss on the answer, contexts cut where a prompt does not fit.

    Args:
        tokenizer: name or folder of the model whose tokenizer and context window are used.
        train: official JSON file, Hub name (its `train` split) or folder of `switchq gendata`.
        dev: official JSON file or Hub name (its `validation` split); scored before and after training only.
        generated: folder of `switchq gendata` to train on beside `train`, without its stored predictions.
        batch_size: questions a training batch, shared out among all devices.
        eval_batch_size: questions a scoring batch.
        holdout: questions kept out of the training data, whole paragraphs of them, to watch the training with. Where
            the training data is generated they are taken from dev instead.
        max_length: most tokens of a prompt and its answer; by default the model's context window.
        max_answer_tokens: room left for a generated answer.
        limit_train: train on so many questions, drawn at random.
        limit_dev: score so many dev questions, drawn at random.
        template: the prompt, with `{context}` and `{question}` once each; the answer follows it after a space.
        no_answer: the target of an unanswerable question.
        pad_multiple: pad batches to a multiple of so many tokens.
        seed: of the order of batches and of all random choices of data.
        num_workers: loader processes.
    """

    def __init__(
        self,
        tokenizer: str,
        train: str = "rajpurkar/squad",
        dev: str = "rajpurkar/squad",
        generated: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        holdout: int = 200,
        max_length: int | None = None,
        max_answer_tokens: int = 32,
        limit_train: int | None = None,
        limit_dev: int | None = None,
        template: str = Prompt.template,
        no_answer: str = Prompt.no_answer,
        pad_multiple: int = 1,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.prompt = Prompt(template, no_answer)
        self._holdout: list[Question] = []

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises what `stage` needs, once: `test` only dev, everything else training data too."""
        if stage != "test" and not len(self.examples):
            self._read_train()
        self.dev_questions  # noqa: B018  read now: a missing file must stop the run before it trains

    @property
    def holdout_questions(self) -> list[Question]:
        """Questions that are not trained on, for live validation (after `setup`)."""
        return self._holdout

    @cached_property
    def dev_questions(self) -> list[Question]:
        """The questions to score before and after training."""
        questions = subset(
            read_squad(self.hparams["dev"], "validation"), self.hparams["limit_dev"], self.hparams["seed"]
        )
        self._check_fit(questions, "dev")
        return questions

    def scoring_set(self, split: Literal["val", "test"]) -> ScoringSet:
        """The held-out training questions (`val`), or dev (`test`)."""
        source = self.hparams["train" if split == "val" else "dev"]
        return ScoringSet(
            name=f"held out of {Path(source).name}" if split == "val" else Path(source).name,
            source=source,
            questions=self._holdout if split == "val" else self.dev_questions,
            prompt=self.prompt,
            batch_size=self.hparams["eval_batch_size"],
            max_new_tokens=self.hparams["max_answer_tokens"],
            max_length=self.max_length,
        )

    def advice(self, split: Literal["val", "test"]) -> str:
        """For example `set data.holdout above 0`."""
        return "set data.holdout above 0" if split == "val" else "give data.dev a file of questions"

    def _read_train(self) -> None:
        source, holdout = self.hparams["train"], self.hparams["holdout"]
        if is_generated(source):
            if self.hparams["generated"] is not None:
                raise UserError("data.generated comes beside questions, and data.train is generated: give one of them")
            self._train_on_generated(source)
            self._holdout, _ = _split_paragraphs(self.dev_questions, holdout, self.hparams["seed"])
            return
        self._holdout, rest = training_split(self.hparams)
        if not rest:
            held = count_of(holdout, "question")
            raise UserError(f"{source}: holding out {held} leaves none to train on: lower holdout.")
        chosen = subset(rest, self.hparams["limit_train"], self.hparams["seed"])
        encoded = self.prompt.encode_all(chosen, self.tokenizer, self.max_length)
        self.examples = [answer_example(one) for one in encoded]
        self.lengths = [len(one) for one in encoded]
        self._count_encoded("training", encoded)
        if self.hparams["generated"] is not None:
            self._add_generated(self.hparams["generated"])
        self._check_fit(self._holdout, "held-out")

    def _check_fit(self, questions: list[Question], name: str) -> None:
        encoded = self.prompt.encode_all(questions, self.tokenizer, self.max_length, self.hparams["max_answer_tokens"])
        self._count_encoded(name, encoded)

    def _count_encoded(self, name: str, encoded: list[Encoded]) -> None:
        self._count(name, [len(one) for one in encoded], sum(one.cut > 0 for one in encoded))


class TextData(TrainingData):
    """Raw text in windows (see `text_windows`): every token is trained on, and perplexity is taken over windows.

    Args:
        tokenizer: name or folder of the model whose tokenizer and context window are used.
        train: text file, `.jsonl` file with `text` fields, Hub name (`owner/name:config`), or folder of `switchq
            gendata`.
        val: text to validate on while training; none by default.
        test: text to score before and after training; none by default.
        window: tokens a window, in training and scoring; by default the model's context window.
        batch_size: windows a training batch, shared out among all devices.
        limit_train: train on so many windows, drawn at random.
        pad_multiple: pad batches to a multiple of so many tokens.
        seed: of the order of batches and of all random choices of data.
        num_workers: loader processes.
    """

    def __init__(
        self,
        tokenizer: str,
        train: str,
        val: str | None = None,
        test: str | None = None,
        window: int | None = None,
        batch_size: int = 8,
        limit_train: int | None = None,
        pad_multiple: int = 1,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._windows: dict[str, list[list[int]]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises the texts that `stage` needs, once."""
        if stage in ("fit", None) and not len(self.examples):
            self._read_train()
        for name in ("val", "test"):
            if name not in self._windows and self.hparams[name] is not None:
                windows = text_windows(
                    self.hparams[name], self.tokenizer, self.max_length, split="validation" if name == "val" else "test"
                )
                self._count(name, [len(ids) for ids in windows])
                self._windows[name] = windows

    @property
    def _asked_length(self) -> int | None:
        length: int | None = self.hparams["window"]
        return length

    def scoring_set(self, split: Literal["val", "test"]) -> ScoringSet:
        """The windows of `val` or `test`; none if there is no such text."""
        source = self.hparams[split]
        texts = {Path(source).stem: self._windows[split]} if source is not None else {}
        return ScoringSet(name=Path(source or "no text").name, source=source, texts=texts)

    def advice(self, split: Literal["val", "test"]) -> str:
        """For example `give data.val`."""
        return f"give data.{split}"

    def _read_train(self) -> None:
        source, limit = self.hparams["train"], self.hparams["limit_train"]
        if is_generated(source):
            self._train_on_generated(source)
            return
        windows = text_windows(source, self.tokenizer, self.max_length, split="train")
        self.examples = [window_example(ids) for ids in subset(windows, limit, self.hparams["seed"])]
        self.lengths = [len(example["input_ids"]) for example in self.examples]
        self._count("training", self.lengths)


def training_split(options: Mapping[str, Any]) -> tuple[list[Question], list[Question]]:
    """The training file of a `SquadData` with these options: the questions that it holds out, and those to train on."""
    return _split_paragraphs(read_squad(options["train"], "train"), options["holdout"], options["seed"])


def _split_paragraphs(questions: list[Question], count: int, seed: int) -> tuple[list[Question], list[Question]]:
    """`count` questions of randomly drawn paragraphs, and the questions of all other paragraphs."""
    if count < 0:
        raise UserError(f"holdout must not be negative, not {count}.")
    contexts = list(dict.fromkeys(question.context for question in questions))
    sizes = Counter(question.context for question in questions)
    drawn: set[str] = set()
    room = count
    for index in np.random.default_rng(seed).permutation(len(contexts)):
        if room <= 0:
            break
        drawn.add(contexts[index])
        room -= sizes[contexts[index]]
    held = [question for question in questions if question.context in drawn]
    return held[:count], [question for question in questions if question.context not in drawn]
