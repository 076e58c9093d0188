"""What is measured: a `SwitchableModule` with real shapes and random weights, and the plain peft model beside it.

Speed does not depend on the values of weights, so nothing is downloaded. The module runs inside a real `Trainer.fit`,
through the strategy and precision plugins, as in training.
"""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from switchq.models.load import architecture_of
from switchq.training.module import SwitchableModule

TOKENIZER = Path(__file__).parents[2] / "data" / "tiny-gpt2"

SMALL_VOCABULARY: dict[str, Any] = {"vocab_size": 1024, "bos_token_id": None, "eos_token_id": None}

SHAPES: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(),
    "gpt2-mini": GPT2Config(n_layer=6, n_embd=384, n_head=6),
    "smollm2-like": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    ),
    "thin": GPT2Config(**SMALL_VOCABULARY, n_layer=12, n_embd=64, n_head=4),
    "toy": GPT2Config(**SMALL_VOCABULARY, n_layer=2, n_embd=64, n_head=2),
}
"""Configurations by name; GPT-2's has dropout, which is at work on both sides or on neither. `thin` has the depth of
GPT-2 small and almost no arithmetic: its steps are all overhead, which is what counts on a launch-bound GPU."""


def quiet() -> None:
    """Keep Lightning's and transformers' remarks out of the tables."""
    warnings.filterwarnings("ignore")
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def save_random(shapes: str, dtype: str, folder: Path, tokenizer: Path = TOKENIZER) -> Path:
    """A model folder with random weights of these shapes and some tokenizer."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(SHAPES[shapes], dtype=getattr(torch, dtype)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def switchable(folder: Path, dtype: str, rank: int, compile: bool = False) -> SwitchableModule:
    """The module at 8, 4 and 2 bits, all adapters of the same rank."""
    ranks = {8: rank, 4: rank, 2: rank}
    return SwitchableModule(str(folder), rank=ranks, dtype=dtype, decay="constant_with_warmup", compile=compile)  # type: ignore[arg-type]


def plain_lora(folder: Path, dtype: str, rank: int, device: str, float32_adapters: bool = True) -> nn.Module:
    """The same model with one peft adapter on the same linears."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)
    linears = list(architecture_of(model.config).linears)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linears, task_type="CAUSAL_LM")
    config.fan_in_fan_out = model.config.model_type == "gpt2"
    return get_peft_model(model, config, autocast_adapter_dtype=float32_adapters)


def plain_step(model: nn.Module, batch: dict[str, Tensor], autocast: bool) -> Callable[[], None]:
    """A training step of `model`: forward with the built-in loss, backward, AdamW; no clipping, no logs, no checks."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=5e-4, weight_decay=0.0)
    kind = batch["input_ids"].device.type

    def step() -> None:
        with torch.autocast(kind, torch.bfloat16, enabled=autocast):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inside_fit(module: SwitchableModule, device: str, autocast: bool, body: Callable[[Trainer], None]) -> None:
    """Call `body` once from within `Trainer.fit`, with all set up for `trainer.strategy.training_step(batch, 0)`."""
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if autocast else "32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    def instead_of_training(*_: Any) -> int:
        body(trainer)
        return -1  # ends the epoch

    module.on_train_batch_start = instead_of_training  # type: ignore[assignment]
    trainer.fit(module, DataLoader([0]))  # type: ignore[arg-type]
