"""A tokenizer and a model small enough to make anew, and SQuAD files of five questions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from switchq.data.squad import Question

CONTEXTS = {
    "Rivers": "The Rhine rises in the Alps. It flows north for 1,230 kilometres, and reaches the sea near Rotterdam.",
    "Birds": "Swifts sleep in the air. A swift weighs 40 grams; it lands only to breed.",
}


def squad_document() -> dict[str, Any]:
    """Five questions in the official layout, the last one unanswerable (v2.0)."""

    def qa(number: int, question: str, *answers: str) -> dict[str, Any]:
        texts = [{"text": text, "answer_start": 0} for text in answers]
        return {"id": f"q{number}", "question": question, "answers": texts, "is_impossible": not answers}

    rivers = [
        qa(0, "Where does the Rhine rise?", "the Alps", "in the Alps"),
        qa(1, "How long is it?", "1,230 kilometres"),
    ]
    birds = [qa(2, "What does a swift weigh?", "40 grams"), qa(3, "Where do swifts sleep?", "in the air")]
    birds.append(qa(4, "What do swifts eat?"))
    paragraphs = [{"context": CONTEXTS["Rivers"], "qas": rivers}, {"context": CONTEXTS["Birds"], "qas": birds}]
    data = [{"title": t, "paragraphs": [p]} for t, p in zip(CONTEXTS, paragraphs, strict=True)]
    return {"version": "v2.0", "data": data}


@pytest.fixture
def write_squad(tmp_path: Path) -> Callable[..., Path]:
    """Writes a document (by default the five questions) as `NAME.json` and gives the path."""

    def write(document: Any = None, name: str = "train") -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(squad_document() if document is None else document), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens in GPT-2's manner: no special token in front, `<eos>` also pads."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(CONTEXTS.values(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A random GPT-2 with a window of 256 tokens."""
    torch.manual_seed(0)
    eos = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> str:
    """The model and its tokenizer on disk."""
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def many_questions(count: int) -> list[Question]:
    """Questions of very different lengths, four to a context."""
    contexts = [f"{number} " + "The Rhine rises in the Alps. " * (1 + number % 5) for number in range(count)]
    return [Question(f"q{i}", contexts[i // 4], f"Which number is {i}?", (str(i),)) for i in range(count)]


def as_document(questions: list[Question]) -> dict[str, Any]:
    """Questions in the official layout, one paragraph a context."""
    contexts = list(dict.fromkeys(question.context for question in questions))
    return {
        "data": [
            {
                "title": "t",
                "paragraphs": [
                    {
                        "context": context,
                        "qas": [
                            {"id": q.id, "question": q.question, "answers": [{"text": a} for a in q.answers]}
                            for q in questions
                            if q.context == context
                        ],
                    }
                    for context in contexts
                ],
            }
        ]
    }
