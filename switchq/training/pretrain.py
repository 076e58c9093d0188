r"""Trains the embedded tiny GPT-2 from random weights on an endless stream of generated reading questions.

No two batches share a context, so the model cannot remember answers: it has to learn to find and copy them, which
carries over to the dev set's unseen names. The loss is a mean over the answer's tokens plus `context_weight` times the
mean over the prompt's tokens; the second teaches the language and speeds up the first:

    loss = CE(answer, eos) + context_weight * CE(context, question)

The byte-level BPE tokenizer is trained on `train.json` alone. `python -m switchq.training.pretrain --output
data/tiny-gpt2 --seed 0` rebuilds the committed folder (data/README.md says how close a rebuild comes). Ctrl-C ends the
training early and saves the model as it is.
"""

import argparse
import math
import os
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from switchq.data.squad import Question, read_squad
from switchq.data.stream import IN_ANSWER, IN_PROMPT, PROMPT, ReadingStream, train_tokenizer
from switchq.errors import UserError
from switchq.evaluation import check_writable, decode, question_scores

MAX_ANSWER_TOKENS = 16
LOG_EVERY = 50
"""Steps between two looks at the loss, which wait for the device."""


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of the model and its training; the defaults make the embedded model."""

    vocabulary: int = 1024
    layers: int = 4
    width: int = 128
    heads: int = 4
    positions: int = 256
    steps: int = 5000
    batch: int = 256
    lr: float = 2e-3
    warmup: int = 300
    weight_decay: float = 0.05
    context_weight: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "positions", "steps", "batch", "warmup"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}.")
        if self.width % self.heads:
            raise UserError(f"--width {self.width} must be a multiple of --heads {self.heads}.")


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A GPT-2 with random float32 weights, a tied head and no dropout."""
    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_layer=recipe.layers,
        n_embd=recipe.width,
        n_head=recipe.heads,
        n_positions=recipe.positions,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(config)


def weighted_loss(logits_BTV: Tensor, ids_BT: Tensor, part_BT: Tensor, context_weight: float) -> tuple[Tensor, Tensor]:
    """The training loss of the module's docstring and, for the log, its detached answer term (both scalars)."""
    logits_NV, targets_N = logits_BTV[:, :-1].flatten(0, 1).float(), ids_BT[:, 1:].flatten()
    losses_N = nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
    part_N = part_BT[:, 1:].flatten()
    answer, prompt = (
        ((part_N == which) * losses_N).sum() / (part_N == which).sum() for which in (IN_ANSWER, IN_PROMPT)
    )
    return answer + context_weight * prompt, answer.detach()


def make_optimizer(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW that decays matrices only; linear warm-up, then a cosine down to a hundredth of `lr`."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    on_cuda = next(model.parameters()).is_cuda
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=on_cuda)
    warmup = min(recipe.warmup, max(1, recipe.steps // 10))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / recipe.steps)) + 0.01)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(model: GPT2LMHeadModel, stream: ReadingStream, recipe: Recipe, workers: int, console: Console) -> list[float]:
    """Trains in place, under bfloat16 autocast on CUDA; Ctrl-C ends it early.

    Returns:
        The answer loss of each step.

    Raises:
        UserError: the loss is not finite.
    """
    device, on_cuda = model.device, model.device.type == "cuda"
    optimizer, scheduler = make_optimizer(model, recipe)
    ahead = 8 if workers else None
    loader = DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=ahead, pin_memory=on_cuda)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[status]}"))
    history: list[Tensor] = []
    tokens, start = 0, time.perf_counter()
    model.train()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=recipe.steps, status="")
        try:
            for step, (ids, part) in enumerate(loader):
                ids_BT, part_BT = ids.to(device, torch.int64, non_blocking=True), part.to(device, non_blocking=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=on_cuda):
                    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
                loss, answer_loss = weighted_loss(logits_BTV, ids_BT, part_BT, recipe.context_weight)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                history.append(answer_loss)
                tokens += ids.numel()
                if step % LOG_EVERY == 0 or step + 1 == recipe.steps:
                    if not torch.isfinite(answer_loss):
                        raise UserError(f"The loss is not finite at step {step}: lower --lr.")
                    speed = tokens / (time.perf_counter() - start)
                    status = f"answer loss {answer_loss:.3f}, {speed:,.0f} tokens/s"
                    progress.update(task, completed=step + 1, status=status)
        except KeyboardInterrupt:
            console.print(f"stopped after {len(history)} of {recipe.steps} steps")
    return torch.stack(history).tolist() if history else []


def score(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, questions: list[Question]) -> tuple[float, float]:
    """Mean F1 and exact match in percent under greedy decoding."""
    model.eval()
    encoded = PROMPT.encode_all(questions, tokenizer, model.config.n_positions, reserve=MAX_ANSWER_TOKENS)
    prompts = [item.prompt_ids for item in encoded]
    texts = decode(model, tokenizer, prompts, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=200).texts
    scores = [question_scores(text, question.answers) for text, question in zip(texts, questions, strict=True)]
    exact, f1 = (100 * sum(column) / len(scores) for column in zip(*scores, strict=True))
    return f1, exact


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Writes the model (float32 safetensors), its tokenizer and greedy generation settings."""
    eos = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(bos_token_id=eos, eos_token_id=eos, pad_token_id=eos, do_sample=False)
    model.save_pretrained(output)
    tokenizer.model_max_length = model.config.n_positions
    tokenizer.save_pretrained(output)


def pretrain(output: Path, data: Path, recipe: Recipe, device: str, workers: int, console: Console) -> list[float]:
    """Trains, saves and scores a model; returns the answer loss of each step.

    Raises:
        UserError: unwritable output, no such device, missing or malformed reading set, a loss that is not finite.
    """
    check_writable(output / "model.safetensors")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("No CUDA device is available: give --device cpu.")
    dev = read_squad(data / "dev.json")
    tokenizer = train_tokenizer(read_squad(data / "train.json"), recipe.vocabulary)
    model = make_model(recipe, tokenizer)
    nn.Module.to(model, device)
    console.print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens, {recipe.steps} steps on {device}")
    start = time.perf_counter()
    stream = ReadingStream(tokenizer, recipe.steps, recipe.batch, recipe.positions, recipe.seed)
    history = train(model, stream, recipe, workers, console)
    if not history:
        raise UserError("Stopped before the first step: nothing was saved.")
    console.print(f"trained in {time.perf_counter() - start:.0f} s")
    save(model, tokenizer, output)
    f1, exact = score(model, tokenizer, dev)
    console.print(f"{output}: dev F1 {f1:.2f}, EM {exact:.2f} ({len(dev)} questions, greedy)")
    return history


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m switchq.training.pretrain",
        description="Train the embedded tiny GPT-2.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    cuda, cores = torch.cuda.is_available(), os.cpu_count() or 1
    parser.add_argument("--output", type=Path, default=Path("data/tiny-gpt2"), help="folder of the model")
    parser.add_argument("--data", type=Path, default=Path("data/reading"), help="folder of train.json and dev.json")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--workers", type=int, default=max(1, cores - 2), help="processes that make text")
    for field in fields(Recipe):
        flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        parser.add_argument(flag, type=kind, default=field.default, help=kind.__name__)
    options = vars(parser.parse_args(arguments))
    values = {field.name: options.pop(field.name) for field in fields(Recipe)}
    try:
        pretrain(**options, recipe=Recipe(**values), console=Console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
