"""What a run leaves for its reader: TensorBoard's tags, the table before and after, the live display."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from workshop import Workshop

from switchq.training.callbacks import BeforeAfter, Cyclic, InstantNet, SwitchProgress, TensorBoardExtras
from switchq.training.logger import WholeLogger


@pytest.fixture(scope="module")
def run(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        shown = io.StringIO()
        patch.setattr("switchq.training.callbacks.summary.Console", lambda: Console(file=shown, width=120))
        progress = SwitchProgress()
        progress.console = Console(file=shown, width=120)
        workshop.fit(
            InstantNet(bitmaps=["8", "2"]),
            folder,
            4,
            callbacks=[TensorBoardExtras(), BeforeAfter(), progress],
            validate=True,
            enable_progress_bar=True,
            logger=WholeLogger(folder, name="lightning_logs", default_hp_metric=False),
        )
    return folder / "lightning_logs" / "version_0", shown.getvalue()


def accumulated(folder: Path) -> dict[str, set[str]]:
    tags: dict[str, set[str]] = {"scalars": set(), "tensors": set()}
    for events in folder.rglob("events.out.*"):
        reader = EventAccumulator(str(events))
        reader.Reload()
        for kind in tags:
            tags[kind] |= set(reader.Tags()[kind])
    return tags


def test_the_event_files_hold_everything_that_is_promised(run: tuple[Path, str]) -> None:
    tags = accumulated(run[0])
    assert {
        "ce/8", "ce/2", "kd/2", "loss", "gradient norm/8", "gradient norm/2", "gradient norm/joint", "learning rate",
        "F1/8", "F1/2", "EM/8", "EM/2", "answer perplexity/8", "final/F1/8", "final/EM/2", "bit schedule/pass 0",
    } <= tags["scalars"]  # fmt: skip
    assert "kd/8" not in tags["scalars"]
    assert {"answers/8/text_summary", "answers/2/text_summary"} <= tags["tensors"]
    plugins = EventAccumulator(str(run[0]))
    plugins.Reload()
    names = {name for events in run[0].glob("events.out.*") for name in _plugins(events)}
    assert "hparams" in names


def test_bitmaps_that_take_turns_are_all_logged(workshop: Workshop, tmp_path: Path) -> None:
    """Every second batch is logged, and 8 bits never have it."""
    logger = WholeLogger(tmp_path, name="turns", default_hp_metric=False)
    turns = Cyclic(bitmaps=["8", "2"], mode="turns")
    workshop.fit(turns, tmp_path, 8, logger=logger, log_every_n_steps=2)
    assert {"ce/8", "ce/2", "gradient norm/8", "gradient norm/2"} <= accumulated(tmp_path)["scalars"]


def _plugins(events: Path) -> set[str]:
    reader = EventAccumulator(str(events))
    reader.Reload()
    return set(reader.summary_metadata and [m.plugin_data.plugin_name for m in reader.summary_metadata.values()])


def test_the_run_ends_with_a_table_and_the_next_commands(run: tuple[Path, str]) -> None:
    folder, shown = run
    before, after = (json.loads((folder / name).read_text()) for name in ("before.json", "results.json"))
    assert [row["bitmap"] for row in after] == [row["bitmap"] for row in before] == ["8", "2"]
    assert all({"F1", "EM", "answer_perplexity"} <= row.keys() for row in after)
    assert before[1]["answer_perplexity"] != after[1]["answer_perplexity"]
    assert "→" in shown
    assert "switchq eval --ckpt" in shown
    assert "tensorboard --logdir" in shown
    assert "step 2  8: F1" in shown


def test_hyperparameters_are_readable(run: tuple[Path, str]) -> None:
    text = (run[0] / "hparams.yaml").read_text()
    assert "lr: 0.01" in text
    assert "bits:" in text


def test_hyperparameters_are_whole_or_not_there(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle of writing, which nothing has a chance to clear away after."""
    logger = WholeLogger(str(tmp_path))
    logger.log_hyperparams(dict(workshop.module().hparams))
    place = Path(logger.log_dir, "hparams.yaml")
    place.parent.mkdir(parents=True, exist_ok=True)
    with monkeypatch.context() as killed:
        killed.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            logger.save()
    assert not place.exists()
    logger.save()
    assert yaml.safe_load(place.read_text())["lr"] == 0.01


def test_scores_are_taken_where_the_model_was_trained(workshop: Workshop, tmp_path: Path) -> None:
    """Lightning moves the module to the CPU before `on_fit_end`; on a GPU the last table then took minutes."""
    moves: list[object] = []
    module = workshop.module()
    plain_to, plain_score = module.to, module.score
    module.to = lambda *place: moves.append(place[0]) or plain_to(*place)  # type: ignore[method-assign]
    module.score = lambda *args: moves.append("score") or plain_score(*args)  # type: ignore[method-assign]
    workshop.fit(InstantNet(bitmaps=["8"]), tmp_path, 1, module=module, callbacks=[BeforeAfter()])
    at = [index for index, move in enumerate(moves) if move == "score"]
    assert len(at) == 2
    assert all(moves[index - 1] == module.trainer.strategy.root_device for index in at)
