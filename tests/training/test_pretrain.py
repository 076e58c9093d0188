"""Pre-training of the embedded model at toy size, and the committed model's files."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from switchq.data.squad import read_squad
from switchq.data.stream import IN_ANSWER, IN_PROMPT, PADDING, PROMPT, ReadingStream, train_tokenizer
from switchq.errors import UserError
from switchq.training import pretrain as module
from switchq.training.pretrain import Recipe, main, make_model, pretrain, score, weighted_loss

DATA = Path(__file__).parents[2] / "data"
TOY = Recipe(vocabulary=400, layers=1, width=32, heads=2, steps=30, batch=8, lr=1e-2, warmup=3)


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first paragraphs of both splits, so that the tokenizer and the score take little time."""
    folder = tmp_path_factory.mktemp("reading")
    for split, paragraphs in {"train": 20, "dev": 2}.items():
        document = json.loads((DATA / "reading" / f"{split}.json").read_text(encoding="utf-8"))
        document["data"] = [{"title": "", "paragraphs": document["data"][0]["paragraphs"][:paragraphs]}]
        (folder / f"{split}.json").write_text(json.dumps(document))
    return folder


def test_a_few_steps_lower_the_loss_and_the_files_load(small_data: Path, tmp_path: Path) -> None:
    history = pretrain(tmp_path, small_data, TOY, "cpu", 0, quiet())
    assert len(history) == TOY.steps
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert len(tokenizer) == model.config.vocab_size == TOY.vocabulary
    text = "Givim Subrom lives in Mubrosburg.\nQuestion: Où?"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    untrained = make_model(TOY, tokenizer)
    assert not torch.equal(model.lm_head.weight, untrained.lm_head.weight)


def test_same_seed_same_losses(small_data: Path, tmp_path: Path) -> None:
    short = replace(TOY, steps=4)
    first, again = (pretrain(tmp_path, small_data, short, "cpu", 0, quiet()) for _ in range(2))
    other = pretrain(tmp_path, small_data, replace(short, seed=1), "cpu", 0, quiet())
    assert first == again
    assert first != other


def test_stream_holds_whole_prompts_and_answers() -> None:
    tokenizer = train_tokenizer(read_squad(DATA / "reading" / "train.json")[:400], 400)
    stream = ReadingStream(tokenizer, steps=3, batch=5, max_length=256, seed=0)
    ids, part = stream[2]
    for row, parts in zip(ids.long(), part, strict=True):
        prompt = tokenizer.decode(row[parts == IN_PROMPT])
        answer = tokenizer.decode(row[parts == IN_ANSWER])
        assert prompt.endswith("\nAnswer:")
        assert answer.startswith(" ")
        assert answer.endswith(tokenizer.eos_token)
        assert answer.removesuffix(tokenizer.eos_token).strip() in prompt
        assert set(row[parts == PADDING].tolist()) <= {tokenizer.eos_token_id}
    again = stream[2]
    assert torch.equal(ids, again[0])
    assert torch.equal(part, again[1])
    assert ids.shape != stream[1][0].shape or not torch.equal(ids, stream[1][0])


def test_weighted_loss_against_a_loop() -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2, 3, 4, 0], [5, 6, 1, 0, 0]])
    part = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 1, 1, -1]])
    terms: dict[int, list[torch.Tensor]] = {0: [], 1: [], -1: []}
    for b in range(2):
        for t in range(1, 5):
            terms[int(part[b, t])].append(-logits[b, t - 1].log_softmax(0)[ids[b, t]])
    answer, prompt = torch.stack(terms[1]).mean(), torch.stack(terms[0]).mean()
    loss, logged = weighted_loss(logits, ids, part, 0.25)
    torch.testing.assert_close(loss, answer + 0.25 * prompt)
    torch.testing.assert_close(logged, answer)


def test_ctrl_c_saves_what_there_is(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ReadingStream.__getitem__

    def stops(self: ReadingStream, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return whole(self, step)

    monkeypatch.setattr(ReadingStream, "__getitem__", stops)
    console = quiet()
    assert len(pretrain(tmp_path, small_data, TOY, "cpu", 0, console)) == 3
    assert "stopped after 3 of 30 steps" in console.file.getvalue()  # type: ignore[attr-defined]
    assert (tmp_path / "model.safetensors").exists()


def test_ctrl_c_before_the_first_step_saves_nothing(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", lambda *_: [])
    with pytest.raises(UserError, match="nothing was saved"):
        pretrain(tmp_path, small_data, TOY, "cpu", 0, quiet())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--width", "30"], "multiple of --heads"),
        (["--output", "FILE"], "cannot write"),
        (["--data", "missing", "--output", "OUT"], "dev.json: no such file"),
    ],
    ids=["steps", "width", "output", "data"],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    places = {"FILE": str(tmp_path / "file" / "below"), "OUT": str(tmp_path)}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_committed_model_answers_from_the_context() -> None:
    folder = DATA / "tiny-gpt2"
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    questions = read_squad(DATA / "reading" / "dev.json")[::20]
    assert max(map(len, PROMPT.encode_all(questions, tokenizer, 256))) < 160
    f1, exact = score(model, tokenizer, questions)
    assert f1 >= 95
    assert exact >= 95


def test_committed_tokenizer_is_the_one_that_the_training_set_gives(tmp_path: Path) -> None:
    questions = read_squad(DATA / "reading" / "train.json")
    train_tokenizer(questions, Recipe().vocabulary).save_pretrained(tmp_path)
    built, committed = (AutoTokenizer.from_pretrained(path) for path in (tmp_path, DATA / "tiny-gpt2"))
    assert built.get_vocab() == committed.get_vocab()
    texts = [PROMPT.text(question) for question in questions[::50]]
    assert built(texts)["input_ids"] == committed(texts)["input_ids"]
