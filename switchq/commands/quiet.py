"""What the libraries below say about themselves, and a user cannot act on, stays off the terminal."""

import logging
import os
import warnings

from transformers.utils import logging as transformers_logging


def quiet() -> None:
    """Silence progress bars of loading, banners, retries, and warnings about choices that are made on purpose here."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls, not ours
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*LightningCLI's args parameter.*",
        ".*exists and is not empty.*",
        ".*smaller than the logging interval.*",  # steps are logged by their number, whatever epochs they are in
        ".*across ranks is zero.*",  # text that is trained on only, with none to score
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=message)
