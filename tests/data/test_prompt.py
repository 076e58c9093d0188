"""The prompt: what is cut when it is too long, and that tokens decode to the documented text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from switchq.data.prompt import Prompt
from switchq.data.squad import Question, read_squad
from switchq.errors import UserError

from .conftest import CONTEXTS

RHINE = Question("q0", CONTEXTS["Rivers"], "Where does the Rhine rise?", ("the Alps", "Alps"))


def test_tokens_decode_to_the_documented_text(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = Prompt().encode(RHINE, tokenizer, 256)
    assert tokenizer.decode(encoded.prompt_ids) == f"{RHINE.context}\nQuestion: {RHINE.question}\nAnswer:"
    assert tokenizer.decode(encoded.prompt_ids) == Prompt().text(RHINE)
    assert tokenizer.decode(encoded.answer_ids) == " the Alps<eos>"
    assert encoded.cut == 0


def test_an_unanswerable_question_asks_for_the_no_answer_text(tokenizer: PreTrainedTokenizerFast) -> None:
    question = Question("q", "c", "q", ())
    assert tokenizer.decode(Prompt().encode(question, tokenizer, 256).answer_ids) == " unanswerable<eos>"
    assert tokenizer.decode(Prompt(no_answer="none").encode(question, tokenizer, 256).answer_ids) == " none<eos>"


words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=60)


@given(
    context=words,
    question=words,
    answer=words.filter(str.strip),
    max_length=st.integers(1, 200),
    reserve=st.integers(0, 40),
)
def test_only_the_end_of_the_context_is_cut(
    tokenizer: PreTrainedTokenizerFast, context: str, question: str, answer: str, max_length: int, reserve: int
) -> None:
    asked = Question("q", context, question, (answer,))
    whole = Prompt().encode(asked, tokenizer, 10_000)
    context_ids = tokenizer(context)["input_ids"]
    tail_ids = whole.prompt_ids[len(context_ids) :]
    try:
        encoded = Prompt().encode(asked, tokenizer, max_length, reserve)
    except UserError:
        assert len(tail_ids) + max(len(whole.answer_ids), reserve) > max_length
        return
    kept = len(context_ids) - encoded.cut
    assert encoded.prompt_ids == context_ids[:kept] + tail_ids
    assert encoded.answer_ids == whole.answer_ids
    used = len(encoded.prompt_ids) + max(len(encoded.answer_ids), reserve)
    assert used <= max_length
    assert encoded.cut == 0 or used == max_length


def test_in_bulk_is_the_same_as_one_by_one(tokenizer: PreTrainedTokenizerFast) -> None:
    questions = [RHINE, Question("q1", RHINE.context, "How long?", ("1,230",)), Question("q2", "", "", ())]
    bulk = Prompt().encode_all(questions, tokenizer, 90)
    assert bulk == [Prompt().encode(question, tokenizer, 90) for question in questions]
    assert Prompt().encode_all([], tokenizer, 90) == []


def test_braces_in_the_data_are_text(tokenizer: PreTrainedTokenizerFast) -> None:
    question = Question("q", "a {question} b {context}", "what is {x} and {context}?", ("{}",))
    assert Prompt().text(question) == "a {question} b {context}\nQuestion: what is {x} and {context}?\nAnswer:"


def test_a_question_before_the_context(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = Prompt(template="{question}\n{context}\nAnswer:")
    encoded = prompt.encode(RHINE, tokenizer, 60)
    assert encoded.cut > 0
    text = tokenizer.decode(encoded.prompt_ids)
    assert text.startswith(f"{RHINE.question}\nThe Rhine")
    assert text.endswith("\nAnswer:")


def test_special_tokens_of_the_tokenizer_come_first_and_once(tokenizer: PreTrainedTokenizerFast) -> None:
    with_bos = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>")
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", with_bos.eos_token_id)]
    )
    plain, marked = Prompt().encode(RHINE, tokenizer, 256), Prompt().encode(RHINE, with_bos, 256)
    assert marked.prompt_ids == [with_bos.eos_token_id, *plain.prompt_ids]
    assert marked.answer_ids == plain.answer_ids


@pytest.mark.parametrize(
    "arguments",
    [{"template": "{context}"}, {"template": "{context} {question} {question}"}, {"no_answer": " "}],
    ids=["no question", "two questions", "blank target"],
)
def test_an_impossible_layout_is_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(UserError):
        Prompt(**arguments)


def test_real_questions_fit_and_round_trip(shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-mini")
    questions = read_squad(shared / "data" / "squad" / "dev-v1.1.json")
    for question, encoded in zip(questions, Prompt().encode_all(questions, tokenizer, 1024), strict=True):
        whole = tokenizer(Prompt().text(question) + Prompt().target(question))["input_ids"]
        assert encoded.prompt_ids + encoded.answer_ids == [*whole, tokenizer.eos_token_id]
