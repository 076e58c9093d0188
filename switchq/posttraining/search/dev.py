"""The last step of a search: the dev set, read once, scored at a few bitmaps, with bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from switchq.bitmap import FULL, Bitmap
from switchq.data.scoring_set import ScoringSet
from switchq.evaluation import evaluate
from switchq.posttraining.bootstrap import difference_interval, interval
from switchq.posttraining.search.journal import SearchJournal
from switchq.posttraining.search.measure import ModelMeasure
from switchq.posttraining.search.metric import Metric


def score_dev(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dev: ScoringSet,
    bitmaps: Sequence[Bitmap],
    metric: Metric,
    journal: SearchJournal,
    *,
    seed: int = 0,
    advance: Callable[[int], object] = lambda done: None,
) -> list[dict[str, Any]]:
    """Score each bitmap; what the journal has is not scored again.

    Args:
        model: a switchable model.
        tokenizer: its tokenizer.
        dev: the questions.
        bitmaps: which bitmaps, full precision first.
        metric: that of the search; perplexity and KL get an interval as well.
        journal: where the scores are kept.
        seed: of the resampling.
        advance: called with 1 after each bitmap.

    Returns:
        A record for each bitmap: the fields of `EvalResult` without `run`, and 95 % intervals over the questions, in
        the figures' units: `f1_interval`, `em_interval`, `f1_difference_interval` (against full precision, paired) and
        for perplexity and KL `NAME_interval`.
    """
    known = {tuple(entry["bits"]): entry for entry in journal.entries["dev"]}
    measure = None if metric.generates else ModelMeasure(model, tokenizer, dev, metric)
    for bitmap in bitmaps:
        if tuple(bitmap) not in known:
            entry = _score(model, tokenizer, dev, bitmap, measure)
            journal.add("dev", entry)
            known[tuple(bitmap)] = entry
        advance(1)
    full = known[(FULL,) * len(bitmaps[0])]
    return [_record(known[tuple(bitmap)], full, metric, seed) for bitmap in bitmaps]


def _score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dev: ScoringSet,
    bitmap: Bitmap,
    measure: ModelMeasure | None,
) -> dict[str, Any]:
    (result,) = evaluate(model, tokenizer, dev, [bitmap], merge=True, progress=False, run={})
    record = {name: value for name, value in result.record().items() if name not in ("run", "text_perplexity")}
    entry = {
        "bits": list(bitmap),
        "record": record,
        "f1": [score.f1 for score in result.scores],
        "em": [score.exact_match for score in result.scores],
    }
    if measure is not None:
        found = measure(bitmap, range(len(dev.questions)))
        entry |= {"values": list(found.values[measure.metric.name]), "weights": list(found.weights)}
    return entry


def _record(entry: dict[str, Any], full: dict[str, Any], metric: Metric, seed: int) -> dict[str, Any]:
    record = dict(entry["record"])
    for name in ("f1", "em"):
        record[f"{name}_interval"] = _percent(interval(entry[name], seed=seed))
    record["f1_difference_interval"] = _percent(difference_interval(entry["f1"], full["f1"], seed=seed))
    if "values" in entry:
        low, high = interval(entry["values"], entry["weights"], seed=seed)
        record[metric.name] = metric.figure_of_mean(sum(entry["values"]) / sum(entry["weights"]))
        record[f"{metric.name}_interval"] = [metric.figure_of_mean(low), metric.figure_of_mean(high)]
    return record


def _percent(ends: tuple[float, float]) -> list[float]:
    return [100 * end for end in ends]
