"""Mistakes of a user: one clear line on stderr, exit code 2, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from workshop import Workshop, write_questions

from .conftest import Outcome, Run, write_config


@pytest.fixture
def place(run: Run, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A folder full of broken things, by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    broken = tmp_path / "broken"
    broken.mkdir()
    good = run.checkpoint.read_bytes()
    (broken / "half.ckpt").write_bytes(good[: len(good) // 2])
    torch.save({"weights": torch.zeros(2)}, broken / "foreign.ckpt")
    other = torch.load(run.checkpoint, weights_only=True)
    other["base"]["sha256"] = "0" * 64
    torch.save(other, broken / "other.ckpt")
    (broken / "text.json").write_text("Dear diary")
    document = json.loads(workshop.dev.read_text())
    del document["data"][0]["paragraphs"][1]["qas"][0]["question"]
    (broken / "record.json").write_text(json.dumps(document))
    write_questions(broken / "empty.json", [])
    (broken / "empty.txt").write_text("")
    (broken / "list.json").write_text("[8, 8]")
    (broken / "unclosed.yaml").write_text("model: [\n")
    (broken / "typo.yaml").write_text(yaml.safe_dump({"modle": {"base": "x"}}))
    config = yaml.safe_load(run.config.read_text())
    config["trainer"]["default_root_dir"] = str(tmp_path)
    config["model"]["lrr"] = 1
    (broken / "typo2.yaml").write_text(yaml.safe_dump(config))
    unknown = broken / "unknown"
    shutil.copytree(workshop.base, unknown)
    settings = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps({**settings, "model_type": "bloom"}))
    shutil.copytree(workshop.base, broken / "weightless")
    (broken / "weightless" / "model.safetensors").write_bytes(b"no")
    write_config(workshop, tmp_path)
    (tmp_path / "file").write_text("")
    adapter = run.folder / "adapters" / "bits_8"
    paths = {"ckpt": run.checkpoint, "base": workshop.base, "train": workshop.train, "dev": workshop.dev}
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    return {**paths, "adapter": adapter, "quickstart": quickstart, "B": broken}


FIT = "fit --config config.yaml "
EVAL = "eval --ckpt {ckpt} "
SENSITIVITY = "sensitivity --ckpt {ckpt} "
GENDATA = "gendata --model {base} --output new --source {train} "

TABLE = [
    # bitmaps
    (EVAL + "--bitmap 8,4,2", "3 widths", "8 quantised layers"),
    (EVAL + "--bitmap @{B}/list.json", "2", "8 quantised layers"),
    (EVAL + "--bitmap 9", "no bit-width 9"),
    (EVAL + "--bitmap eight", "eight"),
    (EVAL + "--bitmap 8 --bitmap atn=4", "atn", "matches no"),
    (EVAL + "--bitmap @missing.json", "cannot read the bitmap file missing.json: No such file or directory"),
    (FIT + "--model.bitmaps [8,9]", "no bit-width 9"),
    (FIT + "--model.bits [8,8]", "each width once"),
    (FIT + "--model.bits [1]", "no bit-width 1"),
    (FIT + "--model.bits 8", "--model.bits must be a list"),
    (FIT + "--schedule.bitmaps ['8,4']", "8 quantised layers"),
    (FIT + "--schedule.bitmaps []", "at least one bitmap"),
    # checkpoints
    (EVAL.format(ckpt="none.ckpt"), "no checkpoint none.ckpt", "last.ckpt"),
    (EVAL.format(ckpt="{B}/half.ckpt"), "half.ckpt is damaged"),
    (EVAL.format(ckpt="{B}/foreign.ckpt"), "not a switchq checkpoint"),
    (EVAL.format(ckpt="{B}/other.ckpt"), "other weights", "000000000000"),
    (EVAL.format(ckpt="{B}/text.json"), "damaged or not a checkpoint"),
    (EVAL + "--base {B}/weightless", "weightless"),
    (FIT + "--ckpt_path last", "no checkpoint to resume from"),
    (FIT + "--ckpt_path none.ckpt", "no checkpoint none.ckpt"),
    (FIT + "--ckpt_path {B}/other.ckpt", "other weights"),
    (FIT + "--ckpt_path {ckpt} --model.bits [8,2]", "trained with model.bits [8, 4, 2], not [8, 2]: use the same"),
    (FIT + "--ckpt_path {ckpt} --model.grid.scale mse", "trained with model.grid.scale absmax, not mse"),
    (FIT + "--ckpt_path {ckpt} --data.batch_size 3", "trained with data.batch_size 4, not 3: use the same"),
    (FIT + "--model.accumulate 100 --trainer.max_steps -1 --trainer.max_epochs 1", "10 batches in all, fewer than"),
    (
        FIT + "--model.accumulate 2 --data.batch_size 100 --trainer.max_steps -1 --trainer.max_epochs 1",
        "the run has 1 batch in all, fewer than model.accumulate 2",
    ),
    (FIT + "--schedule Cyclic --schedule.mode cosine --schedule.high 20", "2 to 8 bits, and its high is 20"),
    (FIT + "--schedule Cyclic --schedule.mode cosine --model.bits [16,4]", "2 to 8 bits, and its high is 16"),
    (EVAL + "--text {dev} --limit 0", "--limit must be at least 1, not 0"),
    (EVAL + "--text {dev} --window 0", "--window must be 2 to 96, not 0"),
    (FIT + "--schedule Cyclic --schedule.mode each --model.accumulate 2", "cannot accumulate"),
    (FIT + "--model.rank {{{{8:4,2:4}}}}", "a blank after each colon: {8: 4,2: 4}"),
    ("test --config config.yaml --ckpt_path {B}/half.ckpt", "half.ckpt is damaged"),
    # data
    (EVAL + "--data {B}/text.json", "text.json"),
    (EVAL + "--data {B}/record.json", "record.json", "data[0].paragraphs[1].qas[0]", "question"),
    (EVAL + "--data {B}/empty.json", "empty.json", "no questions"),
    (EVAL + "--data missing.json", "missing.json"),
    (EVAL + "--data " + 300 * "a", "aaa: cannot be read (File name too long)"),
    (FIT + "--data.train " + 300 * "b", "bbb: cannot be read (File name too long)"),
    (EVAL + "--data owner/name", "owner/name", "local"),
    (EVAL + "--text missing.txt", "missing.txt"),
    (EVAL + "--text {B}/empty.txt", "empty.txt"),
    (FIT + "--data.train {B}/record.json", "record.json", "data[0].paragraphs[1].qas[0]"),
    (FIT + "--data.train {B}/empty.json", "empty.json"),
    (FIT + "--data.dev missing.json", "missing.json"),
    (FIT + "--data.train owner/name", "owner/name", "local"),
    (FIT + "--data.holdout 1000", "holdout"),
    (FIT + "--data.holdout -1", "holdout must not be negative"),
    (FIT + "--data.limit_train 0", "at least 1"),
    (FIT + "--data.max_length 1000", "context window of 96"),
    (FIT + "--data.batch_size 0", "batch_size", "at least 1"),
    (FIT + "--data.seed -1", "data.seed must be at least 0"),
    (EVAL + "--text {dev} --text {dev}", "--text", "given twice"),
    (EVAL + "--text .", "--text '.' is not the name of a file: give one\n"),
    (EVAL + "--text=", "--text '' is not the name of a file: give one\n"),
    # models
    ("eval --model owner/name --data {dev}", "owner/name", "local folder"),
    ("eval --model {B}/unknown --data {dev}", "'bloom' is not supported", "gpt2, llama"),
    ("eval --model {B}/weightless --data {dev}", "weightless"),
    ("eval --model ./nowhere --data {dev}", "no model folder ./nowhere"),
    (FIT + "--model.base owner/name", "owner/name", "local folder"),
    (FIT + "--model.grid.group_size 7", "7", "32"),
    (FIT + "--model.rank {{{{'8':0}}}}", "rank of the 8-bit adapter is 0"),
    (FIT + "--model.alpha {{{{'8':0}}}}", "alpha of the 8-bit adapter is 0"),
    (FIT + "--model.adapter_dropout 3", "model.adapter_dropout must be at least 0 and below 1"),
    (FIT + "--schedule.distill -1", "schedule.distill must be at least 0"),
    (FIT + "--schedule.temperature 0", "schedule.temperature must be above 0"),
    (FIT + "--model.lr -1", "model.lr must be at least 0"),
    (FIT + "--model.accumulate 0", "model.accumulate must be at least 1"),
    # places to write to
    (EVAL + "--output file/below/r.json", "cannot write file/below/r.json"),
    (EVAL + "--output {B}", "it is a folder"),
    (EVAL + "--predictions file/below", "cannot write file/below"),
    (FIT + "--trainer.default_root_dir file/below", "cannot write file/below", "--trainer.default_root_dir"),
    (GENDATA + "--output file/below", "file/below"),
    # options
    ("fit --config missing.yaml", "missing.yaml"),
    ("fit --config {B}/unclosed.yaml", "unclosed.yaml"),
    ("fit --config {B}/typo.yaml", "modle"),
    ("fit --config {B}/typo2.yaml", "lrr"),
    (FIT + "--schedule Spiral", "no 'Spiral'", "Cyclic, InstantNet, SPNet"),
    (FIT + "--schedule.mode each", "SPNet has no option 'mode'"),
    (FIT + "--schedule Cyclic --schedule.mode round", "round", "'each', 'turns' or 'cosine'"),
    (FIT + "--schedule Cyclic --schedule.cycles 0", "at least one cycle"),
    (FIT + "--model.grid Cubic", "no 'Cubic'", "Symmetric"),
    (FIT + "--model.lr fast", "--model.lr must be a number, not 'fast'"),
    (FIT + "--data.batchsize 3", "SquadData has no option 'batchsize'"),
    (FIT + "--data.batch_size many", "--data.batch_size must be a whole number, not 'many'"),
    (FIT + "--checkpoint.every_n_steps 0", "at least 1"),
    (FIT + "--trainer.max_steps 0", "nothing to train"),
    (FIT + "--trainer.max_steps -1 --trainer.max_epochs -1", "give the run an end"),
    (FIT + "--trainer.max_steps -5", "max_steps"),
    (FIT + "--trainer.accelerator warp", "warp"),
    (FIT + "--trainer.accelerator tpu", "the trainer's options do not work", "torch_xla"),
    (FIT + "--trainer.gradient_clip_val 1.0", "--model.max_grad_norm"),
    (FIT + "--trainer.accumulate_grad_batches 2", "--model.accumulate"),
    (FIT + "--trainer.precision 16-mixed", "bf16-mixed"),
    ("eval", "--ckpt", "--model"),
    (EVAL + "--model {base}", "either --ckpt"),
    (EVAL + "--limit 0", "at least 1"),
    (EVAL + "--limit -3", "at least 1"),
    (EVAL + "--limit ten", "--limit must be a whole number, not 'ten'"),
    (EVAL + "--batch_size 0", "--batch_size must be at least 1"),
    (EVAL + "--max_new_tokens 0", "--max_new_tokens must be at least 1"),
    (EVAL + "--window 1 --text {dev}", "--window must be 2 to 96"),
    (EVAL + "--window 1000 --text {dev}", "--window must be 2 to 96"),
    (EVAL + "--device gpu9", "no device 'gpu9'"),
    (EVAL + "--device meta", "no device 'meta'"),
    ("eval --model ~nobodyhere/x --data {dev}", "no model folder ~nobodyhere/x: there is no such user"),
    (EVAL + f"--output {'a' * 300}.json", "no file can have so long a name: aaa"),
    (EVAL + f"--data {'a' * 300}.json", "a.json: cannot be read (File name too long)"),
    (f"eval --model {'a' * 300} --data {{dev}}", "no file can have so long a name: aaa"),
    (f"eval --ckpt {'a' * 300}", "no file can have so long a name: aaa"),
    (f"report {'a' * 300}", "no file can have so long a name: aaa"),
    ("eval --bitmap 8", "--ckpt", "--model", "or --artifact"),
    (
        "ptq --config {quickstart}",
        "--model must be a text, not ",
        "base",
        "and so on: is it from the --config of another command?\n",
    ),
    (EVAL + f"--limit {'9' * 90}x", f"--limit must be a whole number, not '{'9' * 80}' and so on\n"),
    (EVAL + f"--limit {{{{{{{{{'a' * 90}: 1}}}}}}}}", "aaa' and so on\n"),
    (FIT + f"--data.batch_size {'9' * 90}x", f"--data.batch_size must be a whole number, not '{'9' * 80}' and so on\n"),
    ("eval --model {base} --data {dev} --adapters both", "--adapters both is for a checkpoint or an artifact"),
    ("eval --model {base} --data nodata", "use a local file instead, such as PATH/dev-v1.1.json"),
    ("eval --model {base} --text nodata", "use a local text file instead, such as PATH/train.txt"),
    ("eval --model {adapter} --data {dev}", "holds an adapter for peft and no model: give its base"),
    (EVAL + "--adapters maybe", "'on', 'off' or 'both'"),
    (EVAL + "--bitmpa 8", "unknown option --bitmpa"),
    ("eval --model {base}", "give --data FILE"),
    ("sensitivity", "--ckpt", "--model"),
    (SENSITIVITY + "--model {base}", "either --ckpt"),
    ("sensitivity --model {base}", "give --data FILE"),
    (SENSITIVITY + "--output file", "file is there already", "--overwrite"),
    (SENSITIVITY + "--output file/below/s.json", "cannot write file/below/s.json"),
    (SENSITIVITY + "--output {B} --overwrite true", "it is a folder"),
    (SENSITIVITY + "--logdir file/below", "cannot write file/below"),
    (SENSITIVITY + "--scores rank", "--scores must be 'mse', 'mae', 'kl' or 'fisher', not 'rank'"),
    (SENSITIVITY + "--bits 9", "no bit-width 9: use 2 to 8\n"),
    (SENSITIVITY + "--bits 16", "--bits 16"),
    (SENSITIVITY + "--bits two", "--bits must be a whole number, not 'two'"),
    (SENSITIVITY + "--limit 0", "--limit must be at least 1"),
    (SENSITIVITY + "--batch_size 0", "--batch_size must be at least 1"),
    (SENSITIVITY + "--seed -1", "--seed must be at least 0"),
    (SENSITIVITY + "--window 8", "--window", "--text FILE"),
    (SENSITIVITY + "--data {B}/empty.json", "no questions"),
    (SENSITIVITY + "--data missing.json", "missing.json"),
    (SENSITIVITY + "--text missing.txt", "missing.txt"),
    (SENSITIVITY + "--text {B}/empty.txt", "empty.txt"),
    (SENSITIVITY + "--text {train} --data {train}", "not on both"),
    (SENSITIVITY + "--text {train} --window 97", "--window must be 2 to 96"),
    (SENSITIVITY + "--group_size 16", "a checkpoint keeps its own grid"),
    ("sensitivity --model {base} --group_size 7 --data {train}", "group size 7"),
    (SENSITIVITY + "--device gpu9", "no device 'gpu9'"),
    (SENSITIVITY + "--ckpt {B}/half.ckpt", "half.ckpt is damaged"),
    ("gendata --model {base}", "missing --output"),
    (GENDATA + "--count 0", "count must be at least 1, not 0"),
    (GENDATA + "--output {B}", "already exists and holds something else"),
    (GENDATA + "--teacher_top_k 5000", "teacher_top_k 5000 is more than the model's"),
    (GENDATA + "--temperature 0", "temperature"),
    (GENDATA + "--max_new_tokens 0", "max_new_tokens"),
    (GENDATA + "--prompts maybe", "'squad' or 'random'"),
    (GENDATA + "--source missing.json", "missing.json"),
    (GENDATA + "--source missing.parquet", "missing.parquet: no such file"),
    (GENDATA + "--source owner/name", "owner/name", "local"),
]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_one_line_exit_code_2_nothing_written(
    row: tuple[str, ...], place: dict[str, Any], tmp_path: Path, switchq: Callable[..., Outcome]
) -> None:
    command, *says = row
    before = files(tmp_path)
    done = switchq(*command.format(**place).format(**place).split())
    assert done.code == 2, done
    assert done.err.startswith("switchq: error: ")
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1, done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert [part for part in says if part not in done.err] == [], done.err
    assert files(tmp_path) == before
    assert len(done.err) < 600


def test_an_interval_that_only_the_run_can_tell_is_too_long(
    place: dict[str, Any], switchq: Callable[..., Outcome]
) -> None:
    """Lightning counts the batches once the data is read."""
    options = "--trainer.val_check_interval 1000 --trainer.check_val_every_n_epoch 1 --trainer.limit_val_batches 1"
    done = switchq(*FIT.split(), *options.split())
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith("switchq: error: val_check_interval (1000) must be less than or equal to the number of")
    assert "Traceback" not in done.err
