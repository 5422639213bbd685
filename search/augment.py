"""Random crops, mirror images, colours and cut-outs of a batch, drawn from counters, computed where the batch lies.

Draws are made on the CPU, so that a batch is the same on every device, and again the same after a resume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from devices.errors import UserError, did_you_mean
from search.rng import generator

PAD, RESIZED = "pad-crop", "resized-crop"
KINDS = (PAD, RESIZED)
EVAL_CROP = 0.875  # 224 of 256: the centre that is evaluated of an image meant for resized crops
AREA, ASPECT, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10  # Szegedy et al., arXiv 1409.4842
BRIGHTNESS, SATURATION = 32 / 255, 0.5  # "normal" colour distortion of the released code of arXiv 1812.00332


@dataclass(frozen=True)
class Augmentation:
    """`kind`: pad-crop shifts an image by up to an eighth of its side (4 pixels of CIFAR-10's 32); resized-crop, which
    decoding does, adds colours here. `flip`: half are mirrored. `cutout`: side of the grey square, as a share."""

    kind: str = PAD
    flip: bool = False
    cutout: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"--augmentation {self.kind}: {did_you_mean(self.kind, KINDS)}one of {', '.join(KINDS)}")


def augment(x: torch.Tensor, how: Augmentation, seed: int, stream: str, step: int) -> torch.Tensor:
    """`x` (n, C, H, W) in [0, 1], changed by draws of (seed, stream, step)."""
    draws = generator(seed, stream, "augment", step)
    x = shifted(x, how.flip, draws, pad=how.kind == PAD)
    if how.kind == RESIZED:
        x = coloured(x, draws)
    return cut_out(x, how.cutout, draws) if how.cutout else x


def shifted(x: torch.Tensor, flip: bool, draws: torch.Generator, pad: bool = True) -> torch.Tensor:
    """Each image moved by up to an eighth of its side, zeros moving in, and with `flip` half of them mirrored."""
    n, channels, height, width = x.shape
    pad_y, pad_x = (height // 8, width // 8) if pad else (0, 0)
    padded = functional.pad(x, (pad_x, pad_x, pad_y, pad_y))
    dy = torch.randint(0, 2 * pad_y + 1, (n,), generator=draws)
    dx = torch.randint(0, 2 * pad_x + 1, (n,), generator=draws)
    mirrored = torch.rand(n, generator=draws) < 0.5
    rows = (dy[:, None] + torch.arange(height))[:, None, :, None]
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(mirrored[:, None] & flip, width - 1 - columns, columns) + dx[:, None]
    return padded[
        torch.arange(n)[:, None, None, None].to(x.device),
        torch.arange(channels)[None, :, None, None].to(x.device),
        rows.to(x.device),
        columns[:, None, None, :].to(x.device),
    ]


def coloured(x: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Brightness times 1 +- 32/255, then saturation times 1 +- 0.5, an image each; grey is the eye's (ITU-R 601)."""
    brightness, saturation = (1 + (2 * torch.rand(2, len(x), 1, 1, 1, generator=draws) - 1)).unbind()
    brightness = (1 + (brightness - 1) * BRIGHTNESS).to(x.device)
    saturation = (1 + (saturation - 1) * SATURATION).to(x.device)
    x = (x * brightness).clamp(0, 1)
    if x.shape[1] != 3:
        return x
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).reshape(1, 3, 1, 1)
    grey = (x * weights).sum(1, keepdim=True)
    return (grey + saturation * (x - grey)).clamp(0, 1)


def cut_out(x: torch.Tensor, share: float, draws: torch.Generator) -> torch.Tensor:
    """A grey square of `share` of the side in each image, centred anywhere (DeVries and Taylor, arXiv 1708.04552)."""
    n, _, height, width = x.shape
    side_y, side_x = round(share * height), round(share * width)
    top = torch.randint(0, height, (n, 1), generator=draws) - side_y // 2
    left = torch.randint(0, width, (n, 1), generator=draws) - side_x // 2
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    in_rows, in_columns = (rows >= top) & (rows < top + side_y), (columns >= left) & (columns < left + side_x)
    return x.masked_fill((in_rows[:, None, :, None] & in_columns[:, None, None, :]).to(x.device), 0.5)


def crop_draws(n: int, seed: int, stream: str, step: int) -> torch.Tensor:
    """Uniform numbers (n, 10, 4) for `crop_box`, of batch `step`."""
    return torch.rand(n, ATTEMPTS, 4, generator=generator(seed, stream, "crop", step), dtype=torch.float64)


def crop_box(width: int, height: int, draws_A4: torch.Tensor) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels of a random part of an image: 8 to 100 % of its area, aspect 3/4 to 4/3.

    The first of ten tries that fits; else the largest centred part whose aspect is allowed.
    """
    for area, aspect, x, y in draws_A4.tolist():
        target = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area)
        low, high = map(math.log, ASPECT)
        ratio = math.exp(low + (high - low) * aspect)
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def centre_box(width: int, height: int, share: float) -> tuple[float, float, float, float]:
    """The centred square with `share` of the shorter side."""
    side = min(width, height) * share
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2
