"""Evaluation of one model at several bitmaps: answers and their scores, perplexities, sizes, speed.

Every bitmap runs inside `with at(model, bitmap)`, in eval mode and without gradients, and leaves the model as it was:
bitmap, the training flag of each module, random state. A short warm-up goes before the timed part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.bitmap import Bitmap
from switchq.data.prompt import Encoded
from switchq.data.scoring_set import ScoringSet
from switchq.errors import UserError
from switchq.evaluation.decode import decode
from switchq.evaluation.memory import MB, peak_memory, reset_peak_memory, weight_bytes
from switchq.evaluation.perplexity import answer_perplexity, text_perplexity
from switchq.evaluation.provenance import run_record
from switchq.evaluation.result import EvalResult
from switchq.evaluation.squad_score import SquadMetric, without_phrase
from switchq.models import context_window
from switchq.models.inference import eval_mode
from switchq.nn import at, switch_layers
from switchq.nn.merged import merged
from switchq.parallel import alone
from switchq.progress import progress_bar

LONGEST_LABEL = 16
"""Characters of a written bitmap that a table still shows in full."""


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scoring_set: ScoringSet,
    bitmaps: Sequence[Bitmap | str | int],
    *,
    adapters: bool = True,
    merge: bool = False,
    progress: bool = True,
    keep_predictions: bool = False,
    run: Mapping[str, Any] | None = None,
) -> list[EvalResult]:
    """Score `model` at each bitmap, in the order given.

    Args:
        model: a switchable model.
        tokenizer: its tokenizer.
        scoring_set: questions to answer, texts to read, and how.
        bitmaps: bitmaps, or anything that `Bitmap.parse` reads.
        adapters: whether the per-bit adapters take part.
        merge: add them to the weights first: faster, with another copy of the weights in memory.
        progress: show a progress bar with the time left, on stderr.
        keep_predictions: keep the answers in the results.
        run: what `run_record` says of this run; the settings of this call are added to it.

    Raises:
        UserError: nothing to score, a bitmap that does not fit the model, a question that does not fit the context
            window.
    """
    if not scoring_set:
        raise UserError(f"there is nothing to score: {scoring_set.name} is empty")
    names = [layer.name for layer in switch_layers(model)]
    parsed = [Bitmap.parse(bitmap, names) for bitmap in bitmaps]
    limit = scoring_set.max_length or context_window(model)
    encoded = scoring_set.prompt.encode_all(scoring_set.questions, tokenizer, limit, scoring_set.max_new_tokens)
    record = dict(run) if run is not None else run_record(model, base=str(model.config.name_or_path))
    record["settings"] = {**record.get("settings", {}), "scoring": scoring_set.settings()}
    windows = sum(len(windows) for windows in scoring_set.texts.values())
    results = []
    with eval_mode(model), _bar(progress, (2 * len(encoded) + windows) * len(parsed)) as advance:
        for written, bitmap in zip(bitmaps, parsed, strict=True):
            label = _label(written, bitmap, model, adapters)
            step = advance(label)
            with at(model, bitmap, adapters=adapters), merged(model) if merge else nullcontext():
                reset_peak_memory(model.device)
                answers = _answers(model, tokenizer, scoring_set, encoded, keep_predictions, step) if encoded else {}
                texts = {name: text_perplexity(model, rows, advance=step) for name, rows in scoring_set.texts.items()}
            results.append(
                EvalResult(
                    label=label,
                    adapters=adapters,
                    text_perplexity=texts,
                    run=record,
                    **_costs(model, bitmap, adapters),
                    **answers,
                )
            )
    return results


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scoring_set: ScoringSet,
    encoded: Sequence[Encoded],
    keep: bool,
    step: Callable[[int], object],
) -> dict[str, Any]:
    """The fields of a result that follow from answering the questions."""
    batch_size, questions = scoring_set.batch_size, scoring_set.questions
    _warm_up(model, tokenizer, encoded, batch_size)
    prompts = [item.prompt_ids for item in encoded]
    decoded = decode(
        model, tokenizer, prompts, max_new_tokens=scoring_set.max_new_tokens, batch_size=batch_size, advance=step
    )
    perplexity = answer_perplexity(model, encoded, batch_size=batch_size, advance=step)
    no_answer, texts = scoring_set.prompt.no_answer, decoded.texts
    if not all(question.answers for question in questions):
        texts = [without_phrase(text, no_answer) for text in texts]
    metric = SquadMetric(no_answer)
    scores = metric.compute(
        predictions=[{"id": q.id, "prediction_text": text} for q, text in zip(questions, texts, strict=True)],
        references=[{"id": q.id, "answers": {"text": list(q.answers)}} for q in questions],
    )
    return {
        "n_questions": len(questions),
        "n_cut": sum(item.cut > 0 for item in encoded),
        "EM": scores["exact_match"],
        "F1": scores["f1"],
        **{name: value for name, value in scores.items() if name.startswith(("HasAns_", "NoAns_"))},
        "answer_perplexity": perplexity,
        "tokens_per_s": decoded.tokens_per_s,
        "latency_ms": 1000 * decoded.seconds / len(texts),
        "predictions": {q.id: text for q, text in zip(questions, texts, strict=True)} if keep else None,
        "scores": metric.scores,
    }


def _costs(model: PreTrainedModel, bitmap: Bitmap, adapters: bool) -> dict[str, Any]:
    """The fields of a result that follow from the bitmap."""
    weights = weight_bytes(model, bitmap, adapters=adapters)
    peak, peak_of = peak_memory(model.device)
    return {
        "bitmap": str(bitmap),
        "bits": tuple(bitmap),
        "average_bits": bitmap.average_bits([layer.size for layer in switch_layers(model)]),
        "weight_mb": weights.total / MB,
        "weight_parts_mb": weights.in_mb(),
        "peak_memory_mb": peak,
        "peak_memory_of": peak_of,
    }


def _warm_up(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Sequence[Encoded], batch_size: int
) -> None:
    """Two tokens for a batch of the shortest prompts: kernels are chosen and memory is drawn before the clock runs."""
    shortest = sorted((item.prompt_ids for item in encoded), key=len)[:batch_size]
    with alone():
        decode(model, tokenizer, shortest, max_new_tokens=2, batch_size=batch_size)


def _label(written: Bitmap | str | int, bitmap: Bitmap, model: nn.Module, adapters: bool) -> str:
    sizes = [layer.size for layer in switch_layers(model)]
    candidates = (str(bitmap), str(written), f"mixed {bitmap.average_bits(sizes):.2f}")
    label = next((text for text in candidates[:2] if len(text) <= LONGEST_LABEL), candidates[2])
    layers = zip(switch_layers(model), bitmap)
    bare = not adapters and any(layer.low_rank(bits) is not None for layer, bits in layers)
    return f"{label} bare" if bare else label


@contextmanager
def _bar(shown: bool, total: int) -> Iterator[Callable[[str], Callable[[int], object]]]:
    """A progress bar; yields a function from the name of the current bitmap to the function that moves the bar on."""
    with progress_bar(shown) as bar:
        task = bar.add_task("eval", total=total)

        def at_bitmap(label: str) -> Callable[[int], object]:
            bar.update(task, description=f"eval {label}")
            return lambda done: bar.advance(task, done)

        yield at_bitmap
