"""The common ground of the kill harness: a tiny random GPT-2, short questions, a text, and the settings of a fit."""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from workshop import questions, write_questions

from switchq.data.stream import train_tokenizer


def lay_ground(place: Path) -> dict[str, str]:
    """Write it all into `place`; gives name -> path, and the settings of a fit as JSON."""
    place.mkdir(parents=True)
    asked = questions(44)
    tokenizer = train_tokenizer(asked, 320)
    eos = tokenizer.eos_token_id
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=96,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=eos,
            eos_token_id=eos,
        )
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    train = write_questions(place / "train.json", asked)
    dev = write_questions(place / "dev.json", questions(6, 44))
    (place / "text.txt").write_text("\n\n".join(f"{one.context} {one.question}" for one in asked))
    perplexity = {"name": "houses", "source": str(dev), "window": 48}
    tasks = {"tasks": [{"class_path": "Perplexity", "init_args": perplexity}]}
    (place / "tasks.yaml").write_text(json.dumps(tasks))
    settings = {
        "model": {"base": str(place / "base"), "rank": {"8": 2, "4": 2, "2": 2}, "bitmaps": ["16", "8", "2"]},
        "data": {
            "class_path": "switchq.data.modules.SquadData",
            "init_args": {"train": str(train), "dev": str(dev), "batch_size": 4, "holdout": 4, "max_answer_tokens": 3},
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu", "default_root_dir": str(place)},
    }
    return {
        "base": str(place / "base"), "train": str(train), "dev": str(dev), "text": str(place / "text.txt"),
        "tasks": str(place / "tasks.yaml"), "settings": json.dumps(settings),
    }  # fmt: skip
