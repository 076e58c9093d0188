"""`switchq eval`: from a checkpoint or a plain model to a table and a JSON file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from switchq.bitmap import Bitmap, ladder
from switchq.commands.quiet import quiet
from switchq.commands.subject import Subject, load_artifact, load_subject
from switchq.data.scoring_set import ScoringSet
from switchq.data.squad import read_squad
from switchq.data.text import text_windows
from switchq.data.training_data import subset
from switchq.errors import UserError
from switchq.evaluation import (
    EvalResult,
    check_writable,
    evaluate,
    results_table,
    run_record,
    show_table,
    write_predictions,
    write_results,
)
from switchq.files import short_names
from switchq.inference.source import Prefer
from switchq.models import context_window, pick_device
from switchq.nn import get_switch
from switchq.parallel import is_first


def evaluate_command(
    ckpt: str | None,
    model: str | None,
    artifact: str | None,
    grid: str | None,
    group_size: int | None,
    scale: str | None,
    bitmap: list[str] | None,
    adapters: str,
    data: str | None,
    text: list[str] | None,
    base: str | None,
    limit: int | None,
    batch_size: int,
    max_new_tokens: int | None,
    window: int | None,
    prefer: Prefer | None,
    device: str,
    output: str | None,
    predictions: str | None,
) -> None:
    """See `switchq.verbs.eval_`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts where that is possible.
    """
    quiet()
    for name, value in {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "limit": limit}.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    if output is not None:
        check_writable(output)
    if predictions is not None:
        check_writable(Path(predictions) / "predictions.json")
    place = pick_device(device)
    if artifact is not None:
        options = {"ckpt": ckpt, "model": model, "base": base, "grid": grid, "group_size": group_size, "scale": scale}
        subject = load_artifact(artifact, place, options, prefer or "speed")
        bitmaps = bitmap or list(ladder(subject.widths))
    else:
        if prefer is not None:
            raise UserError("--prefer is for an --artifact: nothing else runs packed")
        if (ckpt, model) == (None, None):
            raise UserError("give --ckpt (a trained checkpoint), --model (a plain model) or --artifact (a folder)")
        if model is not None and adapters == "both":
            raise UserError("--adapters both is for a checkpoint or an artifact: a plain model has none")
        subject = load_subject(ckpt, model, base=base, grid=grid, group_size=group_size, scale=scale)
        bitmaps = bitmap or ["16", *(rung for rung in ladder(subject.widths) if rung != "16")]
    for written in bitmaps:
        parsed = Bitmap.parse(written, get_switch(subject.model).names)
        if artifact is not None:
            parsed.check_held(subject.widths)
    scoring_set = _scoring_set(subject, data, text, limit, batch_size, max_new_tokens, window)
    subject.model.to(place)  # type: ignore[arg-type]
    results = []
    for on in {"on": (True,), "off": (False,), "both": (True, False)}[adapters]:
        record = run_record(
            subject.model,
            base=subject.identity.name,
            base_hash=subject.identity.sha256,
            checkpoint=ckpt,
            data=scoring_set.source,
            settings=dict(subject.settings),
        )
        kept: dict[str, Any] = {"adapters": on, "run": record, "keep_predictions": predictions is not None}
        results += evaluate(subject.model, subject.tokenizer, scoring_set, bitmaps, **kept)
    if adapters == "both":
        results = [results[i + j * len(bitmaps)] for i in range(len(bitmaps)) for j in range(2)]
    if is_first():
        _show(results, scoring_set, subject.name, output, predictions)


def _scoring_set(
    subject: Subject,
    data: str | None,
    text: list[str] | None,
    limit: int | None,
    batch_size: int,
    max_new_tokens: int | None,
    window: int | None,
) -> ScoringSet:
    source = data if data is not None or text else subject.data.get("dev") or subject.data.get("test")
    if source is None and not text:
        raise UserError("nothing to score: give --data FILE (questions) or --text FILE (perplexity)")
    asks = data is not None or (not text and "dev" in subject.data)
    if source is not None and not asks:
        text, source = [str(source)], None
    length = context_window(subject.model) if window is None else window
    if not 2 <= length <= context_window(subject.model):
        raise UserError(f"--window must be 2 to {context_window(subject.model)}, not {window}")
    questions = subset(read_squad(source, "validation"), limit, 0) if source is not None else []
    names = short_names(text or (), "--text")
    texts = {name: text_windows(one, subject.tokenizer, length) for name, one in zip(names, text or (), strict=True)}
    named = str(source or (text or [""])[0])
    return ScoringSet(
        name=Path(named).name,
        source=named,
        questions=questions,
        texts={name: windows[:limit] for name, windows in texts.items()},
        prompt=subject.prompt,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens or subject.max_answer_tokens,
        max_length=subject.data.get("max_length"),
    )


def _show(
    results: Sequence[EvalResult], scoring_set: ScoringSet, what: str, output: str | None, predictions: str | None
) -> None:
    console = Console()
    device = "GPU" if torch.cuda.is_available() and results[0].peak_memory_of == "cuda" else "CPU"
    show_table(console, f"{what} on {scoring_set.describe()}, {device}", results_table(results))
    cut = results[0].n_cut
    if cut:
        console.print(
            f"{cut:,} of {results[0].n_questions:,} contexts were cut to fit the model's window", highlight=False
        )
    if output is not None:
        write_results(output, results)
        console.print(f"Results {output}", soft_wrap=True, highlight=False, markup=False)
    if predictions is not None:
        for number, result in enumerate(results):
            write_predictions(Path(predictions) / f"{number:02d}.json", result)
        console.print(f"Answers {predictions}", soft_wrap=True, highlight=False, markup=False)
