"""Sensitivities against the naive way: a whole forward for each pair of layer and width.

MSE and MAE: the naive way runs the model once per pair, keeps the layer's output, and compares it with the
full-precision one. KL: the naive way runs the model from the start for each pair. The Fisher-weighted error has no
naive way that fits in memory for a real model; its ratio is to one plain forward and backward with frozen weights.
Weights are random unless `--model` names a folder.

    python tests/bench/bench_sensitivity.py --device cpu --model data/tiny-gpt2
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bench_seed_scheme import GPT2_TOKENIZER, READING, SQUAD
from sidebyside import Row, parser, prepare, report, side_by_side
from subjects import SHAPES, TOKENIZER, quiet, save_random
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from switchq.bitmap import FULL, Bitmap
from switchq.data.prompt import Prompt
from switchq.data.squad import read_squad
from switchq.data.training_data import subset
from switchq.models import context_window, load_model, load_tokenizer, logits_at, make_switchable
from switchq.models.logits import hidden_states
from switchq.nn import at, switch_layers
from switchq.posttraining.calibration import Batch, question_batches
from switchq.posttraining.sensitivity import divergences, fisher_scores, output_errors
from switchq.posttraining.sensitivity.divergence import summed_kl


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print and write; returns the rows."""
    options = parser(__doc__)
    options.add_argument("--shapes", choices=sorted(SHAPES), default="gpt2-mini", help="of a model with random weights")
    options.add_argument("--model", type=Path, default=None, help="folder of a real model instead")
    options.add_argument("--data", type=Path, default=SQUAD if SQUAD.exists() else READING, help="SQuAD JSON")
    options.add_argument(
        "--tokenizer", type=Path, default=GPT2_TOKENIZER if GPT2_TOKENIZER.exists() else TOKENIZER, help="folder"
    )
    options.add_argument("--questions", type=int, default=8, help="to calibrate on")
    options.add_argument("--batch", type=int, default=8, help="questions a batch")
    options.add_argument("--bits", type=int, nargs="+", default=[8, 4, 2], help="widths")
    arguments = options.parse_args(argv)
    if arguments.rounds is None:
        arguments.rounds = 5 if arguments.device == "cuda" else 3
    prepare(arguments)
    quiet()
    with TemporaryDirectory() as folder:
        source = arguments.model or save_random(arguments.shapes, "float32", Path(folder), arguments.tokenizer)
        model = make_switchable(load_model(str(source)), arguments.bits).to(arguments.device)
        tokenizer = load_tokenizer(str(source))
    questions = subset(read_squad(arguments.data, "train"), arguments.questions, 0)
    batches = question_batches(questions, Prompt(), tokenizer, context_window(model), arguments.batch)
    return measure(model, batches, arguments)


def measure(model: PreTrainedModel, batches: list[Batch], arguments: argparse.Namespace) -> list[Row]:
    """All rows, and whether both ways agree."""
    bits, clock, rounds = arguments.bits, arguments.clock, arguments.rounds
    found: dict[str, Tensor] = {}

    def keep(name: str, call: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: found.update({name: call()})

    pairs = {
        "MSE and MAE": (
            keep("outputs naive", lambda: naive_outputs(model, batches, bits)),
            keep("outputs", lambda: torch.stack(output_errors(model, batches, bits))),
        ),
        "KL": (
            keep("kl naive", lambda: naive_divergences(model, batches, bits)),
            keep("kl", lambda: divergences(model, batches, bits)),
        ),
    }
    rows: list[Row] = []
    for name, (naive, ours) in pairs.items():
        calls = {f"{name}, a forward per pair": naive, f"{name}, ours": ours}
        rows += side_by_side(calls, rounds, clock=clock, warmup=1)
    calls = {
        "forward and backward": lambda: plain_backward(model, batches),
        "Fisher": keep("fisher", lambda: fisher_scores(model, batches, bits)),
    }
    rows += side_by_side(calls, rounds, clock=clock, warmup=1)
    report(
        f"Sensitivities: {arguments.model or arguments.shapes}, {len(switch_layers(model))} layers x {len(bits)} "
        f"widths, {arguments.questions} questions",
        rows,
        arguments,
        mse_and_mae_times_faster=round(1 / rows[1].ratio, 1),
        kl_times_faster=round(1 / rows[3].ratio, 2),
        largest_relative_difference_of_mse_and_mae=float((found["outputs"] / found["outputs naive"] - 1).abs().max()),
        largest_relative_difference_of_kl=float((found["kl"] / found["kl naive"] - 1).abs().max()),
    )
    return rows


@torch.no_grad()
def naive_outputs(model: PreTrainedModel, batches: list[Batch], bits: list[int]) -> Tensor:
    """(2, L, W): the full-precision outputs are all kept, then one forward per pair."""
    layers = switch_layers(model)
    sums_2LW = torch.zeros(2, len(layers), len(bits), dtype=torch.float64)
    counts_L1 = torch.zeros(len(layers), 1, dtype=torch.float64)
    for batch in batches:
        batch = batch.to(model.device)
        with at(model, FULL):
            full = _outputs(model, batch, range(len(layers)))
        for index in range(len(layers)):
            counts_L1[index] += full[index].numel()
            for place, width in enumerate(bits):
                with at(model, _only(model, index, width)):
                    error = _outputs(model, batch, [index])[index] - full[index]
                sums_2LW[0, index, place] += error.square().sum(dtype=torch.float64).item()
                sums_2LW[1, index, place] += error.abs().sum(dtype=torch.float64).item()
    return sums_2LW / counts_L1


@torch.no_grad()
def naive_divergences(model: PreTrainedModel, batches: list[Batch], bits: list[int]) -> Tensor:
    """(L, W), each from whole forwards."""
    layers = switch_layers(model)
    sums_LW = torch.zeros(len(layers), len(bits), dtype=torch.float64)
    for batch in batches:
        batch = batch.to(model.device)
        with at(model, FULL):
            reference_NV = F.log_softmax(logits_at(model, batch.inputs, batch.scored_N).double(), -1)
        for index in range(len(layers)):
            for place, width in enumerate(bits):
                with at(model, _only(model, index, width)):
                    sums_LW[index, place] += summed_kl(
                        reference_NV, logits_at(model, batch.inputs, batch.scored_N)
                    ).cpu()
    return sums_LW / sum(len(batch.scored_N) for batch in batches)


def plain_backward(model: PreTrainedModel, batches: list[Batch]) -> None:
    """One forward and backward through frozen linears, down to the first block's input."""
    for batch in batches:
        batch = batch.to(model.device)
        inputs_BTI = model.get_input_embeddings()(batch.inputs["input_ids"]).detach().requires_grad_()
        hidden_BTI = model.base_model(inputs_embeds=inputs_BTI, use_cache=False).last_hidden_state
        logits_NV = model.get_output_embeddings()(hidden_BTI.flatten(0, 1)[batch.scored_N])
        torch.autograd.grad(F.cross_entropy(logits_NV, batch.targets_N), inputs_BTI)


def _outputs(model: PreTrainedModel, batch: Batch, wanted: range | list[int]) -> dict[int, Tensor]:
    kept: dict[int, Tensor] = {}
    layers = switch_layers(model)
    hooks = [
        layers[index].linear.register_forward_hook(
            lambda module, arguments, output, index=index: kept.update(
                {index: output.flatten(0, -2)[batch.real_N].float()}
            )
        )
        for index in wanted
    ]
    hidden_states(model, batch.inputs)
    for hook in hooks:
        hook.remove()
    return kept


def _only(model: PreTrainedModel, index: int, bits: int) -> Bitmap:
    widths = [FULL] * len(switch_layers(model))
    widths[index] = bits
    return Bitmap(widths)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
