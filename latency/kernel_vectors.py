"""Networks of the `kernels` space that are fully connected mostly: layers on vectors, and maps flattened into them.

(draws, Draw) -> a module on the Draw's input shape.
"""

from __future__ import annotations

from torch import nn

from latency.kernel_blocks import Drawn, Sum, conv
from latency.kernel_draws import Draw, log_uniform

ACTS = (nn.ReLU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.SELU, nn.Softplus, nn.Hardswish)
CLASSES = (1, 2, 3, 7, 10, 26, 47, 100, 1000)
LARGEST = 12_000_000  # weights of one layer


def layers_of(d: Drawn, c: int, widths: list[int]) -> tuple[list[nn.Module], int]:
    """Linear layers of `widths` on (1, c), and the width they end with; residual, with norms, as is drawn."""
    act, norm = d.rng.choice(ACTS), d.rng.choice(("none", "none", "batch", "layer", "before"))
    residual = d.rng.random() < 0.35
    made: list[nn.Module] = []
    for wide in widths:
        wide = min(wide, max(2, LARGEST // c))
        layer: list[nn.Module] = [nn.BatchNorm1d(c)] if norm == "before" else []
        layer.append(nn.Linear(c, wide))
        layer += [nn.BatchNorm1d(wide)] if norm == "batch" else [nn.LayerNorm(wide)] if norm == "layer" else []
        body = nn.Sequential(*layer, act())
        made.append(Sum(body) if residual and c == wide else body)
        c = wide
    return made, c


def perceptron(d: Drawn, draw: Draw) -> nn.Module:
    """Layers on a vector: tables of numbers (2106.11959), controllers. The stages' channels are their widths."""
    made, c = layers_of(d, draw.in_channels, [row[1] for row in draw.stages])
    last = d.rng.choice((nn.Identity, nn.Identity, nn.Sigmoid, nn.Tanh, lambda: nn.Softmax(-1)))
    return nn.Sequential(nn.Flatten(), *made, nn.Linear(c, d.rng.choice(CLASSES)), last())


def flattened(d: Drawn, draw: Draw) -> nn.Module:
    """Convolutions and poolings, a map flattened, and two or three layers (LeNet-5; 1409.1556; AlexNet)."""
    rng, c = d.rng, draw.in_channels
    side = [draw.resolution, draw.across]
    act = rng.choice((nn.ReLU, nn.ReLU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.SiLU))
    valid, normed = rng.random() < 0.4, rng.random() < 0.4
    layers: list[nn.Module] = []
    for i, (_, wide, depth, down) in enumerate(draw.stages):
        for _ in range(depth):
            k = rng.choice((3, 3, 5, 5, 7, 11) if i == 0 else (3, 3, 5))
            stride = rng.choice((1, 2, 4)) if i == 0 and min(side) >= 64 else 1
            pad = 0 if valid and min(side) > 2 * k else k // 2
            layers += [nn.Conv2d(c, wide, k, stride, pad), *([nn.BatchNorm2d(wide)] if normed else []), act()]
            c, side = wide, [(s + 2 * pad - k) // stride + 1 for s in side]
        if down == 2 and min(side) >= 4:
            k = rng.choice((2, 2, 2, 3))
            layers.append(nn.MaxPool2d(k, 2) if rng.random() < 0.75 else nn.AvgPool2d(k, 2))
            side = [(s - k) // 2 + 1 for s in side]
    bins = rng.choice((1, 2, 3, 4, 6, 7, 7))
    if min(side) // bins > 1 or c * side[0] * side[1] > 40_000:  # pooled to few places before
        down, across = (max(1, s // bins) for s in side)
        layers.append(nn.AvgPool2d((down, across), (down, across)))
        side = [side[0] // down, side[1] // across]
    if rng.random() < 0.15:
        layers.append(conv(c, max(4, c // 4), act=d.act))
        c = max(4, c // 4)
    first = c * side[0] * side[1]
    most = max(16, min(4096, LARGEST // first))
    widths = [max(4, round(log_uniform(rng, 10, most))) for _ in range(rng.randint(1, 2))]
    made, last = layers_of(d, first, widths)
    return nn.Sequential(*layers, nn.Flatten(), *made, nn.Linear(last, rng.choice(CLASSES)))
