"""Random networks of the `kernels` space: a Draw (latency/kernel_space.py) -> a torch module."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import nn

from latency import kernel_blocks as blocks
from latency import kernel_joins as joins
from latency.kernel_blocks import Drawn, Mixer, NormChannels, Transformer, conv
from latency.kernel_draws import Draw
from latency.kernel_extras import EXTRAS
from latency.kernel_heads import flat_head, head
from latency.kernel_images import autoencoder, full_resolution, generator
from latency.kernel_lone import LONE
from latency.kernel_moves import MOVES, Up
from latency.kernel_time import series, spectrogram
from latency.kernel_token_blocks import Attend
from latency.kernel_tokens import CLASSES, Columns, Rows, pyramid
from latency.kernel_vectors import flattened, perceptron
from latency.kernel_windows import WINDOWS

Block = Callable[[Drawn, int, int, int], nn.Module]


def _inverted(act: str, gate: str = "") -> Block:
    return lambda d, i, o, s: blocks.inverted(d, i, o, s, act, gate)


def _convnext(d: Drawn, c_in: int, c_out: int, stride: int) -> nn.Module:
    down: list[nn.Module] = []
    if stride == 2:
        down = [NormChannels(c_in), nn.Conv2d(c_in, c_out, 2, 2)]
    elif c_in != c_out:
        down = [nn.Conv2d(c_in, c_out, 1)]
    return nn.Sequential(*down, blocks.ConvNext(c_out, d.rng.choice((7, 7, 5, 3))))


BUILD: dict[str, Block] = {
    "plain": blocks.plain, "plain_pool": blocks.plain_pool, "basic": blocks.basic,
    "basic_se": lambda d, i, o, s: blocks.basic(d, i, o, s, gate=True),
    "bottleneck": blocks.bottleneck, "resnext": blocks.resnext, "regnet": blocks.regnet,
    "inverted": _inverted("relu6"), "inverted_se": _inverted("relu", "hsigmoid"),
    "inverted_hswish": _inverted("hswish"), "inverted_se_hswish": _inverted("hswish", "hsigmoid"),
    "inverted_se_silu": _inverted("silu", "sigmoid"), "fused": blocks.fused, "separable": blocks.separable,
    "xception": blocks.xception, "convnext": _convnext, "dense": joins.dense, "fire": joins.fire,
    "inception": joins.inception, "inception7": joins.inception7, "shuffle1": joins.shuffle1,
    "shuffle2": joins.shuffle2, "ghost": joins.ghost, "csp": joins.csp,
}  # fmt: skip


#: Blocks and extras alike.
ALL_EXTRAS: dict[str, Callable[[Drawn, int], nn.Module]] = EXTRAS | MOVES | WINDOWS | LONE | {"attend": Attend}
BUILD |= {name: lambda d, i, o, s, make=make: make(d, i) for name, make in ALL_EXTRAS.items()}  # type: ignore[misc]

#: What builds the kinds of latency/kernel_kinds.py whose networks are no stages of blocks.
WHOLE: dict[str, Callable[[Drawn, Draw], nn.Module]] = {
    "pyramid": pyramid, "columns": Columns, "rows": Rows, "series": series, "spectrogram": spectrogram,
    "full_resolution": full_resolution, "generator": generator, "autoencoder": autoencoder,
    "perceptron": perceptron, "flattened": flattened,
}  # fmt: skip


def _heads(d: Drawn, c: int) -> int:
    return d.rng.choice([h for h in sorted({c // w for w in (16, 32, 64)}) if h > 1 and c % h == 0] or [2])


class Tokens(nn.Module):
    """Patches -> tokens with positions (and a class token) -> blocks -> classes."""

    def __init__(self, d: Drawn, draw: Draw) -> None:
        super().__init__()
        c = draw.stem_channels
        sides = (draw.resolution, draw.across)
        few = [p for p in (4, 8, 16, 16, 32) if 4 <= (sides[0] // p) * (sides[1] // p) <= 400]
        patch = d.rng.choice(few)
        n = (sides[0] // patch) * (sides[1] // patch)
        mixer = draw.stages[0][0] == "mixer"
        self.patches = nn.Conv2d(draw.in_channels, c, patch, patch)
        self.token = None if mixer or d.rng.random() < 0.3 else nn.Parameter(torch.zeros(1, 1, c))
        self.position = nn.Parameter(torch.zeros(1, n + (self.token is not None), c))
        heads, ratio, fused = _heads(d, c), d.rng.choice((2, 3, 4)), d.rng.random() < 0.5
        self.blocks = nn.Sequential(
            *(Mixer(n, c) if mixer else Transformer(c, heads, ratio, fused) for _ in range(draw.stages[0][2]))
        )
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, d.rng.choice(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.position))
        y: torch.Tensor = self.head(x[:, 0] if self.token is not None else x.mean(1))
        return y


class UNet(nn.Module):
    """An encoder's stages, then upsampling with what each stage saw joined in."""

    def __init__(self, d: Drawn, draw: Draw, stem: nn.Module, stages: Sequence[nn.Module], channels: list[int]) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)
        strides = [s for _, _, _, s in draw.stages]
        mode = "bilinear" if draw.head == "unet_linear" else "nearest"
        ups: list[nn.Module] = []
        joined: list[nn.Module] = []
        c = channels[-1]
        for i in range(len(stages) - 1, -1, -1):
            skip = channels[i]
            if strides[i] == 1:
                continue
            if d.rng.random() < 0.7:
                ups.append(Up(d, c, skip))
                c = skip
            else:
                ups.append(nn.Upsample(scale_factor=2, mode=mode))
            joined.append(conv(c + skip, skip, 3, act=d.act))
            c = skip
        self.ups, self.joined = nn.ModuleList(ups), nn.ModuleList(joined)
        self.head = nn.Conv2d(c, d.rng.choice((1, 2, 21)), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        seen = []
        for stage in self.stages:
            y = stage(x)
            if y.shape[-1] != x.shape[-1]:
                seen.append(x)
            x = y
        for up, join in zip(self.ups, self.joined, strict=True):
            x = join(torch.cat([seen.pop(), up(x)], 1))
        out: torch.Tensor = self.head(x)
        return out


def _stem(d: Drawn, kind: str, channels: int, c_in: int) -> nn.Module:
    match kind:
        case "conv7":
            return nn.Sequential(conv(c_in, channels, d.rng.choice((7, 7, 3)), 2, act=d.act), nn.MaxPool2d(3, 2, 1))
        case "conv3s2":
            return conv(c_in, channels, 3, 2, act=d.act)
        case "conv3s2v":
            return nn.Sequential(nn.Conv2d(c_in, channels, 3, 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        case "patch4":
            return nn.Sequential(nn.Conv2d(c_in, channels, 4, 4), NormChannels(channels))
        case "conv3":
            return conv(c_in, channels, 3, 1, act=d.act)
    raise ValueError(f"unknown stem '{kind}'")


def build_draw(draw: Draw) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """The network of a draw, and its input shape. The same draw gives the same network; weights are torch's."""
    rng = random.Random(draw.seed)
    d = Drawn(rng, rng.choices(tuple(blocks.ACTS), (6, 2, 2, 2, 1, 1))[0])
    shape = draw.input_shape
    if draw.family in WHOLE:
        return WHOLE[draw.family](d, draw), shape
    if draw.head == "tokens":
        return Tokens(d, draw), shape
    stem, channels = _stem(d, draw.stem, draw.stem_channels, draw.in_channels), draw.stem_channels
    stages, before = [], []
    for block, out, depth, stride in draw.stages:
        before.append(channels)
        layers = []
        for i in range(depth):
            layers.append(BUILD[block](d, channels, out, stride if i == 0 else 1))
            channels = out
        stages.append(nn.Sequential(*layers))
    if draw.head.startswith("unet"):
        return UNet(d, draw, stem, stages, [*before, channels]), shape
    body = nn.Sequential(stem, *stages)
    last = flat_head(d, body, shape) if draw.head == "flat" else head(d, draw.head, channels)
    return nn.Sequential(*body, last), shape
