"""A tiny random GPT-2 on disk, forty short questions, and the shortest way to train the one on the other."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from switchq.data.modules import SquadData
from switchq.data.squad import Question
from switchq.data.stream import train_tokenizer
from switchq.training.callbacks import LastCheckpoint, Schedule
from switchq.training.module import SwitchableModule

CITIES = ("Rome", "Oslo", "Lima", "Bern")


def questions(count: int, first: int = 0) -> list[Question]:
    """Questions of different lengths, two to a context."""
    made = []
    for i in range(first, first + count):
        context = f"House {i // 2} is in {CITIES[i // 2 % 4]}. " + "It has a red door. " * (1 + i // 2 % 3)
        made.append(Question(f"q{i}", context, f"Where is house {i // 2}?", (CITIES[i // 2 % 4],)))
    return made


def write_questions(path: Path, asked: Sequence[Question]) -> Path:
    """Questions in SQuAD's official layout."""
    contexts = dict.fromkeys(one.context for one in asked)
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": q.id, "question": q.question, "answers": [{"text": a, "answer_start": 0} for a in q.answers]}
                for q in asked
                if q.context == context
            ],
        }
        for context in contexts
    ]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "houses", "paragraphs": paragraphs}]}))
    return path


@dataclass(frozen=True)
class Workshop:
    """Paths, and makers of what a run needs."""

    base: Path
    train: Path
    dev: Path

    def module(self, **options: Any) -> SwitchableModule:
        """A module whose adapters already do something; options are those of `SwitchableModule`."""
        settings: dict[str, Any] = {
            "rank": {8: 2, 4: 3, 2: 4},
            "lr": 1e-2,
            "warmup_steps": 2,
            "decay": "constant_with_warmup",
            "max_grad_norm": 0.0,
            "bitmaps": ["8", "2"],
        }
        torch.manual_seed(1)
        module = SwitchableModule(**{"base": str(self.base), **settings, **options})
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return module

    def data(self, **options: Any) -> SquadData:
        """Five training batches of four, four questions held out."""
        settings: dict[str, Any] = {"batch_size": 4, "holdout": 4, "max_answer_tokens": 3, "limit_train": 20}
        return SquadData(str(self.base), str(self.train), str(self.dev), **{**settings, **options})

    def fit(
        self,
        schedule: Schedule,
        folder: Path,
        steps: int,
        module: SwitchableModule | None = None,
        *,
        data: SquadData | None = None,
        callbacks: Sequence[Callback] = (),
        every: int = 1000,
        resume: bool | str | Path = False,
        validate: bool = False,
        **options: Any,
    ) -> SwitchableModule:
        """Train until optimiser step `steps`; `resume=True` goes on from the folder's own last.ckpt."""
        module = module or self.module()
        settings: dict[str, Any] = {
            "accelerator": "cpu",
            "logger": False,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "limit_val_batches": 1 if validate else 0,
            "val_check_interval": 2 if validate else None,
            "check_val_every_n_epoch": None if validate else 1,
        }
        trainer = Trainer(
            default_root_dir=folder,
            max_steps=steps,
            callbacks=[schedule, *callbacks, LastCheckpoint(every)],
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{**settings, **options},
        )
        checkpoint = folder / "checkpoints/last.ckpt" if resume is True else resume or None
        module.resumes = checkpoint is not None
        with warnings.catch_warnings():  # what Lightning says about choices that are made on purpose
            for message in (".*does not have many workers.*", ".*treespec, LeafSpec.*", ".*exists and is not empty.*"):
                warnings.filterwarnings("ignore", message=message)
            trainer.fit(module, data or self.data(), ckpt_path=checkpoint, weights_only=True)
        return module


def padded(tokens_BT: Tensor, real: int) -> dict[str, Tensor]:
    """The tokens with all but the first `real` of the last row marked as padding."""
    mask_BT = torch.ones_like(tokens_BT)
    mask_BT[-1, real:] = 0
    return {"input_ids": tokens_BT, "attention_mask": mask_BT}


@pytest.fixture(scope="session")
def make_workshop(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Workshop]:
    """`make_workshop(dropout=0.0, layers=2)`: a base of its own, with these in its configuration."""

    def make(dropout: float = 0.0, layers: int = 2) -> Workshop:
        folder = tmp_path_factory.mktemp("workshop")
        asked = questions(44)
        tokenizer = train_tokenizer(asked, 320)
        eos = tokenizer.eos_token_id
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=96, n_embd=32, n_layer=layers, n_head=2, bos_token_id=eos,
            eos_token_id=eos, attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = GPT2LMHeadModel(config)
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.15)
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        train = write_questions(folder / "train.json", asked)
        return Workshop(folder / "base", train, write_questions(folder / "dev.json", questions(6, 44)))

    return make


@pytest.fixture(scope="session")
def workshop(make_workshop: Callable[..., Workshop]) -> Workshop:
    """Without dropout."""
    return make_workshop()


@pytest.fixture(scope="session")
def dropout_workshop(make_workshop: Callable[..., Workshop]) -> Workshop:
    """With dropout in the base model."""
    return make_workshop(dropout=0.2)


class Gradients(Callback):
    """Keeps the gradients of every optimiser step, by parameter name."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.steps.append(
            {name: p.grad.clone() for name, p in pl_module.model.named_parameters() if p.grad is not None}
        )


def trained(module: SwitchableModule) -> dict[str, Tensor]:
    """Copies of the trained tensors, by name."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], exact: bool = True) -> None:
    """Equal names, and tensors equal bit for bit (or within float tolerance)."""
    assert one.keys() == other.keys()
    for name in one:
        if exact:
            assert torch.equal(one[name], other[name]), name
        else:
            torch.testing.assert_close(one[name], other[name], msg=lambda text, name=name: f"{name}: {text}")
