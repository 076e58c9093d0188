"""Training throughput on SQuAD: this project's scheme against the seed project's, both with this project's modules.

Ours: batches of like length padded to their longest, rounded weights kept, head and loss at the answers only. The
seed's: random batches padded to the whole window, weights rounded anew in every forward, the head at all positions.
Both run one pass per bitmap of the ladder and one AdamW step. What counts is tokens a second, without padding.

    python tests/bench/bench_seed_scheme.py --device cpu
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import Trainer
from sidebyside import Row, elapsed, parser, prepare, report
from subjects import SHAPES, TOKENIZER, inside_fit, quiet, save_random, switchable
from torch import Tensor

from switchq.bitmap import FULL, Bitmap, ladder
from switchq.data.batches import LengthGroupedBatches, TrainingCollator, answer_example
from switchq.data.prompt import Prompt
from switchq.data.squad import read_squad
from switchq.models import load_tokenizer
from switchq.nn import QuantLinear, get_switch, set_bitmap, switch_layers
from switchq.training.module import SwitchableModule
from switchq.training.passes import Pass

ROOT = Path(__file__).parents[2]
SQUAD = ROOT.parent / "shared" / "data" / "squad" / "train-v1.1.json"
READING = ROOT / "data" / "reading" / "train.json"
GPT2_TOKENIZER = ROOT.parent / "shared" / "models" / "gpt2-mini"


class RoundsEveryForward(QuantLinear):
    """A quantised linear that keeps no rounded weight."""

    def is_prepared(self, bits: int) -> bool:
        """Nothing to prepare."""
        return True

    def effective_weight(self) -> Tensor:
        """Fits the grid and rounds, every time."""
        return self.weight if self.bits == FULL else self.round_weight(self.bits)


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print and write; returns the rows."""
    options = parser(__doc__)
    options.add_argument(
        "--shapes", choices=sorted(SHAPES), default="gpt2", help="of the model; its weights are random"
    )
    options.add_argument("--data", type=Path, default=SQUAD if SQUAD.exists() else READING, help="SQuAD JSON")
    options.add_argument(
        "--tokenizer", type=Path, default=GPT2_TOKENIZER if GPT2_TOKENIZER.exists() else TOKENIZER, help="folder"
    )
    options.add_argument("--batch", type=int, default=None, help="sequences, 2 on a CPU and 8 on a GPU")
    options.add_argument("--window", type=int, default=1024, help="tokens that the seed's scheme pads to")
    options.add_argument("--questions", type=int, default=2000, help="of the data that are used")
    arguments = options.parse_args(argv)
    if arguments.rounds is None:
        arguments.rounds = 10 if arguments.device == "cuda" else 2
    prepare(arguments)
    quiet()
    arguments.batch = arguments.batch or (8 if arguments.device == "cuda" else 2)
    with TemporaryDirectory() as folder:
        dtype = "bfloat16" if arguments.device == "cuda" else "float32"
        save_random(arguments.shapes, dtype, Path(folder), arguments.tokenizer)
        module = switchable(Path(folder), dtype, rank=16)
        return measure(module, arguments)


def measure(module: SwitchableModule, arguments: argparse.Namespace) -> list[Row]:
    """Both schemes in turn, on batches of their own; ratios are of tokens a second."""
    autocast = arguments.device == "cuda"
    streams = [batches(arguments, padded) for padded in (True, False)]
    tokens: list[list[int]] = [[], []]
    seconds: list[list[float]] = [[], []]

    def body(trainer: Trainer) -> None:
        names = get_switch(module.model).names
        module.plan = tuple(Pass(Bitmap.parse(rung, names)) for rung in ladder([8, 4, 2]))
        steps = (seed_step(module, autocast), lambda batch: trainer.strategy.training_step(batch, 0))
        for number in range(-1, arguments.rounds):
            for scheme, (stream, step) in enumerate(zip(streams, steps)):
                batch = next(stream)
                with rounding_every_forward(module, scheme == 0):
                    spent = elapsed(lambda: step(batch), arguments.clock)  # noqa: B023
                if number >= 0:
                    tokens[scheme].append(int(batch["attention_mask"].sum()))
                    seconds[scheme].append(spent)

    inside_fit(module, arguments.device, autocast, body)
    speeds = [[count / spent for count, spent in zip(*one)] for one in zip(tokens, seconds)]
    gains = [ours / seed for seed, ours in zip(*speeds)]
    total = [sum(count) / sum(spent) for count, spent in zip(tokens, seconds)]
    rows = [
        Row("the seed's scheme", median(seconds[0]), 1.0, 1.0, 1.0, arguments.rounds),
        Row("ours", median(seconds[1]), 1 / median(gains), 1 / max(gains), 1 / min(gains), arguments.rounds),
    ]
    report(
        f"Seconds per token, padding not counted: {arguments.shapes}, {arguments.data.name}, {arguments.batch} a batch",
        rows,
        arguments,
        seed_tokens_per_second=round(total[0], 1),
        our_tokens_per_second=round(total[1], 1),
        times_faster=round(total[1] / total[0], 2),
        tokens_a_step=[sum(one) / len(one) for one in tokens],
    )
    return rows


def seed_step(module: SwitchableModule, autocast: bool) -> Callable[[dict[str, Tensor]], None]:
    """A training step over the ladder with the model's own loss over all positions."""
    model, plan = module.model, module.plan
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=5e-4)

    def step(batch: dict[str, Tensor]) -> None:
        for one in plan:
            set_bitmap(model, one.bitmap)
            with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=autocast):
                loss = model(**batch, use_cache=False).loss
            (loss / len(plan)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def rounding_every_forward(module: SwitchableModule, wanted: bool) -> Iterator[None]:
    """Inside, the module's linears keep no rounded weights, if `wanted`."""
    linears = [layer.linear for layer in switch_layers(module.model)] if wanted else []
    for linear in linears:
        linear.__class__ = RoundsEveryForward
    yield
    for linear in linears:
        linear.__class__ = QuantLinear


def batches(arguments: argparse.Namespace, padded: bool) -> Iterator[dict[str, Tensor]]:
    """Batches without end: random ones padded to the window, or length-grouped ones padded to their longest."""
    tokenizer = load_tokenizer(str(arguments.tokenizer))
    questions = read_squad(arguments.data, "train")[: arguments.questions]
    encoded = Prompt().encode_all(questions, tokenizer, arguments.window)
    examples = [answer_example(one) for one in encoded]
    lengths = [len(one) for one in encoded]
    sampler = LengthGroupedBatches(lengths, arguments.batch, group=1 if padded else 50)
    collate = TrainingCollator(int(tokenizer.pad_token_id), multiple=arguments.window if padded else 1)
    for epoch in itertools.count():
        for chosen in sampler.batches(epoch):
            batch = collate([examples[index] for index in chosen])
            yield {name: value.to(arguments.device) for name, value in batch.items()}


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
