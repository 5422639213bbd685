"""Networks of the `kernels` space that are no stages of convolutional blocks: how their sizes are drawn.

Each kind is a Draw whose `family` names what builds it (latency/kernel_networks.py). Sizes are log-uniform around what
the papers have that the builders name; networks mostly take 1e6 to 6e8 multiply-accumulates.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from latency.kernel_draws import ODD, Draw, StageRow, an_extra, log_uniform, width

#: Channels of a series: audio, accelerometers, electrocardiograms, cepstra, electroencephalograms, mel bands.
SERIES = (1, 3, 9, 12, 40, 64, 80)


def _widths(rng: random.Random, n: int, first: float, most: float, odd: bool, grow: tuple[float, float]) -> list[int]:
    """`n` widths, each so many times the one before it, up to `most`."""
    found, c = [], first
    for _ in range(n):
        found.append(width(rng, min(c, most), odd))
        c *= rng.uniform(*grow)
    return found


def _rows(rng: random.Random, name: str, widths: list[int], depth: int, down: float = 1.0) -> tuple[StageRow, ...]:
    return tuple((name, c, rng.randint(1, depth), 2 if rng.random() < down else 1) for c in widths)


def _size(rng: random.Random, low: float, high: float, step: int = 1) -> int:
    return max(step, round(log_uniform(rng, low, high) / step) * step)


def _across(rng: random.Random, size: int, step: int) -> int:
    """As wide as high mostly."""
    return size if rng.random() < 0.85 else max(step, round(size * log_uniform(rng, 0.5, 1.6) / step) * step)


def _made(rng: random.Random, name: str, size: tuple[int, int, int], c: int, rows: tuple[StageRow, ...]) -> Draw:
    """`size`: (channels, height, width) of the input."""
    return Draw(name, size[1], size[2], size[0], "", c, rows, name, rng.randrange(2**31))


def _pyramid(rng: random.Random, odd: bool) -> Draw:
    size = _size(rng, 32, 256, 32)
    c = width(rng, log_uniform(rng, 16, min(96.0, 9000 / size)), odd)
    widths = [c, *_widths(rng, rng.randint(1, 3), 2 * c, 512, odd, (1.3, 2.1))]
    return _made(rng, "pyramid", (3, size, _across(rng, size, 32)), c, _rows(rng, "pyramid", widths, 2))


def _columns(rng: random.Random, odd: bool) -> Draw:
    size, c = _size(rng, 28, 240, 4), width(rng, log_uniform(rng, 24, 448), odd)
    return _made(
        rng, "columns", (rng.choice((1, 3, 3, 3)), size, _across(rng, size, 4)), c, _rows(rng, "columns", [c], 4)
    )


def _rows_of_points(rng: random.Random, odd: bool) -> Draw:
    c = width(rng, log_uniform(rng, 8, 192), odd)
    size = (rng.choice((2, 3, 4, 6, 9, 16, 32, 64)), _size(rng, 16, 2048 if c < 96 else 512), 1)
    return _made(rng, "rows", size, c, _rows(rng, "rows", [c], 3))


def _hybrid(rng: random.Random, odd: bool) -> Draw:
    """Convolutions first, then stages where attention follows them (2110.02178, 2106.04803)."""
    size = _size(rng, 64, 256, 32)
    across = _across(rng, size, 32)
    stem = rng.choice(("conv3s2", "conv3s2", "patch4"))
    most = (min(size, across) // (4 if stem == "patch4" else 2)).bit_length() - 2  # halvings that leave a map of 2 x 2
    widths = _widths(rng, min(most, rng.randint(2, 5)), log_uniform(rng, 12, 64), 384, odd, (1.2, 2.1))
    stages: list[StageRow] = []
    for i, c in enumerate(widths):
        block = rng.choice(("inverted", "inverted_hswish", "inverted_se_silu", "basic", "convnext", "separable"))
        stages.append((block, c, 1, 2))
        if i >= len(widths) - 2:
            stages.append((rng.choice(("attend", "attend", "conv_ffn")), c, rng.randint(1, 2), 1))
    seed = rng.randrange(2**31)
    return Draw("hybrid", size, across, 3, stem, widths[0], tuple(stages), "pool", seed)


def _medley(rng: random.Random, odd: bool) -> Draw:
    """Extras one after another, at the sizes that a small network goes through."""
    size, stages = _size(rng, 12, 160, 2), []
    widths = _widths(rng, rng.randint(2, 4), log_uniform(rng, 6, min(64.0, 2500 / size)), 256, odd, (1.0, 2.5))
    for c in widths:
        stages.append((rng.choice(("plain", "separable", "inverted", "basic")), c, 1, 2))
        stages += [(an_extra(rng), c, 1, 1) for _ in range(rng.randint(1, 3))]
    head, seed = rng.choice(("pool", "pool", "segment", "embed")), rng.randrange(2**31)
    channels, stem = rng.choice((1, 3, 3, 4)), rng.choice(("conv3", "conv3", "conv3s2"))
    return Draw("medley", size, _across(rng, size, 2), channels, stem, widths[0], tuple(stages), head, seed)


def _series(rng: random.Random, odd: bool) -> Draw:
    c = width(rng, log_uniform(rng, 8, 160), odd)
    widths = _widths(rng, rng.randint(1, 4), c, 384, odd, (0.9, 2.0))
    size = (rng.choice(SERIES), _size(rng, 32, 1024), 1)
    return _made(rng, "series", size, c, _rows(rng, "series", widths, 3, 0.5))


def _spectrogram(rng: random.Random, odd: bool) -> Draw:
    c = width(rng, log_uniform(rng, 8, 96), odd)
    widths = _widths(rng, rng.randint(1, 4), c, 256, odd, (0.9, 1.8))
    size = (1, rng.choice((40, 64, 80, 128, _size(rng, 20, 128))), _size(rng, 50, 400))
    return _made(rng, "spectrogram", size, c, _rows(rng, "spectrogram", widths, 2, 0.6))


def _full_resolution(rng: random.Random, odd: bool) -> Draw:
    c, n = width(rng, log_uniform(rng, 8, 64), odd), rng.randint(1, 6)
    affordable = (log_uniform(rng, 5e6, 1e9) / (15 * n * c * c)) ** 0.5
    size = max(16, min(256, round(affordable / 4) * 4))
    return _made(rng, "full_resolution", (rng.choice((1, 3, 3)), size, _across(rng, size, 4)), c, (("body", c, n, 1),))


def _down_from(rng: random.Random, odd: bool) -> list[int]:
    """Widths of a decoder: halved about each time it doubles the map."""
    c = log_uniform(rng, 32, 512)
    return [width(rng, max(8.0, c * rng.uniform(0.4, 0.75) ** i), odd) for i in range(rng.randint(2, 5))]


def _generator(rng: random.Random, odd: bool) -> Draw:
    widths = _down_from(rng, odd)
    size = (_size(rng, 8, 256), 1, 1)
    return _made(rng, "generator", size, widths[0], _rows(rng, "up", widths, 1))


def _autoencoder(rng: random.Random, odd: bool) -> Draw:
    widths = _down_from(rng, odd)
    step = 2 ** len(widths)
    size = _size(rng, 24, 160, step)
    return _made(
        rng, "autoencoder", (rng.choice((1, 3)), size, _across(rng, size, step)), widths[0], _rows(rng, "up", widths, 1)
    )


def _perceptron(rng: random.Random, odd: bool) -> Draw:
    n = rng.randint(2, 8)
    largest = log_uniform(rng, 16, 2048)
    same = rng.random() < 0.5
    widths = [max(4, round(largest if same else log_uniform(rng, 16, max(17.0, largest)))) for _ in range(n)]
    size = (_size(rng, 4, 1024), 1, 1)
    return _made(rng, "perceptron", size, widths[0], _rows(rng, "linear", widths, 1))


def _flattened(rng: random.Random, odd: bool) -> Draw:
    size = rng.choice((28, 32, 32, _size(rng, 16, 227), _size(rng, 16, 96)))
    first = log_uniform(rng, 6, 64 if size < 100 else 32)
    widths = _widths(rng, rng.randint(1, 4), first, 320, odd, (1.0, 2.6))
    rows = _rows(rng, "conv", widths, 2, 0.85)
    return _made(rng, "flattened", (rng.choice((1, 3)), size, _across(rng, size, 1)), widths[0], rows)


#: How many of all networks are of each kind; the others are drawn around latency/kernel_space.py's entries.
KINDS: dict[str, tuple[float, Callable[[random.Random, bool], Draw]]] = {
    "pyramid": (0.055, _pyramid), "columns": (0.05, _columns), "rows": (0.02, _rows_of_points),
    "hybrid": (0.03, _hybrid), "medley": (0.06, _medley), "series": (0.045, _series),
    "spectrogram": (0.03, _spectrogram), "full_resolution": (0.055, _full_resolution),
    "generator": (0.025, _generator), "autoencoder": (0.025, _autoencoder), "perceptron": (0.02, _perceptron),
    "flattened": (0.035, _flattened),
}  # fmt: skip


def draw_kind(rng: random.Random, name: str | None = None) -> Draw:
    """A random network of the kind `name`, or of any, each as often as KINDS says."""
    name = name or rng.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    return KINDS[name][1](rng, rng.random() < ODD)
