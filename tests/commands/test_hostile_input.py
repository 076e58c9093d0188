"""Files that nobody wrote in good faith, for every command that reads one: one line, exit code 2, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from workshop import Workshop

from switchq.files import signed
from switchq.posttraining.ptq.saving import read_saved

from .conftest import Outcome, Run, write_config

FILES: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 40,
    "zeros": bytes(100_000),
    "utf16": '{"data": []}'.encode("utf-16"),
    "latin1": '{"data": "caf\u00e9"}'.encode("latin-1"),
    "bom": b"\xef\xbb\xbf" + b'{"data": []}',
    "deep": b"[" * 200_000,
    "digits": b"9" * 10_000,
    "huge": b'{"data": [' + b'{"paragraphs": []},' * 200_000 + b'{"paragraphs": []}]}',
    "number": b"7",
    "null": b"null",
    "nan": b'{"kind": NaN, "data": NaN}',
    "twice": b'{"data": []}{"data": []}',
    "surrogate": b'{"data": "\\ud800"}',
}
"""What a file may hold, by name; none of them is what any option asks for."""

READERS = {
    "eval --ckpt": "eval --ckpt {file}",
    "eval --data": "eval --ckpt {ckpt} --data {file}",
    "eval --bitmap": "eval --ckpt {ckpt} --bitmap @{file}",
    "eval --model": "eval --model {file} --data {dev}",
    "eval --artifact": "eval --artifact {folder}",
    "generate": "generate --artifact {folder} --prompt x",
    "bench": "bench --artifact {folder}",
    "fit --config": "fit --config {file}",
    "fit --data.train": "fit --config config.yaml --data.train {file}",
    "fit --ckpt_path": "fit --config config.yaml --ckpt_path {file}",
    "gendata --source": "gendata --model {base} --output new --source {file}",
    "sensitivity --data": "sensitivity --ckpt {ckpt} --data {file}",
    "search --sensitivity": "search --ckpt {ckpt} --sensitivity {file}",
    "ptq --config": "ptq --config {file} --output new",
    "export --ckpt": "export --ckpt {file} --output new",
    "verify": "verify {folder}",
    "compare": "compare {file} {file}",
    "report": "report {file}",
}


@pytest.fixture
def place(run: Run, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_config(workshop, tmp_path)
    return {"ckpt": run.checkpoint, "base": workshop.base, "dev": workshop.dev}


def check(done: Outcome, before: dict[Path, int]) -> None:
    assert done.code == 2, (done.code, done.err[-3000:])
    assert done.out == ""
    assert done.err.startswith("switchq: error: ")
    assert done.err.count("\n") == 1, done.err
    assert len(done.err) < 700
    assert "Traceback" not in done.err
    assert sizes() == before


def sizes() -> dict[Path, int]:
    return {path: path.stat().st_size for path in Path.cwd().rglob("*")}


@pytest.mark.parametrize("content", FILES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_such_file(
    reader: str, content: str, place: dict[str, Any], switchq: Callable[..., Outcome]
) -> None:
    file, folder = Path("given.json"), Path("folder")
    folder.mkdir()
    for path in (file, folder / "artifact.json", folder / "switchq.json"):
        path.write_bytes(FILES[content])
    before = sizes()
    line = READERS[reader].format(file=file, folder=folder, **place)
    check(switchq(*line.split()), before)


COMBINATIONS = [
    "fit --config config.yaml --data TextData --data.window 1",
    "fit --config config.yaml --seed_everything -1",
    "fit --config config.yaml --seed_everything x",
    "fit --config config.yaml --model.lr nan",
    "fit --config config.yaml --model.rank {{'8':-1}}",
    "fit --config config.yaml --data.num_workers -1",
    "fit --config config.yaml --data.template {context}",
    "fit --config config.yaml --data.pad_multiple 0",
    "fit --config config.yaml --trainer.val_check_interval 0",
    "fit --config config.yaml --trainer.log_every_n_steps -1",
    "eval --ckpt {ckpt} --batch_size 1e3",
    "eval --ckpt {ckpt} --bitmap 8" + "8" * 5000,
    "eval --ckpt {ckpt} --device cuda:-1",
    "eval --ckpt {ckpt} --device",
    "eval --ckpt {ckpt} --output given/",
    "eval --config missing.yaml",
    "gendata --model {base} --output new --seed -1 --source {dev}",
    "gendata --model {base} --output new --temperature nan --source {dev}",
    "gendata --model {base} --output new --max_new_tokens 5000 --source {dev}",
    "search --ckpt {ckpt} --method evolution --budget nan",
    "compare a.json b.json --seed -1",
    "generate --artifact {base} --prompt x --temperature nan",
    "export --model {base} --output new --bits 1",
    "export --model {base} --output new --group_size -1",
]


@pytest.mark.parametrize("line", COMBINATIONS, ids=lambda line: line[:70])
def test_values_that_make_no_sense(line: str, place: dict[str, Any], switchq: Callable[..., Outcome]) -> None:
    Path("given").mkdir()
    before = sizes()
    text = line.replace("{context}", "\0").replace("{{", "\1").replace("}}", "\2")
    text = text.format(**place).replace("\0", "{context}").replace("\1", "{").replace("\2", "}")
    check(switchq(*text.split()), before)


class TestNoPathEscapes:
    def test_shards_of_a_model(self, place: dict[str, Any], switchq: Callable[..., Outcome]) -> None:
        shutil.copytree(place["base"], "model")
        Path("model/model.safetensors").rename("secret.safetensors")
        index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "../secret.safetensors"}}
        Path("model/model.safetensors.index.json").write_text(json.dumps(index))
        before = sizes()
        done = switchq("eval", "--model", "./model", "--data", place["dev"])
        check(done, before)
        assert "'../secret.safetensors', which is outside its folder" in done.err

    def test_files_of_a_saved_model(self, tmp_path: Path) -> None:
        content = {"kind": "ptq-model", "files": {"../../x": "0"}, "weights_sha256": "", "record": {}}
        (tmp_path / "switchq.json").write_text(json.dumps(signed(content)))
        with pytest.raises(ValueError, match=r"switchq ptq|outside its folder"):
            read_saved(tmp_path)

    def test_a_model_with_code_of_its_own(self, place: dict[str, Any], switchq: Callable[..., Outcome]) -> None:
        shutil.copytree(place["base"], "model")
        config = json.loads(Path("model/config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
        Path("model/config.json").write_text(json.dumps(config))
        Path("model/code.py").write_text("from pathlib import Path\nPath('pwned').touch()\n")
        before = sizes()
        check(switchq("eval", "--model", "./model", "--data", place["dev"]), before)

    def test_a_pickled_model(self, place: dict[str, Any], switchq: Callable[..., Outcome]) -> None:
        shutil.copytree(place["base"], "model")
        Path("model/model.safetensors").unlink()
        torch.save({"transformer.wte.weight": torch.zeros(2)}, "model/pytorch_model.bin")
        before = sizes()
        check(switchq("eval", "--model", "./model", "--data", place["dev"]), before)


def test_no_token_is_written_or_printed(
    workshop: Workshop, tmp_path: Path, switchq: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_aVerySecretToken0123456789"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, secret)
    config = write_config(workshop, tmp_path)
    done = switchq("fit", "--config", config)
    assert done.code == 0, done.err
    ckpt = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    again = switchq("eval", "--ckpt", ckpt, "--bitmap", 8, "--output", tmp_path / "r.json")
    assert again.code == 0, again.err
    assert secret not in done.out + done.err + again.out + again.err
    assert [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()] == []
