"""Self-generated data: what the model writes, that a resumed run writes the same, and what training makes of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from switchq.data import generate
from switchq.data.batches import IGNORED
from switchq.data.generate import Generation, generate_dataset
from switchq.data.generated import GeneratedExamples, is_generated, read_settings
from switchq.data.modules import SquadData, TextData
from switchq.data.prompt import Prompt
from switchq.data.squad import read_squad
from switchq.errors import UserError

RANDOM = Generation(prompts="random", count=10, max_new_tokens=8, batch_size=4, greedy_tokens=3)


@pytest.fixture
def write(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> Callable[..., list[dict[str, Any]]]:
    """Generates into a folder and gives its rows."""

    def write(output: Path, settings: Generation = RANDOM, **options: Any) -> list[dict[str, Any]]:
        generate_dataset(model, tokenizer, output, settings, show_progress=False, **options)
        return list(datasets.load_from_disk(str(output)))

    return write


Write = Callable[..., list[dict[str, Any]]]


def test_first_tokens_are_the_most_likely_ones(
    write: Write, tmp_path: Path, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = write(tmp_path / "out")
    strayed = 0
    for row in rows:
        ids = torch.tensor(row["input_ids"])
        best = model(ids[None]).logits[0].argmax(-1)[:-1]
        assert row["prompt_length"] == 1
        assert ids[1:4].tolist() == best[:3].tolist()
        strayed += int((ids[4:] != best[3:]).sum())
        assert len(ids) == 9 or ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in ids[:-1].tolist()
    assert strayed > 10


def test_almost_no_temperature_takes_the_most_likely_tokens(write: Write, tmp_path: Path) -> None:
    greedy = write(tmp_path / "greedy", replace(RANDOM, greedy_tokens=8))
    assert write(tmp_path / "cold", replace(RANDOM, temperature=1e-46)) == greedy


def test_prompts_are_squad_prompts(
    write: Write, tmp_path: Path, write_squad: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    source = write_squad()
    rows = write(tmp_path / "out", replace(RANDOM, prompts="squad", source=str(source), count=12))
    texts = [tokenizer.decode(row["input_ids"][: row["prompt_length"]]) for row in rows]
    expected = {Prompt().text(question) for question in read_squad(source)}
    assert set(texts) == expected
    assert max(map(texts.count, expected)) == 3


def test_padding_does_not_change_greedy_text(
    write: Write, tmp_path: Path, write_squad: Callable[..., Path], model: GPT2LMHeadModel
) -> None:
    settings = replace(RANDOM, prompts="squad", source=str(write_squad()), count=5, greedy_tokens=8)
    for row in write(tmp_path / "out", settings):
        best = model(torch.tensor([row["input_ids"]])).logits[0].argmax(-1).tolist()
        assert row["input_ids"][row["prompt_length"] :] == best[row["prompt_length"] - 1 : -1]


def test_the_models_own_generation_settings_are_set_aside(write: Write, tmp_path: Path, model: GPT2LMHeadModel) -> None:
    plain = write(tmp_path / "plain")
    before = model.generation_config
    model.generation_config = replaced = type(before)(repetition_penalty=5.0, top_k=1, min_new_tokens=8)
    try:
        assert write(tmp_path / "own") == plain
        assert model.generation_config is replaced
    finally:
        model.generation_config = before


def test_an_interrupted_run_goes_on_and_ends_with_the_same_data(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = write(tmp_path / "unbroken")
    done: list[int] = []

    def until(stop: int) -> Callable[..., list[dict[str, Any]]]:
        def batch(model: Any, tokenizer: Any, prompts: Any, settings: Any, number: int) -> list[dict[str, Any]]:
            if number == stop:
                raise KeyboardInterrupt
            done.append(number)
            return original(model, tokenizer, prompts, settings, number)

        return batch

    original = generate._continue
    monkeypatch.setattr(generate, "_continue", until(1))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(generate, "_continue", until(-1))
    torch.manual_seed(99)
    assert write(tmp_path / "out") == unbroken
    assert done == [0, 1, 2]
    assert write(tmp_path / "out") == unbroken
    assert done == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "unbroken"]


def test_parts_of_other_settings_are_not_mixed_in(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(generate, "_continue", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out")
    other = replace(RANDOM, seed=1)
    with pytest.raises(UserError, match="other settings"):
        write(tmp_path / "out", other)
    assert len(write(tmp_path / "out", other, resume=False)) == 10
    with pytest.raises(UserError, match="already exists"):
        write(tmp_path / "out")


def test_seeds_differ_and_the_global_random_state_is_left_alone(write: Write, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first = write(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    assert write(tmp_path / "b", replace(RANDOM, seed=1)) != first


def test_sequences_without_a_token_to_learn_are_left_out(
    write: Write, tmp_path: Path, write_squad: Callable[..., Path]
) -> None:
    rows = write(tmp_path / "out", replace(RANDOM, prompts="squad", source=str(write_squad()), count=12))
    lengths = sorted({row["prompt_length"] for row in rows})
    assert len(lengths) > 1
    examples = GeneratedExamples(tmp_path / "out", lengths[-1], 10_000)
    left = [row for row in rows if row["prompt_length"] < lengths[-1]]
    assert [one["input_ids"] for one in examples] == [row["input_ids"][: lengths[-1]] for row in left]
    assert list(examples.lengths) == [min(len(row["input_ids"]), lengths[-1]) for row in left]
    with pytest.raises(UserError, match=f"raise data.max_length, {lengths[0]} now"):
        GeneratedExamples(tmp_path / "out", lengths[0], 10_000)


def test_tokens_that_the_model_does_not_have_are_refused(write: Write, tmp_path: Path) -> None:
    highest = max(token for row in write(tmp_path / "out") for token in row["input_ids"])
    GeneratedExamples(tmp_path / "out", 256, highest + 1)
    with pytest.raises(UserError, match=f"holds token {highest}, and the model has {highest}"):
        GeneratedExamples(tmp_path / "out", 256, highest)


def test_the_teachers_top_k_is_the_models_own(write: Write, tmp_path: Path, model: GPT2LMHeadModel) -> None:
    settings = replace(RANDOM, teacher_top_k=4, temperature=0.7, top_k=10)
    rows = write(tmp_path / "out", settings)
    examples = GeneratedExamples(tmp_path / "out", 256, 10_000)
    for row, example in zip(rows, examples, strict=True):
        ids = torch.tensor([row["input_ids"]])
        expected = model(ids).logits[0].log_softmax(-1)[:-1].topk(4)
        torch.testing.assert_close(
            torch.tensor(example["topk_logprobs"][1:]).float(), expected.values, atol=1e-5, rtol=1e-4
        )
        assert example["topk_ids"][1:].tolist() == expected.indices.tolist()
        assert example["labels"] == [IGNORED, *row["input_ids"][1:]]
    assert read_settings(tmp_path / "out")["teacher_top_k"] == 4


@pytest.mark.parametrize("module", ["squad", "text"])
def test_modules_train_on_the_folder(
    write: Write, tmp_path: Path, write_squad: Callable[..., Path], model_folder: str, module: str
) -> None:
    source = str(write_squad())
    settings = replace(RANDOM, prompts="squad", source=source, teacher_top_k=3, max_new_tokens=16)
    rows = write(tmp_path / "out", settings)
    folder = str(tmp_path / "out")
    assert is_generated(folder)
    data: SquadData | TextData
    if module == "squad":
        data = SquadData(model_folder, folder, source, batch_size=4, holdout=2, max_length=100)
    else:
        data = TextData(model_folder, folder, batch_size=4, window=100)
    data.setup()
    batches = list(data.train_dataloader())
    lengths = [min(len(row["input_ids"]), 100) for row in rows]
    assert sum(int(batch["attention_mask"].sum()) for batch in batches) == sum(lengths)
    labelled = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    assert labelled == sum(max(n - row["prompt_length"], 0) for n, row in zip(lengths, rows, strict=True))
    for batch in batches:
        assert batch["topk_ids"].shape == (*batch["input_ids"].shape, 3)
        assert (batch["topk_logprobs"][batch["labels"] != IGNORED] < 0).all()
        assert (batch["topk_logprobs"][batch["labels"] == IGNORED] == 0).all()
    assert data.counts["training"].cut == sum(len(row["input_ids"]) > 100 for row in rows) > 0
    if isinstance(data, SquadData):
        assert len(data.holdout_questions) == 2


def test_questions_and_the_folder_are_trained_on_together(
    write: Write, tmp_path: Path, write_squad: Callable[..., Path], model_folder: str
) -> None:
    source, folder = str(write_squad()), str(tmp_path / "out")
    rows = write(tmp_path / "out", replace(RANDOM, prompts="squad", source=source, teacher_top_k=3))
    options: dict[str, Any] = {"train": source, "dev": source, "holdout": 0, "batch_size": 4}
    both, gold = SquadData(model_folder, generated=folder, **options), SquadData(model_folder, **options)
    both.setup()
    gold.setup()
    texts = sorted(example["input_ids"] for example in both.examples)
    assert texts == sorted([*(one["input_ids"] for one in gold.examples), *(row["input_ids"] for row in rows)])
    assert sum(len(batch["labels"]) for batch in both.train_dataloader()) == len(texts) > len(rows) == 10
    assert both.train_sha256 != gold.train_sha256
    with pytest.raises(UserError, match="give one of them"):
        SquadData(model_folder, **options | {"train": folder, "generated": folder}).setup()


def test_a_damaged_folder_gives_one_line(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "out")
    next((tmp_path / "out").glob("*.arrow")).write_bytes(b"")
    with pytest.raises(UserError, match="not a readable folder") as error:
        GeneratedExamples(tmp_path / "out", 256, 10_000)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", "9" * 5000, ""])
def test_damaged_settings_give_one_line(content: str, write: Write, tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / "generation.json").write_text(content)
    with pytest.raises(UserError, match=r"generation\.json (is not JSON|is damaged)"):
        write(tmp_path / "out")


def test_an_unfinished_folder_is_not_trained_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: str
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("switchq.data.parts.Parts.join", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out")
    with pytest.raises(UserError, match=r"out\.partial is not finished: run `switchq gendata` again.*train on .*out$"):
        TextData(model_folder, str(tmp_path / "out.partial")).setup()


def test_an_unwritable_output_gives_one_line(write: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"greedy_tokens": -1},
        {"temperature": 0.0},
        {"prompts": "c4"},
        {"max_new_tokens": 300},
        {"teacher_top_k": 10_000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_impossible_settings_are_refused(write: Write, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        write(tmp_path / "out", replace(RANDOM, **change))
    assert list(tmp_path.iterdir()) == []
