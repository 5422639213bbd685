"""The blind networks of benchmarks/any_network.py: 21 families, none of those in any_network_models.py.

Written down after their papers, and committed before any prediction of them was looked at: no model, feature, threshold
or drawn network was changed for what they showed. They share no code with latency/kernel_blocks.py. Depths are cut
where a docstring says so, so that timing them in rounds takes a minute.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks import any_network_blind_images as pixels
from benchmarks import any_network_blind_mobile as mobile
from benchmarks import any_network_blind_residual as residual
from benchmarks import any_network_blind_tokens as tokens
from benchmarks.any_network_parts import Make

#: Families whose paper is also an entry of latency/kernel_space.py: their blocks, by other code, are among those drawn.
RELATED = ("mobilenet_v1", "ghostnet", "efficientnet_v2", "xception", "regnet_y", "mlp_mixer", "yolo")

Shape = tuple[int, int, int, int]
Sized = Callable[[int, int], nn.Module]


def images(*rows: tuple[int, int]) -> tuple[tuple[int, Shape], ...]:
    """Widths with square images of three channels."""
    return tuple((width, (1, 3, size, size)) for width, size in rows)


def any_size(make: Make) -> Sized:
    """A network that does not depend on the size of its input."""
    return lambda width, _: make(width)


#: family -> (how to make it of a width and an input size, its (width, input shape) pairs)
FAMILIES: dict[str, tuple[Sized, tuple[tuple[int, Shape], ...]]] = {
    "mobilenet_v1": (any_size(mobile.mobilenet_v1), images((16, 192), (32, 128))),
    "ghostnet": (any_size(mobile.ghostnet), images((16, 224), (24, 160))),
    "efficientnet_v2": (any_size(mobile.efficientnet_v2), images((16, 192), (24, 128))),
    "nasnet": (any_size(mobile.NasNet), images((16, 160), (32, 128))),
    "ds_cnn": (any_size(mobile.ds_cnn), ((64, (1, 1, 49, 10)), (172, (1, 1, 49, 10)))),
    "lenet": (any_size(mobile.lenet), ((6, (1, 1, 32, 32)), (24, (1, 1, 32, 32)))),
    "regnet_y": (any_size(residual.regnet_y), images((32, 224), (64, 160))),
    "xception": (any_size(residual.xception), images((16, 192), (24, 128))),
    "sknet": (any_size(residual.sknet), images((16, 192), (32, 128))),
    "hrnet": (any_size(residual.HRNet), images((12, 192), (18, 128))),
    "dla": (any_size(residual.dla), images((8, 192), (16, 128))),
    "wide_resnet": (any_size(residual.wide_resnet), images((1, 32), (4, 32))),
    "repvgg": (any_size(residual.repvgg), images((24, 192), (48, 112))),
    "mlp_mixer": (tokens.MlpMixer, images((192, 224), (320, 128))),
    "swin": (tokens.Swin, images((32, 224), (64, 112))),
    "convmixer": (any_size(tokens.convmixer), images((128, 224), (256, 112))),
    "mobilevit": (any_size(tokens.mobilevit), images((12, 256), (24, 128))),
    "poolformer": (any_size(tokens.poolformer), images((24, 224), (48, 128))),
    "autoencoder": (any_size(pixels.autoencoder), images((16, 128), (48, 64))),
    "super_resolution": (any_size(pixels.SuperResolution), images((24, 96), (64, 48))),
    "yolo": (any_size(pixels.Yolo), images((8, 256), (16, 160))),
}
