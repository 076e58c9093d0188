"""`switchq sensitivity`: how much each layer suffers at each width, as a table, a JSON file and a heat map."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from switchq.bitmap import FULL, check_rounded
from switchq.commands.quiet import quiet
from switchq.commands.subject import Subject, load_subject
from switchq.data.text import text_windows
from switchq.data.training_data import subset
from switchq.errors import UserError
from switchq.evaluation import check_writable, run_record
from switchq.models import context_window, pick_device
from switchq.parallel import is_first
from switchq.posttraining.calibration import Batch, question_batches, text_batches
from switchq.posttraining.sensitivity import SCORES, Sensitivity, measure
from switchq.posttraining.sensitivity.kept import claim, journal_of, measurement_key
from switchq.posttraining.sensitivity.log import log_sensitivity
from switchq.posttraining.sensitivity.tables import correlation_table, cost_table, sensitivity_tables
from switchq.words import command_line, count_of

WINDOW = 512
"""Tokens of a text window, where the model reads that many and nothing else is asked for."""


@dataclass(frozen=True)
class CalibrationOptions:
    """What to calibrate on: the options of the command that choose it."""

    data: str | None
    text: str | None
    limit: int
    batch_size: int
    window: int | None
    seed: int


def sensitivity_command(
    ckpt: str | None,
    model: str | None,
    output: str,
    scores: list[str] | None,
    bits: list[int] | None,
    grid: str | None,
    group_size: int | None,
    scale: str | None,
    data: str | None,
    text: str | None,
    base: str | None,
    limit: int,
    batch_size: int,
    window: int | None,
    seed: int,
    device: str,
    logdir: str,
    overwrite: bool,
) -> None:
    """See `switchq.verbs.sensitivity`, whose arguments these are.

    Raises:
        UserError: anything the user can mend, before the work starts.
    """
    quiet()
    for name, value, least in (("limit", limit, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{name} must be at least {least}, not {value}")
    check_rounded(bits or (), "what the other widths are compared with")
    if data is not None and text is not None:
        raise UserError("calibrate on questions (--data) or on text (--text), not on both")
    if window is not None and text is None:
        raise UserError("--window is the length of a window of text: it needs --text FILE")
    if Path(output).exists() and not overwrite:
        raise UserError(f"{output} is there already: give another --output, or --overwrite")
    check_writable(output)
    place = pick_device(device)
    subject = load_subject(ckpt, model, base=base, bits=bits, grid=grid, group_size=group_size, scale=scale)
    widths = bits or [width for width in subject.widths if width != FULL]
    if not widths:
        raise UserError("the checkpoint was trained at 16 bits alone: say which widths to measure (--bits 8 --bits 4)")
    options = CalibrationOptions(data, text, limit, batch_size, window, seed)
    batches, source = _calibration(subject, options)
    check_writable(Path(logdir) / "events")
    subject.model.to(place)  # type: ignore[arg-type]
    record = run_record(
        subject.model,
        base=subject.identity.name,
        base_hash=subject.identity.sha256,
        checkpoint=ckpt,
        data=source,
        seed=seed,
        settings={
            **subject.settings,
            "calibration": {
                **asdict(options),
                "samples": sum(map(len, batches)),
                "tokens": sum(len(batch.real_N) for batch in batches),
                "scored_tokens": sum(len(batch.scored_N) for batch in batches),
            },
        },
    )
    key = measurement_key(record, {**subject.settings, "widths": sorted(widths)}, batches)
    journal = claim(journal_of(output), {"key": key}, overwrite)
    try:
        result = measure(subject.model, batches, widths, scores or SCORES, run=record, journal=journal)  # type: ignore[arg-type]
        if is_first():
            events = log_sensitivity(result, logdir, subject.name)
            result.write(output)  # it says that all is done
            journal_of(output).unlink()
            _show(result, subject, output, events, data)
    except KeyboardInterrupt:
        kept = len(journal.entries["batch"])
        print(f"\n{count_of(kept, 'batch')} kept in {journal.path}: run the same command to go on", file=sys.stderr)
        raise
    finally:
        journal.close()


def _calibration(subject: Subject, options: CalibrationOptions) -> tuple[list[Batch], str]:
    """Batches, and the file or Hub name that they come from."""
    longest = context_window(subject.model)
    if options.text is None:
        questions = subject.training_questions(options.data, options.limit, options.seed)
        length = subject.data.get("max_length") or longest
        batches = question_batches(questions, subject.prompt, subject.tokenizer, length, options.batch_size)
        return batches, options.data or str(subject.data["train"])
    window = min(WINDOW, longest) if options.window is None else options.window
    if not 2 <= window <= longest:
        raise UserError(f"--window must be 2 to {longest}, not {window}")
    windows = subset(text_windows(options.text, subject.tokenizer, window, split="train"), options.limit, options.seed)
    return text_batches(windows, subject.tokenizer, options.batch_size), options.text


def _show(result: Sensitivity, subject: Subject, output: str, events: Path, data: str | None) -> None:
    console = Console()
    calibration = result.run["settings"]["calibration"]
    on = f"{count_of(calibration['samples'], 'sample')}, {count_of(calibration['tokens'], 'token')}"
    console.print(f"{subject.name} on {on}", highlight=False, markup=False)
    correlations = [correlation_table(result)] if len(result.scores) > 1 else []
    for table in [*sensitivity_tables(result), *correlations, cost_table(result)]:
        console.print()
        console.print(table)
    console.print()
    asks = [] if subject.holds_out else ["--data", data or "QUESTIONS.json"]
    asks += ["--dev", "none"] if subject.data.get("dev") is None else []
    search = command_line("switchq", "search", *subject.options, "--sensitivity", output, *asks)
    for line in (
        f"Sensitivities {output}",
        f"Heat map      {command_line('tensorboard', '--logdir', events)}",
        f"Try next      {search}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
