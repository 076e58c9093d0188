"""Sensitivities in TensorBoard: the heat map as an image, each score and width as a curve over the layers."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from switchq.files import unwritable
from switchq.plots.heatmap import sensitivity_map
from switchq.plots.render import png
from switchq.posttraining.sensitivity.result import Sensitivity


def heat_map_rows(result: Sensitivity) -> Iterator[dict[str, Any]]:
    """One row per score, width and layer: `score`, `bits`, `layer`, `value`."""
    for score, of in result.scores.items():
        for bits, values in of.items():
            for layer, value in zip(result.layers, values, strict=True):
                yield {"score": score, "bits": bits, "layer": layer, "value": value}


def log_sensitivity(result: Sensitivity, logdir: str | Path, title: str) -> Path:
    """Write an event file into a new folder `logdir`/version_N.

    Args:
        result: the sensitivities.
        logdir: where the folders of such runs are.
        title: of the heat map.

    Returns:
        The new folder.

    Raises:
        UserError: it cannot be written.
    """
    image = Image.open(io.BytesIO(png(sensitivity_map(list(heat_map_rows(result)), title)))).convert("RGB")
    logger = TensorBoardLogger(str(Path(logdir).parent), name=Path(logdir).name)
    try:
        writer = logger.experiment
        writer.add_image("sensitivity", np.asarray(image), dataformats="HWC")
        writer.add_text("layers", "\n".join(f"{i}. {name}" for i, name in enumerate(result.layers)))
        for row in heat_map_rows(result):
            if math.isfinite(row["value"]):
                step = result.layers.index(row["layer"])
                writer.add_scalar(f"sensitivity {row['score']}/{row['bits']} bits", row["value"], step)
        writer.close()
    except OSError as error:
        raise unwritable(Path(logdir), error, "--logdir") from None
    return Path(logger.log_dir)
