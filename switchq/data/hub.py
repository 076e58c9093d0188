"""Data sets from the Hub, or one clear line about why not, and how to go on with local files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from switchq.errors import UserError
from switchq.hub import hub_answers, only_cached_if_unreachable

if TYPE_CHECKING:
    from datasets import Dataset


def load_hub(name: str, split: str, advice: str) -> "Dataset":
    """Loads one split of a Hub data set.

    Args:
        name: `owner/name`; `owner/name:config` for a data set of several configurations; or `owner/name:path/file.ext`
            for one file of it, which then is the split (C4: `allenai/c4:en/c4-validation.00000-of-00008.json.gz`).
        split: e.g. `train` or `validation`.
        advice: what to do without the Hub; the end of the error's line.

    Raises:
        UserError: no connection and not in the cache, no such data set, no such split.
    """
    import datasets

    path, _, config = name.partition(":")
    one_file = {"data_files": {split: config}} if Path(config).suffix else {"name": config or None}
    with _cache_only():
        try:
            return datasets.load_dataset(path, split=split, **one_file)
        except ConnectionError:
            where = f"there is no local file '{name}', and the Hugging Face Hub cannot be reached"
            raise UserError(f"{where}: {advice}.") from None
        except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError):
            raise UserError(f"'{name}' is neither a local file nor a data set on the Hub: {advice}.") from None
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"The Hub data set '{name}' has no usable split '{split}' ({reason}).") from None


@contextmanager
def _cache_only() -> Iterator[None]:
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    try:
        datasets.config.HF_HUB_OFFLINE = not hub_answers()
        with only_cached_if_unreachable():
            yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
