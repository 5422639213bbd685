"""The networks of benchmarks/any_network.py that the model was developed with: 14 families, at three widths and sizes.

Written down after their papers; they share no code with latency/kernel_blocks.py, from which the kernels of the fit are
drawn. Not blind: see any_network_blind.py for those that are.
"""

from __future__ import annotations

from torch import nn

from benchmarks.any_network_joined import (
    UNet,
    ViT,
    convnext,
    densenet,
    inception,
    shufflenet_v2,
    squeezenet,
)
from benchmarks.any_network_parts import Add, Excite, Make, cbr, classifier


def resnet_plain(w: int) -> nn.Module:
    """ResNet-18 (1512.03385)."""
    layers: list[nn.Module] = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = w
    for o, s in ((w, 1), (w, 1), (2 * w, 2), (2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1)):
        by = cbr(c, o, 1, s, act=None) if s > 1 else None
        layers.append(Add(nn.Sequential(cbr(c, o, 3, s), cbr(o, o, act=None)), by, True))
        c = o
    return nn.Sequential(*layers, *classifier(c))


def resnet_bottleneck(w: int) -> nn.Module:
    """ResNet-26 of bottlenecks (1512.03385)."""
    layers: list[nn.Module] = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = w
    for m, s in ((w, 1), (w, 1), (2 * w, 2), (2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1)):
        by = cbr(c, 4 * m, 1, s, act=None) if s > 1 or c != 4 * m else None
        layers.append(Add(nn.Sequential(cbr(c, m, 1), cbr(m, m, 3, s), cbr(m, 4 * m, 1, act=None)), by, True))
        c = 4 * m
    return nn.Sequential(*layers, *classifier(c))


def resnext(w: int) -> nn.Module:
    """ResNeXt-26, groups of w / 8 (1611.05431)."""
    layers: list[nn.Module] = [cbr(3, w, 7, 2), nn.MaxPool2d(3, 2, 1)]
    c = w
    for m, s in ((2 * w, 1), (4 * w, 2), (4 * w, 1), (8 * w, 2), (8 * w, 1), (16 * w, 2)):
        by = cbr(c, 2 * m, 1, s, act=None) if s > 1 or c != 2 * m else None
        layers.append(Add(nn.Sequential(cbr(c, m, 1), cbr(m, m, 3, s, 16), cbr(m, 2 * m, 1, act=None)), by, True))
        c = 2 * m
    return nn.Sequential(*layers, *classifier(c))


def mobilenet_v2(w: int) -> nn.Module:
    """Inverted residuals (1801.04381); w = 32 is width 1."""
    layers: list[nn.Module] = [cbr(3, w, 3, 2, act=nn.ReLU6)]
    c = w
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for t, o, n, s in rows:
        o = max(8, o * w // 32 // 8 * 8)
        for i in range(n):
            m, stride = c * t, s if i == 0 else 1
            expand = [cbr(c, m, 1, act=nn.ReLU6)] if t > 1 else []
            body = nn.Sequential(*expand, cbr(m, m, 3, stride, m, nn.ReLU6), cbr(m, o, 1, act=None))
            layers.append(Add(body) if stride == 1 and c == o else body)
            c = o
    return nn.Sequential(*layers, cbr(c, 1280, 1, act=nn.ReLU6), *classifier(1280))


def efficientnet(w: int) -> nn.Module:
    """Inverted residuals with squeeze-excite and SiLU (1905.11946); w = 32 is B0."""
    layers: list[nn.Module] = [cbr(3, w, 3, 2, act=nn.SiLU)]
    c = w
    rows = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 2, 2, 3),
        (6, 112, 2, 1, 5),
        (6, 192, 2, 2, 5),
    )
    for t, o, n, s, k in rows:
        o = max(8, o * w // 32 // 8 * 8)
        for i in range(n):
            m, stride = c * t, s if i == 0 else 1
            expand = [cbr(c, m, 1, act=nn.SiLU)] if t > 1 else []
            body = nn.Sequential(
                *expand, cbr(m, m, k, stride, m, nn.SiLU), Excite(m, max(4, c // 4), nn.SiLU, nn.Sigmoid),
                cbr(m, o, 1, act=None),
            )  # fmt: skip
            layers.append(Add(body) if stride == 1 and c == o else body)
            c = o
    return nn.Sequential(*layers, cbr(c, 40 * w, 1, act=nn.SiLU), *classifier(40 * w))


def mobilenet_v3(w: int) -> nn.Module:
    """MobileNetV3-small: h-swish and squeeze-excite (1905.02244); w = 16 is width 1."""
    layers: list[nn.Module] = [cbr(3, w, 3, 2, act=nn.Hardswish)]
    c = w
    rows = ((3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
            (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1))  # fmt: skip
    for k, m, o, se, hs, s in rows:
        m, o, act = m * w // 16 // 8 * 8, o * w // 16 // 8 * 8, nn.Hardswish if hs else nn.ReLU
        gate = [Excite(m, max(8, m // 4 // 8 * 8), nn.ReLU, nn.Hardsigmoid)] if se else []
        body = nn.Sequential(cbr(c, m, 1, act=act), cbr(m, m, k, s, m, act), *gate, cbr(m, o, 1, act=None))
        layers.append(Add(body) if s == 1 and c == o else body)
        c = o
    return nn.Sequential(*layers, cbr(c, 36 * w, 1, act=nn.Hardswish), *classifier(36 * w))


def vgg(w: int) -> nn.Module:
    """VGG-11 (1409.1556) with batch norm and a narrow classifier; w = 64 is its width."""
    layers: list[nn.Module] = []
    c = 3
    for o, n in ((w, 1), (2 * w, 1), (4 * w, 2), (8 * w, 2), (8 * w, 2)):
        for _ in range(n):
            layers.append(cbr(c, o))
            c = o
        layers.append(nn.MaxPool2d(2, 2))
    head = [
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(c, 16 * w),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(16 * w, 1000),
    ]
    return nn.Sequential(*layers, *head)


#: family -> (how to make it, its (width, input size) pairs)
FAMILIES: dict[str, tuple[Make, tuple[tuple[int, int], ...]]] = {
    "resnet_plain": (resnet_plain, ((32, 224), (48, 160), (64, 128))),
    "resnet_bottleneck": (resnet_bottleneck, ((24, 192), (32, 160), (64, 128))),
    "resnext": (resnext, ((32, 160), (48, 128), (64, 96))),
    "mobilenet_v2": (mobilenet_v2, ((16, 224), (32, 160), (40, 192))),
    "efficientnet": (efficientnet, ((16, 224), (32, 160), (48, 128))),
    "mobilenet_v3": (mobilenet_v3, ((16, 224), (24, 160), (32, 192))),
    "densenet": (densenet, ((12, 224), (24, 160), (32, 128))),
    "inception": (inception, ((32, 224), (48, 160), (64, 128))),
    "shufflenet_v2": (shufflenet_v2, ((48, 224), (116, 192), (176, 160))),
    "vgg": (vgg, ((16, 224), (32, 128), (48, 96))),
    "squeezenet": (squeezenet, ((32, 224), (48, 192), (64, 160))),
    "convnext": (convnext, ((32, 224), (48, 160), (64, 128))),
    "unet": (UNet, ((16, 128), (24, 96), (32, 64))),
    "vit": (ViT, ((128, 224), (192, 160), (256, 192))),
}
