"""Generated data on its way to disk: each batch becomes a part that exists whole or not at all.

A folder `OUTPUT.partial` holds the settings and the finished parts; a second run with the same settings finds them and
does only the rest. When all parts are there they become a `datasets` folder, which is then renamed to OUTPUT.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from switchq.data.generated import SETTINGS_FILE, UNFINISHED, read_settings
from switchq.errors import UserError
from switchq.files import new_file, new_folder, write_text


class Parts:
    """The parts of one data set.

    Args:
        output: the folder to appear in the end.
        settings: what the data set is made with; written beside it.
        resume: keep the parts of an interrupted run with the same settings; otherwise drop them.

    Raises:
        UserError: parts of a run with other settings are in the way.
    """

    def __init__(self, output: Path, settings: dict[str, Any], resume: bool) -> None:
        self.output = output
        self.folder = output.with_name(output.name + UNFINISHED)
        if self.folder.exists() and not resume:
            shutil.rmtree(self.folder)
        if self.folder.exists() and _settings_or_none(self.folder) not in (settings, None):
            raise UserError(
                f"{self.folder} holds an interrupted run with other settings or from another source: "
                f"remove it or choose another --output."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._text = json.dumps(settings, indent=2) + "\n"
        write_text(self.folder / SETTINGS_FILE, self._text)

    def path(self, number: int) -> Path:
        """The file of part `number`; it exists if that part is finished."""
        return self.folder / f"part-{number:06d}.parquet"

    def write(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Writes part `number` so that it appears only when all of it is on the disk."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"input_ids": pa.list_(pa.int32()), "prompt_length": pa.int32()}
        if "topk_ids" in rows[0]:
            columns |= {"topk_ids": pa.list_(pa.list_(pa.int32())), "topk_logprobs": pa.list_(pa.list_(pa.float32()))}
        table = pa.Table.from_pylist(rows, pa.schema(list(columns.items())))
        with new_file(self.path(number)) as file:
            pq.write_table(table, file)

    def join(self, count: int) -> None:
        """Makes OUTPUT of the first `count` parts and removes the parts."""
        import datasets

        paths = [str(self.path(number)) for number in range(count)]
        with _quiet_datasets(), new_folder(self.output) as whole:
            table = datasets.Dataset.from_parquet(paths, cache_dir=str(self.folder / "cache"))
            table.save_to_disk(str(whole))
            write_text(whole / SETTINGS_FILE, self._text)
        shutil.rmtree(self.folder, ignore_errors=True)


def _settings_or_none(folder: Path) -> dict[str, Any] | None:
    return read_settings(folder) if (folder / SETTINGS_FILE).is_file() else None


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
