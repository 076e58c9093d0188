"""Lightning's TensorBoard logger, with a `hparams.yaml` that is whole or not there."""

from pathlib import Path

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from switchq.files import write_text


class WholeLogger(TensorBoardLogger):
    """Event files are only added to, and are read as far as they go; the hyper-parameters are renamed into place."""

    @rank_zero_only
    def save(self) -> None:
        """Write the hyper-parameters unless they are there, and flush the events."""
        path = Path(self.log_dir, self.NAME_HPARAMS_FILE)
        if path.parent.is_dir() and not path.exists():
            write_text(path, yaml.dump(dict(self.hparams)))
        super().save()
