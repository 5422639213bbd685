"""The fourth set of networks of benchmarks/any_network.py: 16 families at three widths and sizes each, in none of the
other sets.

Written down after their papers by someone who had read none of the code that draws kernels or networks for a fit
(latency/kernel_*.py), and committed before any prediction of them; sizes were chosen so that an inference takes 1 to
150 ms. The first eight families are of the kinds that the claim names: residual, inverted residual, dense,
inception-like, shuffle, VGG-like, squeeze, a small vision transformer.
"""

from __future__ import annotations

from benchmarks import any_network_fourth_convs as convs
from benchmarks import any_network_fourth_images as pixels
from benchmarks import any_network_fourth_mobile as mobile
from benchmarks import any_network_fourth_tokens as tokens
from benchmarks.any_network_blind import Shape, Sized, any_size, images

#: Families whose paper is also an entry of latency/kernel_space.py. Not filled in: it was not read.
RELATED: tuple[str, ...] = ()

#: family -> (how to make it of a width and an input size, its (width, input shape) pairs)
FAMILIES: dict[str, tuple[Sized, tuple[tuple[int, Shape], ...]]] = {
    "resnet_v2": (any_size(convs.resnet_v2), images((32, 224), (48, 160), (64, 96))),  # 1603.05027
    "efficientnet_lite": (any_size(mobile.efficientnet_lite), images((50, 256), (100, 160), (110, 192))),  # 1905.11946
    "densenet_bc": (any_size(convs.densenet_bc), images((12, 64), (24, 96), (32, 64))),  # 1608.06993
    "bn_inception": (any_size(convs.bn_inception), images((24, 224), (32, 160), (64, 128))),  # 1502.03167
    "esnet": (any_size(mobile.esnet), images((25, 256), (50, 224), (100, 160))),  # 2111.00902
    "vgg_bn": (convs.vgg_bn, images((24, 192), (32, 96), (64, 64))),  # 1409.1556
    "squeezenext": (any_size(convs.squeezenext), images((32, 224), (48, 160), (64, 128))),  # 1803.10615
    "deit": (tokens.Deit, images((192, 224), (256, 160), (384, 96))),  # 2012.12877
    "yolox": (any_size(pixels.YoloX), images((16, 256), (24, 160), (32, 128))),  # 2107.08430
    "u2net": (any_size(pixels.U2Net), images((8, 160), (16, 128), (24, 64))),  # 2005.09007
    "imdn": (any_size(pixels.Imdn), images((16, 128), (32, 96), (64, 64))),  # 1909.11856
    "mobileone": (any_size(mobile.mobileone), images((0, 224), (1, 160), (3, 128))),  # 2206.04040
    "blazeface": (any_size(mobile.BlazeFace), images((24, 256), (32, 192), (48, 128))),  # 1907.05047
    "mobilevit_v2": (any_size(tokens.mobilevit_v2), images((50, 256), (75, 192), (100, 128))),  # 2206.02680
    "convnext_v2": (any_size(tokens.convnext_v2), images((40, 224), (48, 160), (64, 128))),  # 2301.00808
    "bert": (any_size(tokens.Bert), ((128, (1, 1, 256, 1)), (256, (1, 1, 128, 1)), (384, (1, 1, 64, 1)))),  # 1810.04805
}
