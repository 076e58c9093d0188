"""export, generate, bench, and eval of an artifact: from a checkpoint to an answer, and every mistake on one line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from workshop import Workshop

from switchq.cli import main
from switchq.commands.subject import load_subject
from switchq.inference import Artifact, SwitchableLM, bench
from switchq.inference.bench import SLOWER, Speed, measure
from switchq.nn import at
from switchq.quant import Nested
from switchq.training.callbacks import SPNet

from .conftest import Outcome, Run

Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def artifact(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run, exported by the command."""
    folder = tmp_path_factory.mktemp("exported") / "artifact"
    assert main(["export", "--ckpt", str(run.checkpoint), "--output", str(folder), "--embeddings", "32"]) == 0
    return folder


def test_export_tells_sizes_and_what_rounding_again_costs(run: Run, switchq: Command, tmp_path: Path) -> None:
    done = switchq("export", "--ckpt", run.checkpoint, "--output", tmp_path / "a")
    assert done.code == 0, done.err
    for part in ("planes", "levels", "adapters", "embeddings", "norms and biases", "all"):
        assert f"  {part} " in done.out
    assert "trained on the grid Symmetric, whose codes do not nest" in " ".join(done.out.split())
    assert all(f"{bits} bits   " in done.out for bits in (8, 4, 2))
    manifest = Artifact(tmp_path / "a").manifest
    assert manifest.widths == (8, 4, 2)
    assert manifest.source["checkpoint"] == str(run.checkpoint)


def test_codes_rounded_from_the_wide_one_do_not_nest(workshop: Workshop, switchq: Command, tmp_path: Path) -> None:
    module = workshop.module(grid=Nested(16, double=True))
    workshop.fit(SPNet(["8", "2"]), tmp_path, 1, module)
    done = switchq("export", "--ckpt", tmp_path / "checkpoints/last.ckpt", "--output", tmp_path / "a")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "trained on the grid Nested, double, whose codes do not nest" in said
    assert "--model.grid Nested, not double, loses nothing" in said


def test_a_plain_model_is_exported_without_loss(workshop: Workshop, switchq: Command, tmp_path: Path) -> None:
    done = switchq("export", "--model", workshop.base, "--output", tmp_path / "a", "--group_size", 16, "--bits", 5)
    assert done.code == 0, done.err
    assert "not nest" not in done.out
    lm = SwitchableLM.from_pretrained(tmp_path / "a", packed=False)
    subject = load_subject(None, str(workshop.base), bits=[5], grid="nested", group_size=16)
    ids = torch.arange(1, 9).unsqueeze(0)
    with torch.no_grad(), at(subject.model, 5):
        expected = subject.model(ids).logits
    torch.testing.assert_close(lm(ids).logits, expected, rtol=1e-3, atol=1e-3)  # embeddings are stored in float16


def test_eval_of_an_artifact_asks_what_the_checkpoint_was_asked(
    run: Run, artifact: Path, switchq: Command, tmp_path: Path
) -> None:
    done = switchq("eval", "--artifact", artifact, "--limit", 4, "--output", tmp_path / "r.json")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "r.json").read_text())
    assert [result["bitmap"] for result in results] == ["8", "8/4", "4", "4/2", "2"]
    assert {result["n_questions"] for result in results} == {4}
    record = results[0]["run"]
    assert record["settings"]["artifact_sha256"] == json.loads((artifact / "artifact.json").read_text())["sha256"]
    assert record["base_hash"] == torch.load(run.checkpoint, weights_only=True)["base"]["sha256"]
    done = switchq("eval", "--ckpt", run.checkpoint, "--limit", 4, "--bitmap", 8, "--output", tmp_path / "c.json")
    (expected,) = json.loads((tmp_path / "c.json").read_text())
    assert results[0]["answer_perplexity"] == pytest.approx(expected["answer_perplexity"], rel=0.02)


def test_generate_streams_and_switches(artifact: Path, switchq: Command) -> None:
    options = ("--artifact", artifact, "--prompt", "House 1 is in", "--max_new_tokens", 6)
    done = switchq("generate", *options, "--schedule", "0:8,3:4")
    assert done.code == 0, done.err
    assert "at 0:8,3:4" in done.err
    assert "MB read" in done.err
    once, again = (switchq("generate", *options, "--bitmap", 4) for _ in range(2))
    assert once.code == 0, once.err
    assert once.out == again.out != ""


def test_one_token_has_no_rate(artifact: Path, switchq: Command) -> None:
    options = ("--artifact", artifact, "--prompt", "House 1 is in", "--bitmap", 8)
    one, two = (switchq("generate", *options, "--max_new_tokens", count) for count in (1, 2))
    assert re.fullmatch(r"1 token at 8: first after \d+ ms; [\d.]+ MB read", one.err.splitlines()[0])
    assert re.fullmatch(r"2 tokens at 8: first after \d+ ms, then [\d.]+ a second; .*", two.err.splitlines()[0])


def test_packed_for_memory(artifact: Path, run: Run, switchq: Command, tmp_path: Path) -> None:
    options = ("--artifact", artifact, "--prompt", "House 1 is in", "--max_new_tokens", 6)
    done = switchq("generate", *options, "--schedule", "0:4,3:2", "--prefer", "memory")
    assert done.code == 0, done.err
    assert done.out != ""
    asked = ("--limit", 4, "--bitmap", 2, "--prefer", "memory")
    done = switchq("eval", "--artifact", artifact, *asked, "--output", tmp_path / "r.json")
    assert done.code == 0, done.err
    (result,) = json.loads((tmp_path / "r.json").read_text())
    assert result["run"]["settings"]["prefer"] == "memory"
    done = switchq("eval", "--ckpt", run.checkpoint, *asked)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--prefer is for an --artifact" in done.err


def test_bench_has_a_row_for_each_width(
    artifact: Path, switchq: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(folder: str, bitmap: str, *, threads: int | None, **options: Any) -> bench.Speed:
        return measure(folder, bitmap, **options)

    monkeypatch.setattr("switchq.commands.bench.bench", here)
    options = (
        "--new_tokens",
        2,
        "--prompt_tokens",
        4,
        "--repeats",
        1,
        "--prefer",
        "memory",
        "--output",
        tmp_path / "b.json",
    )
    done = switchq("bench", "--artifact", artifact, *options)
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["bitmap"] for row in rows] == ["float32", "8", "4", "2"]
    assert rows[0]["read_mb"] == 0 < rows[3]["read_mb"] < rows[2]["read_mb"] < rows[1]["read_mb"]
    assert all(row["bitmap"] in done.out for row in rows)
    assert "read for memory" in done.out


def test_hf_loads_in_transformers(run: Run, switchq: Command, tmp_path: Path) -> None:
    done = switchq("export", "--ckpt", run.checkpoint, "--output", tmp_path / "hf", "--format", "hf", "--bitmap", "8/4")
    assert done.code == 0, done.err
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    subject = load_subject(str(run.checkpoint), None)
    ids = torch.arange(1, 9).unsqueeze(0)
    with torch.no_grad(), at(subject.model, "8/4"):
        torch.testing.assert_close(loaded(ids).logits, subject.model(ids).logits, rtol=1e-4, atol=1e-4)


def test_one_bitmap_is_packed_verified_and_its_loss_told(run: Run, switchq: Command, tmp_path: Path) -> None:
    folder = tmp_path / "gptq"
    text = tmp_path / "text.txt"
    text.write_text("House 1 is in Oslo. It has a red door. " * 4)
    options = ("--ckpt", run.checkpoint, "--output", folder, "--format", "gptq", "--bitmap", 4)
    done = switchq("export", *options, "--text", text)
    assert done.code == 0, done.err
    assert "layers rounded again (adapters merged)" in done.out
    assert "Perplexity of the text: " in done.out
    assert json.loads((folder / "switchq.json").read_text())["source"]["checkpoint"] == str(run.checkpoint)
    assert switchq("verify", folder).out.endswith("files have the hashes that were saved\n")
    done = switchq("export", *options, "--adapters", "peft", "--overwrite")
    assert f"Its adapter for peft, which it needs, lies in {folder}/adapters/bits_4" in done.out.replace("\n", "")
    assert switchq("verify", folder).code == 0
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "model.safetensors has changed since it was written" in switchq("verify", folder).err


def test_bench_shows_no_rate_of_nothing_and_one_factor_a_width(
    artifact: Path, switchq: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = iter([{}, {8: 1.5}, {8: 1.8}])
    monkeypatch.setattr(
        "switchq.commands.bench.bench",
        lambda _, row, **__: Speed(row, None if row == "8/4" else 50.0, 1.0, 1.0, 1.0, 1.0, next(factors)),
    )
    options = ("--prompt_tokens", 4, "--new_tokens", 4, "--bitmap", "8", "--bitmap", "8/4")
    done = switchq("bench", "--artifact", artifact, *options)
    assert done.code == 0, done.err
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.strip()}
    assert rows["8"][:2] == ["50.0", "1.00"]
    assert rows["8/4"] == ["1", "1", "1.0"]  # milliseconds and megabytes alone
    assert "raise --new_tokens" in done.out
    assert [line for line in done.out.splitlines() if "8 bits alone" in line] == [SLOWER.format(bits=8, factor=1.8)]


def test_every_width_that_ran_slowly_is_told(artifact: Path, switchq: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SwitchableLM, "slower_than_float32", lambda lm: {lm.bitmap[0]: 2.0})
    options = ("generate", "--artifact", artifact, "--prompt", "hi", "--max_new_tokens", 4, "--schedule")
    done = switchq(*options, "0:8,2:4,9:2")
    assert [width for width in (8, 4, 2) if f"a product at {width} bits alone takes 2.0 times" in done.err] == [8, 4]


def test_a_plain_model_is_not_told_of_adapters(workshop: Workshop, switchq: Command, tmp_path: Path) -> None:
    options = ("--model", workshop.base, "--format", "gptq", "--bitmap", 4)
    done = switchq("export", *options, "--grid", "symmetric", "--adapters", "peft", "--output", tmp_path / "one")
    assert "adapter" not in done.out, done.err
    done = switchq("export", *options, "--grid", "nested", "--output", tmp_path / "two")
    assert "layers rounded again (their levels are no integers times a scale)" in done.out
    assert "adapter" not in done.out


def test_rows_without_adapters_are_named_so(
    run: Run, artifact: Path, workshop: Workshop, switchq: Command, tmp_path: Path
) -> None:
    """An artifact's as a checkpoint's."""
    for subject in (("--artifact", artifact), ("--ckpt", run.checkpoint)):
        options = ("--bitmap", 8, "--data", workshop.dev, "--limit", 2, "--adapters", "both")
        done = switchq("eval", *subject, *options, "--output", tmp_path / "scores.json")
        assert done.code == 0, done.err
        assert [one["label"] for one in json.loads((tmp_path / "scores.json").read_text())] == ["8", "8 bare"]


TABLE = [
    ("export --ckpt {ckpt} --output {artifact}", "is there already: give another --output, or --overwrite"),
    ("export --ckpt {ckpt} --output new --bits 16", "--bits 16 is not held by an artifact: give widths from 2 to 8"),
    ("export --ckpt {ckpt} --output new --bitmap 4", "an artifact holds all bitmaps: leave out --bitmap 4"),
    ("export --ckpt {ckpt} --output new --format hf", "--format hf holds one bitmap: give --bitmap"),
    ("export --ckpt {ckpt} --output new --format hf --bitmap 8/4 --adapters peft", "give one width"),
    ("export --ckpt {ckpt} --output new --embeddings 7", "--embeddings must be 8, 16 or 32"),
    ("export --ckpt {ckpt} --output new --group_size 64", "a checkpoint keeps its own grid"),
    ("export --ckpt {ckpt} --output new --format gptq", "--format gptq holds one bitmap: give --bitmap"),
    ("export --ckpt {ckpt} --output new --format gguf --bitmap 4", "'compressed-tensors' or 'gptq'"),
    ("export --ckpt {ckpt} --output new --format gptq --bitmap 5", "no 5 bits: choose 8, 4, 3, 2"),
    ("export --ckpt {ckpt} --output new --format gptq --bitmap 4 --embeddings 8", "embeddings of 16 or 32 bits"),
    ("export --ckpt {ckpt} --output new --format gptq --bitmap 4 --bits 4", "--bits is for artifacts"),
    ("export --ckpt {ckpt} --output new --format gptq --bitmap 4 --text none.txt", "none.txt"),
    ("export --ckpt {ckpt} --output new --format compressed-tensors --bitmap 4", "choose --format gptq or hf"),
    ("export --ckpt {ckpt} --output new --text t.txt", "score an artifact with switchq eval"),
    ("export --ckpt {ckpt} --output new --grid symmetric", "leave out --grid symmetric"),
    ("export --output new", "give either --ckpt"),
    ("export --ckpt {ckpt} --output file/new", "cannot write"),
    ("bench --artifact {artifact} --prompt_tokens 5000", "do not fit the model's window of"),
    ("bench --artifact {artifact} --prompt_tokens 95 --new_tokens 1", "do not fit the model's window of 96"),
    ("generate --artifact {artifact} --prompt hi --bitmap 16", "nothing stored for 16 bits, only for 8, 4, 2"),
    ("generate --artifact {artifact} --prompt hi --bitmap 3", "nothing stored for 3 bits, only for 8, 4, 2"),
    ("generate --artifact {artifact} --prompt hi\udcff", "--prompt is not valid UTF-8"),
    ("generate --artifact {artifact} --prompt hi --schedule 5:8", "does not say where to start"),
    ("generate --artifact {artifact} --prompt hi --schedule 0:attn=8,mlp=4", "write a bitmap with commas to a file"),
    ("generate --artifact {artifact} --prompt hi --schedule 0:8,4:16", "nothing stored for 16 bits, only for 8, 4, 2"),
    ("generate --artifact {artifact} --prompt hi --bitmap 8 --schedule 0:8", "not both"),
    ("generate --artifact {artifact} --prompt hi --max_new_tokens 0", "--max_new_tokens must be at least 1"),
    ("generate --artifact {artifact} --prompt hi --temperature -1", "--temperature must be 0 or more"),
    ("generate --artifact {artifact} --prompt hi --seed 99999999999999999999", "--seed must be 0 to 2^64 - 1"),
    ("generate --artifact {artifact} --prompt hi --max_new_tokens 100000", "do not fit the model's window"),
    ("generate --artifact nowhere --prompt hi", "is not a switchq artifact"),
    ("generate --artifact {flipped} --prompt hi", "is damaged"),
    ("generate --artifact {half} --prompt hi", "truncated, damaged or missing"),
    ("generate --artifact {newer} --prompt hi", "use a newer switchq"),
    ("bench --artifact {artifact} --bitmap 16", "nothing stored for 16 bits, only for 8, 4, 2"),
    ("bench --artifact {artifact} --repeats 0", "--repeats must be at least 1"),
    ("bench --artifact {flipped} --threads 0", "--threads must be at least 1"),
    ("eval --artifact {artifact} --bitmap 16 --limit 2", "nothing stored for 16 bits, only for 8, 4, 2"),
    ("eval --artifact {artifact} --ckpt {ckpt}", "--ckpt is not for an artifact"),
    ("eval --artifact {artifact} --grid nested", "--grid is not for an artifact"),
    ("eval --artifact {newer}", "use a newer switchq"),
]


@pytest.fixture(scope="module")
def broken(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the artifact with something wrong, by name."""
    copies = {name: tmp_path_factory.mktemp("broken") / name for name in ("flipped", "half", "newer")}
    for copy in copies.values():
        shutil.copytree(artifact, copy)
    content = (artifact / "weights.safetensors").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) * 3 // 5] ^= 4
    (copies["flipped"] / "weights.safetensors").write_bytes(flipped)
    (copies["half"] / "weights.safetensors").write_bytes(content[: len(content) // 2])
    manifest = json.loads((artifact / "artifact.json").read_text())
    (copies["newer"] / "artifact.json").write_text(json.dumps({**manifest, "version": 3}))
    return copies


@pytest.mark.parametrize(("line", "says"), TABLE, ids=[line for line, _ in TABLE])
def test_mistakes(
    line: str,
    says: str,
    run: Run,
    artifact: Path,
    broken: dict[str, Path],
    switchq: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    done = switchq(*line.format(ckpt=run.checkpoint, artifact=artifact, **broken).split())
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
