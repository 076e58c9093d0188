"""Data sets from the Hub, or one clear line about why not.

Without a network the Hub's client retries for half a minute before it gives up. So a few seconds' probe comes first:
where the Hub does not answer, only the local cache is tried, and a data set that is not there either ends in a message
that says how to go on with local files.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from switchq.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

PROBE_SECONDS = 5.0


def load_hub(name: str, split: str, advice: str) -> "Dataset":
    """Loads one split of a Hub data set.

    Args:
        name: `owner/name`, or `owner/name:config` for a data set of several configurations.
        split: e.g. `train` or `validation`.
        advice: what to do without the Hub; the end of the error's line.

    Raises:
        UserError: no connection and not in the cache, no such data set, no such split.
    """
    import datasets

    path, _, config = name.partition(":")
    with _cache_only(not hub_answers()):
        try:
            return datasets.load_dataset(path, config or None, split=split)
        except ConnectionError:
            raise UserError(f"Cannot reach the Hugging Face Hub for the data set '{name}': {advice}.") from None
        except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError):
            raise UserError(f"'{name}' is neither a local file nor a data set on the Hub: {advice}.") from None
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"The Hub data set '{name}' has no usable split '{split}' ({reason}).") from None


def hub_answers() -> bool:
    """Whether the Hub can be asked at all: not switched off (`HF_HUB_OFFLINE`), and its host answers within seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", constants.ENDPOINT), method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def _cache_only(enabled: bool) -> Iterator[None]:
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    try:
        if enabled:
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
