"""The fresh networks of benchmarks/any_network.py: 20 families, in neither any_network_models.py nor
any_network_blind.py.

Written down after their papers once the blind set had been looked at, and committed before any prediction of them was
made; sizes were chosen by multiply-accumulates. They share no code with latency/kernel_blocks.py. Depths are cut where
a docstring says so.
"""

from __future__ import annotations

from benchmarks import any_network_fresh_convs as convs
from benchmarks import any_network_fresh_images as pixels
from benchmarks import any_network_fresh_mobile as mobile
from benchmarks import any_network_fresh_tokens as tokens
from benchmarks.any_network_blind import Shape, Sized, any_size, images

#: Families whose paper is also an entry of latency/kernel_space.py, or whose every block is one of an entry (MnasNet's
#: are MobileNetV3's): their blocks, by other code, are among those drawn.
RELATED = ("resnet_se", "shufflenet_v1", "mnasnet")

#: family -> (how to make it of a width and an input size, its (width, input shape) pairs)
FAMILIES: dict[str, tuple[Sized, tuple[tuple[int, Shape], ...]]] = {
    "alexnet": (convs.alexnet, images((16, 224), (32, 160))),  # 1404.5997
    "resnet_se": (any_size(convs.resnet_se), images((16, 192), (32, 128))),  # 1709.01507
    "pyramidnet": (any_size(convs.pyramidnet), images((27, 32), (84, 32))),  # 1610.02915
    "res2net": (any_size(convs.res2net), images((8, 192), (14, 128))),  # 1904.01169
    "inception_resnet": (any_size(convs.inception_resnet), images((8, 192), (16, 139))),  # 1602.07261
    "resnest": (any_size(convs.resnest), images((16, 160), (32, 96))),  # 2004.08955
    "vovnet": (any_size(convs.vovnet), images((4, 192), (8, 112))),  # 1904.09730, 1911.06667
    "hardnet": (any_size(convs.hardnet), images((12, 224), (20, 128))),  # 1909.00948
    "shufflenet_v1": (any_size(mobile.shufflenet_v1), images((120, 224), (240, 160))),  # 1707.01083
    "mnasnet": (any_size(mobile.mnasnet), images((16, 224), (32, 128))),  # 1807.11626
    "fbnet": (any_size(mobile.fbnet), images((12, 192), (16, 128))),  # 1812.03443
    "tc_resnet": (any_size(mobile.tc_resnet), ((16, (1, 40, 98, 1)), (40, (1, 40, 392, 1)))),  # 1904.03814
    "bisenet": (any_size(pixels.BiSeNet), ((12, (1, 3, 128, 256)), (24, (1, 3, 96, 160)))),  # 1808.00897
    "retinanet": (any_size(pixels.RetinaNet), images((12, 160), (16, 128))),  # 1612.03144, 1708.02002
    "deeplab": (any_size(pixels.DeepLab), ((12, (1, 3, 160, 160)), (20, (1, 3, 96, 144)))),  # 1706.05587
    "style_transfer": (any_size(pixels.style_transfer), images((8, 128), (16, 64))),  # 1603.08155, 1607.08022
    "coatnet": (tokens.coatnet, images((8, 192), (16, 128))),  # 2106.04803
    "pvt": (tokens.Pvt, images((16, 224), (32, 128))),  # 2102.12122
    "levit": (tokens.LeViT, images((64, 224), (128, 160))),  # 2104.01136
    "cait": (tokens.CaiT, images((96, 224), (192, 160))),  # 2103.17239
}
