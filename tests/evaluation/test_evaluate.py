import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.bitmap import Bitmap
from switchq.data.prompt import Prompt
from switchq.data.scoring_set import ScoringSet
from switchq.data.squad import Question
from switchq.errors import UserError
from switchq.evaluation.decode import decode
from switchq.evaluation.evaluate import evaluate
from switchq.evaluation.perplexity import answer_perplexity, text_perplexity
from switchq.evaluation.provenance import run_record, sha256
from switchq.evaluation.result import read_results, write_predictions, write_results
from switchq.nn import at, get_switch, set_bitmap

SHORT = Prompt("{context}\nQ: {question}\nA:")


def asking(questions: Sequence[Question], max_new_tokens: int = 2, **options: Any) -> ScoringSet:
    return ScoringSet("test", questions=questions, prompt=SHORT, max_new_tokens=max_new_tokens, **options)


def test_one_result_per_bitmap_in_order(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question], tmp_path: Path
) -> None:
    windows = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))
    results = evaluate(
        switchable,
        tokenizer,
        asking(questions, 6, batch_size=2, texts={"noise": windows.tolist()}),
        ["2", 16, "8/2", Bitmap([8] * 8)],
        progress=False,
        keep_predictions=True,
    )
    assert [result.label for result in results] == ["2", "16", "8/2", "8"]
    prompts = [item.prompt_ids for item in SHORT.encode_all(questions, tokenizer, 128, 6)]
    encoded = SHORT.encode_all(questions, tokenizer, 128)
    for result in results:
        with at(switchable, Bitmap(result.bits)):
            texts = decode(switchable, tokenizer, prompts, max_new_tokens=6).texts
            assert list(result.predictions.values()) == texts
            assert result.answer_perplexity == pytest.approx(answer_perplexity(switchable, encoded), rel=1e-4)
            assert result.text_perplexity["noise"] == pytest.approx(text_perplexity(switchable, windows), rel=1e-4)
        assert [score.id for score in result.scores] == ["a", "b", "c"]
        assert result.weight_mb == pytest.approx(sum(result.weight_parts_mb.values()))
        assert result.tokens_per_s > 0
        assert result.latency_ms > 0
    assert len({result.answer_perplexity for result in results}) == 4
    assert results[2].weight_mb < results[3].weight_mb < results[1].weight_mb
    write_results(tmp_path / "r.json", results)
    assert read_results(tmp_path / "r.json") == results
    write_predictions(tmp_path / "p.json", results[0])
    assert json.loads((tmp_path / "p.json").read_text()) == results[0].predictions


def test_nothing_leaks_into_training(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> None:
    switchable.train()
    frozen = switchable.transformer.h[0].ln_1.eval()
    set_bitmap(switchable, "8/2", adapters=False)
    gradients = {name: p.requires_grad for name, p in switchable.named_parameters()}
    state = torch.random.get_rng_state()
    evaluate(switchable, tokenizer, asking(questions), ["2"], progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module for module in switchable.modules() if not module.training] == [frozen]
    assert (str(get_switch(switchable).bitmap), get_switch(switchable).adapters) == ("8/2", False)
    assert gradients == {name: p.requires_grad for name, p in switchable.named_parameters()}


def test_it_runs_in_eval_mode_and_training_works_after(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> None:
    first = evaluate(switchable, tokenizer, asking(questions), ["8"], progress=False)[0]
    switchable.train()  # dropout at its default of 0.1 would show
    again = evaluate(switchable, tokenizer, asking(questions), ["8"], progress=False)[0]
    assert again.answer_perplexity == first.answer_perplexity
    set_bitmap(switchable, "8")
    ids = torch.tensor([[1, 2, 3]])
    switchable(input_ids=ids, labels=ids).loss.backward()


def test_adapters_can_be_left_out(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> None:
    for name, parameter in switchable.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    results = [
        evaluate(switchable, tokenizer, asking(questions), [16], adapters=adapters, progress=False)[0]
        for adapters in (True, False)
    ]
    assert [result.label for result in results] == ["16", "16 bare"]
    assert [result.weight_parts_mb["adapters"] > 0 for result in results] == [True, False]
    assert results[0].answer_perplexity != results[1].answer_perplexity


def test_the_no_answer_phrase_counts_as_the_empty_answer(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("switchq.evaluation.evaluate")

    said = ["Unanswerable.", "unanswerable", "Rome"]
    real = module.decode

    def fixed(*args: object, **options: object) -> object:
        decoded = real(*args, **options)
        return type(decoded)(said[: len(decoded.texts)], decoded.tokens, decoded.seconds)

    monkeypatch.setattr(module, "decode", fixed)
    asked = [Question("x", "c", "q", ()), Question("y", "c", "q", ("Rome",)), Question("z", "c", "q", ("Rome",))]
    result = evaluate(switchable, tokenizer, asking(asked), ["8"], progress=False, keep_predictions=True)[0]
    assert result.predictions == {"x": "", "y": "", "z": "Rome"}
    assert (result.NoAns_exact, result.HasAns_exact, result.NoAns_total, result.HasAns_total) == (100, 50, 1, 2)
    assert pytest.approx(200 / 3) == result.EM


def test_cut_contexts_are_counted(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> None:
    long = Question("d", "word " * 100, "Which?", ("word",))
    (result,) = evaluate(switchable, tokenizer, asking([*questions, long], 4), ["8"], progress=False)
    assert (result.n_questions, result.n_cut) == (4, 1)


def test_a_long_bitmap_gets_a_short_label(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> None:
    bitmaps = ["8,8,8,2,2,2,2,2", "mlp=2", "16,16,8,2,2,2,2,2"]
    results = evaluate(switchable, tokenizer, asking(questions[:1], 1), bitmaps, progress=False)
    assert [result.label for result in results] == ["8,8,8,2,2,2,2,2", "mlp=2", "mixed 5.33"]
    assert [Bitmap.parse(result.bitmap, [str(i) for i in range(8)]) for result in results] == [
        Bitmap(result.bits) for result in results
    ]


def test_nothing_to_score_is_an_error(switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="nothing to score: test is empty"):
        evaluate(switchable, tokenizer, asking([]), ["8"], progress=False)


def test_texts_alone(switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    windows = [list(range(10, 40)), list(range(50, 60))]
    results = evaluate(
        switchable, tokenizer, ScoringSet("t", texts={"a": windows, "b": windows[:1]}), ["8", "2"], progress=False
    )
    for result in results:
        assert (result.n_questions, result.F1, result.EM, result.answer_perplexity, result.tokens_per_s) == (
            0, None, None, None, None,
        )  # fmt: skip
        with at(switchable, result.label):
            assert result.text_perplexity == {
                "a": pytest.approx(text_perplexity(switchable, windows), rel=1e-5),
                "b": pytest.approx(text_perplexity(switchable, windows[:1]), rel=1e-5),
            }
        assert result.headline().keys() == {"a perplexity", "b perplexity"}


def test_questions_alone(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]
) -> None:
    (result,) = evaluate(switchable, tokenizer, asking(questions), ["8"], progress=False)
    assert (result.n_questions, result.text_perplexity, result.predictions) == (3, {}, None)
    assert result.headline() == {"F1": result.F1, "EM": result.EM}


def test_the_progress_bar_goes_to_stderr(
    switchable: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[Question],
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluate(switchable, tokenizer, asking(questions, 1), ["8", "2"])
    out, err = capsys.readouterr()
    assert out == ""
    assert "12/12" in err


def test_the_run_record_says_how_to_repeat(
    switchable: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question], tmp_path: Path
) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"abc")
    run = run_record(
        switchable,
        base="gpt2",
        base_hash="0f",
        checkpoint=tmp_path / "last.ckpt",
        data="rajpurkar/squad",
        seed=7,
        settings={"rank": 4},
    )
    assert run["checkpoint_sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert run["checkpoint_sha256"] == sha256(tmp_path / "last.ckpt")
    assert (run["base_hash"], run["seed"], run["data_sha256"], run["dtype"]) == ("0f", 7, None, "float32")
    assert run["versions"]["torch"] == torch.__version__
    (result,) = evaluate(switchable, tokenizer, asking(questions, 3), ["8"], progress=False, run=run)
    settings = result.run["settings"]
    assert settings["rank"] == 4
    assert (settings["scoring"]["max_new_tokens"], settings["scoring"]["template"]) == (3, SHORT.template)
    assert math.isfinite(result.peak_memory_mb)
    assert result.peak_memory_of == "resident"
