"""The third set of networks of benchmarks/any_network.py: 22 families, in none of any_network_models.py,
any_network_blind.py and any_network_fresh.py.

Written down after their papers by someone who had read none of the code that draws kernels or networks for a fit
(latency/kernel_*.py), and committed before any prediction or timing of them; sizes were chosen by multiply-accumulates.
Depths are cut where a docstring says so.
"""

from __future__ import annotations

from benchmarks import any_network_third_convs as convs
from benchmarks import any_network_third_images as pixels
from benchmarks import any_network_third_mobile as mobile
from benchmarks import any_network_third_tokens as tokens
from benchmarks.any_network_blind import Shape, Sized, any_size, images

#: Families whose paper is also an entry of latency/kernel_space.py. Not filled in: it was not read.
RELATED: tuple[str, ...] = ()

#: family -> (how to make it of a width and an input size, its (width, input shape) pairs)
FAMILIES: dict[str, tuple[Sized, tuple[tuple[int, Shape], ...]]] = {
    "inception_v3": (any_size(convs.inception_v3), images((8, 224), (16, 139))),  # 1512.00567
    "dpn": (any_size(convs.dpn), images((24, 224), (32, 128))),  # 1707.01629
    "darknet": (any_size(convs.darknet), images((8, 192), (16, 128))),  # 1804.02767
    "eca_resnet_d": (any_size(convs.eca_resnet_d), images((16, 224), (32, 128))),  # 1812.01187, 1910.03151
    "bit": (any_size(convs.bit), images((16, 224), (32, 128))),  # 1912.11370
    "tresnet": (any_size(convs.tresnet), images((16, 224), (32, 128))),  # 2003.13630
    "mixnet": (any_size(mobile.mixnet), images((16, 192), (24, 128))),  # 1907.09595
    "repvit": (any_size(mobile.repvit), images((24, 224), (48, 160))),  # 2307.09283
    "mobilenet_v4": (any_size(mobile.mobilenet_v4), images((16, 224), (32, 192))),  # 2404.10518
    "pp_lcnet": (any_size(mobile.pp_lcnet), images((16, 224), (32, 160))),  # 2109.15099
    "peleenet": (any_size(mobile.peleenet), images((16, 224), (32, 160))),  # 1804.06882
    "fasternet": (any_size(mobile.fasternet), images((40, 224), (64, 160))),  # 2303.03667
    "mobilefacenet": (mobile.mobilefacenet, images((32, 112), (64, 112))),  # 1804.07573
    "fast_scnn": (any_size(pixels.FastScnn), ((16, (1, 3, 192, 384)), (32, (1, 3, 192, 192)))),  # 1902.04502
    "ssd": (pixels.Ssd, images((8, 300), (16, 160))),  # 1512.02325
    "pose": (any_size(pixels.pose), ((16, (1, 3, 256, 192)), (32, (1, 3, 128, 96)))),  # 1804.06208
    "attention_unet": (any_size(pixels.AttentionUnet), ((16, (1, 1, 128, 128)), (32, (1, 1, 64, 64)))),  # 1804.03999
    "fsrcnn": (any_size(pixels.fsrcnn), ((32, (1, 1, 128, 128)), (56, (1, 1, 64, 96)))),  # 1608.00367
    "segformer": (any_size(tokens.SegFormer), ((16, (1, 3, 192, 192)), (32, (1, 3, 96, 128)))),  # 2105.15203
    "efficientformer": (tokens.EfficientFormer, images((24, 224), (48, 128))),  # 2206.01191
    "ft_transformer": (tokens.FtTransformer, ((96, (1, 1, 1, 54)), (192, (1, 1, 1, 90)))),  # 2106.11959
    "bc_resnet": (any_size(tokens.bc_resnet), ((8, (1, 1, 40, 101)), (48, (1, 1, 40, 101)))),  # 2106.04140
}
