"""Whether a network can take the images it is to be trained on."""

from __future__ import annotations

from collections.abc import Sequence

from latency.ops import Linear, Op
from latency.wiring import scaled_sizes
from search.split import DataError


def check_images(chain: Sequence[Op], image_shape: tuple[int, int, int], what: str) -> None:
    """Raise DataError where `chain`, the ops of `what` in order, cannot take or classify images (C, H, W)."""
    channels, height, width = image_shape
    _, wanted, deployed, _ = chain[0].input_shape
    if channels != wanted:
        raise DataError(f"images have {channels} channels, {what} takes {wanted}")
    last = chain[-1]
    if not isinstance(last, Linear):
        raise DataError(f"{what} ends in {last}, not in a Linear: it cannot classify")
    height, width = scaled_sizes(chain[:-1], height, width)
    if (last.height, last.width) == (1, 1) and (height, width) != (1, 1):
        raise DataError(
            f"images of {image_shape[1]}x{image_shape[2]} leave {height}x{width} before the last "
            f"Linear of {what}, which takes 1x1; use --image-size {deployed}"
        )
