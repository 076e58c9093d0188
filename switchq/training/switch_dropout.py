"""Switch dropout: in training, a few layers of a pass run at another width than its bitmap says.

A pass at one width alone tells a layer nothing of neighbours at other widths; with some of them switched at random,
bitmaps that were never trained on are close to those that were. It is dropout (Srivastava et al. 2014) with
another precision in place of silence.
"""

import random
from collections.abc import Sequence

from switchq.bitmap import Bitmap


def switch_some(bitmap: Bitmap, widths: Sequence[int], share: float, seed: str) -> Bitmap:
    """`bitmap` with each layer switched to another width with probability `share`; the same for the same `seed`.

    Args:
        bitmap: one width per layer.
        widths: what to draw from, all but the layer's own alike.
        share: 0 leaves the bitmap as it is.
        seed: of the draw.
    """
    draw = random.Random(seed)
    others = {bits: [width for width in widths if width != bits] for bits in set(bitmap)}
    return Bitmap(draw.choice(others[bits]) if draw.random() < share and others[bits] else bits for bits in bitmap)
