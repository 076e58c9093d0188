"""Is the Hugging Face Hub there? Asked once, briefly, before its client is.

Without a network the Hub's client retries for half a minute before it gives up. So a few seconds' probe comes first;
where the Hub does not answer, only the local cache is tried.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

PROBE_SECONDS = 5.0


def hub_answers() -> bool:
    """Whether the Hub can be asked at all: not switched off (`HF_HUB_OFFLINE`), and its host answers within seconds."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _answers(os.environ.get("HF_ENDPOINT", constants.ENDPOINT))


@cache
def _answers(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def only_cached_if_unreachable() -> Iterator[None]:
    """Inside, the Hub's client looks into its cache alone if the Hub does not answer."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = not hub_answers()
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
