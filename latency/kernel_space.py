"""The `kernels` space: what public networks are made of, as stages of blocks at their published widths and sizes.

Random networks (latency/kernel_networks.py) are drawn around these: one entry's stages, widths and resolution moved
log-uniformly, blocks of other entries mixed in. Data; where the numbers are from stands with each entry. Networks of
other kinds (of time, tokens of all sorts, decoders, vectors): latency/kernel_kinds.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from latency.kernel_draws import ODD, Draw, StageRow, an_extra, log_uniform, width
from latency.kernel_kinds import KINDS, draw_kind


@dataclass(frozen=True)
class Family:
    """One public architecture: its stem, its stages, its head, the resolution it is published at."""

    name: str
    source: str
    resolution: int
    stem: str
    stem_channels: int
    stages: tuple[StageRow, ...]
    head: str = "pool"


def _family(
    name: str, source: str, resolution: int, stem: tuple[str, int], *stages: StageRow, head: str = "pool"
) -> Family:
    return Family(name, source, resolution, stem[0], stem[1], stages, head)


ZOO: tuple[Family, ...] = (
    _family("vgg", "1409.1556, table 1", 224, ("conv3", 64), ("plain", 64, 1, 1), ("plain_pool", 128, 2, 2),
            ("plain_pool", 256, 3, 2), ("plain_pool", 512, 3, 2), ("plain_pool", 512, 3, 2), head="dense"),
    _family("resnet18", "1512.03385, table 1", 224, ("conv7", 64), ("basic", 64, 2, 1), ("basic", 128, 2, 2),
            ("basic", 256, 2, 2), ("basic", 512, 2, 2)),
    _family("resnet50", "1512.03385, table 1", 224, ("conv7", 64), ("bottleneck", 256, 3, 1),
            ("bottleneck", 512, 4, 2), ("bottleneck", 1024, 6, 2), ("bottleneck", 2048, 3, 2)),
    _family("resnext50", "1611.05431, table 1", 224, ("conv7", 64), ("resnext", 256, 3, 1), ("resnext", 512, 4, 2),
            ("resnext", 1024, 6, 2), ("resnext", 2048, 3, 2)),
    _family("mobilenet", "1704.04861, table 1", 224, ("conv3s2", 32), ("separable", 64, 1, 1), ("separable", 128, 2, 2),
            ("separable", 256, 2, 2), ("separable", 512, 6, 2), ("separable", 1024, 2, 2)),
    _family("mobilenetv2", "1801.04381, table 2", 224, ("conv3s2", 32), ("inverted", 16, 1, 1), ("inverted", 24, 2, 2),
            ("inverted", 32, 3, 2), ("inverted", 64, 4, 2), ("inverted", 96, 3, 1), ("inverted", 160, 3, 2),
            ("inverted", 320, 1, 1), head="wide"),
    _family("mobilenetv3", "1905.02244, table 1", 224, ("conv3s2", 16), ("inverted", 24, 2, 2),
            ("inverted_se", 40, 3, 2), ("inverted_hswish", 80, 4, 2), ("inverted_se_hswish", 112, 2, 1),
            ("inverted_se_hswish", 160, 3, 2), head="wide"),
    _family("efficientnet", "1905.11946, table 1", 224, ("conv3s2", 32), ("inverted_se_silu", 16, 1, 1),
            ("inverted_se_silu", 24, 2, 2), ("inverted_se_silu", 40, 2, 2), ("inverted_se_silu", 80, 3, 2),
            ("inverted_se_silu", 112, 3, 1), ("inverted_se_silu", 192, 4, 2), head="wide"),
    _family("efficientnetv2", "2104.00298, table 4", 224, ("conv3s2", 24), ("fused", 24, 2, 1), ("fused", 48, 4, 2),
            ("fused", 64, 4, 2), ("inverted_se_silu", 128, 6, 2), ("inverted_se_silu", 160, 9, 1),
            ("inverted_se_silu", 256, 15, 2), head="wide"),
    _family("shufflenet", "1707.01083, table 1", 224, ("conv7", 24), ("shuffle1", 240, 4, 2), ("shuffle1", 480, 8, 2),
            ("shuffle1", 960, 4, 2)),
    _family("shufflenetv2", "1807.11164, table 5", 224, ("conv7", 24), ("shuffle2", 116, 4, 2),
            ("shuffle2", 232, 8, 2), ("shuffle2", 464, 4, 2), head="wide"),
    _family("densenet", "1608.06993, table 1", 224, ("conv7", 64), ("dense", 128, 6, 1), ("dense", 256, 12, 2),
            ("dense", 512, 24, 2), ("dense", 512, 16, 2)),
    _family("googlenet", "1409.4842, table 1", 224, ("conv7", 64), ("plain", 192, 1, 1), ("inception", 256, 2, 2),
            ("inception", 512, 5, 2), ("inception", 832, 2, 2)),
    _family("inceptionv3", "1512.00567, table 1", 299, ("conv3s2v", 32), ("plain", 64, 1, 1), ("plain_pool", 192, 1, 2),
            ("inception", 288, 3, 2), ("inception7", 768, 4, 2), ("inception", 1280, 2, 2)),
    _family("squeezenet", "1602.07360, table 1", 224, ("conv7", 96), ("fire", 128, 2, 1), ("fire", 256, 3, 2),
            ("fire", 384, 2, 2), ("fire", 512, 2, 1), head="conv"),
    _family("xception", "1610.02357, figure 5", 299, ("conv3s2v", 32), ("plain", 64, 1, 1), ("xception", 128, 1, 2),
            ("xception", 256, 1, 2), ("xception", 728, 8, 2), ("separable", 1024, 1, 2)),
    _family("senet", "1709.01507, table 1", 224, ("conv7", 64), ("basic_se", 64, 2, 1), ("basic_se", 128, 2, 2),
            ("basic_se", 256, 2, 2), ("basic_se", 512, 2, 2)),
    _family("convnext", "2201.03545, table 9", 224, ("patch4", 96), ("convnext", 96, 3, 1), ("convnext", 192, 3, 2),
            ("convnext", 384, 9, 2), ("convnext", 768, 3, 2), head="norm"),
    _family("vit", "2010.11929, table 1; 2012.12877, table 1", 224, ("patch16", 192), ("transformer", 192, 12, 1),
            head="tokens"),
    _family("vit_small", "2012.12877, table 1", 224, ("patch16", 384), ("transformer", 384, 12, 1), head="tokens"),
    _family("mixer", "2105.01601, table 1", 224, ("patch16", 256), ("mixer", 256, 8, 1), head="tokens"),
    _family("regnet", "2003.13678, table 3", 224, ("conv3s2", 32), ("regnet", 64, 1, 2), ("regnet", 160, 3, 2),
            ("regnet", 384, 7, 2), ("regnet", 768, 2, 2)),
    _family("ghostnet", "1911.11907, table 1", 224, ("conv3s2", 16), ("ghost", 24, 2, 2), ("ghost", 40, 2, 2),
            ("ghost", 80, 5, 2), ("ghost", 160, 5, 2)),
    _family("yolo", "1804.02767, table 1; 1911.11929", 256, ("conv3s2", 32), ("csp", 64, 1, 2), ("csp", 128, 2, 2),
            ("csp", 256, 3, 2), ("csp", 512, 2, 2), head="detect"),
    _family("unet", "1505.04597, figure 1", 160, ("conv3", 32), ("plain", 64, 1, 1), ("plain_pool", 128, 2, 2),
            ("plain_pool", 256, 2, 2), ("plain_pool", 256, 2, 2), head="unet"),
    _family("mobile_unet", "1801.04381 as encoder; 1802.02611", 192, ("conv3s2", 32), ("inverted", 24, 2, 2),
            ("inverted", 48, 2, 2), ("inverted", 96, 2, 2), head="unet_linear"),
)  # fmt: skip

#: Families whose kernels are in few others are drawn more often, by their head.
OFTEN = {"tokens": 1.3, "unet": 2.0, "unet_linear": 2.0, "norm": 2.0}

#: Of what is put between stages (kernel_draws.EXTRAS).
WITH_EXTRAS = 0.7  # of networks have extras; of these
AFTER_STAGE = 0.7  # of stages are followed by one
TINY = 0.2  # of networks are small enough that what each kernel starts with counts
OTHERS = sum(share for share, _ in KINDS.values())  # of networks are of other kinds
OBLONG = 0.15  # of networks take a map that is not square
OTHER_HEADS = {"segment": 0.06, "embed": 0.06, "flat": 0.06}  # in place of "pool"

#: Blocks that fit wherever a map of channels goes in and one comes out.
BLOCKS = tuple(sorted({row[0] for f in ZOO for row in f.stages} - {"transformer", "mixer"}))


def draw(rng: random.Random, family: Family | None = None) -> Draw:
    """A random network around an entry of the zoo; where `family` is None, around any of them, or of another kind."""
    if family is None and rng.random() < OTHERS:
        return draw_kind(rng)
    family = family or rng.choices(ZOO, [OFTEN.get(f.head, 1.0) for f in ZOO])[0]
    tiny = rng.random() < TINY
    wide = log_uniform(rng, 0.06, 0.4) if tiny else log_uniform(rng, 0.3, 1.25)
    tall = log_uniform(rng, 0.15, 0.3) if tiny else log_uniform(rng, 0.4, 1.15)
    patch = 16 if family.stem == "patch16" else 32 if family.resolution < 299 else 1
    if tiny:
        patch = 16 if family.stem == "patch16" or family.head.startswith("unet") else 8
    resolution = max(2 * patch, round(family.resolution * tall / patch) * patch, 16 if tiny else 48)
    across = max(2 * patch, round(resolution * log_uniform(rng, 0.4, 1.6) / patch) * patch)
    across = across if rng.random() < OBLONG else resolution
    in_channels = 1 if tiny and rng.random() < 0.5 else 3
    odd = rng.random() < ODD
    rows = family.stages[: rng.randint(1, 3)] if tiny else family.stages
    stages: list[StageRow] = []
    for block, channels, blocks, stride in rows:
        if block in BLOCKS and rng.random() < 0.3:
            block = rng.choice(BLOCKS)
        depth = max(1, min(blocks, 3, round(blocks * log_uniform(rng, 0.2, 1.0))))
        stages.append((block, width(rng, channels * wide * log_uniform(rng, 0.8, 1.25), odd), depth, stride))
    stem, stem_channels = family.stem, width(rng, family.stem_channels * wide, odd)
    if stem == "patch16":  # the width of tokens stays what it is
        step = rng.choice((64, 64, 32, 8))
        tokens = max(step, 16, round(family.stem_channels * wide / step) * step)
        stem_channels, stages = tokens, [(b, tokens, rng.randint(1, 3), s) for b, _, _, s in stages]
    else:
        stem = rng.choice(("conv3", "conv3s2")) if tiny else stem
        stages = _with_extras(rng, stages)
    others = list(OTHER_HEADS.items())
    heads = rng.choices(
        (family.head, *(h for h, _ in others)), (1 - sum(OTHER_HEADS.values()), *(p for _, p in others))
    )
    head = heads[0] if family.head == "pool" else family.head
    return Draw(
        family.name, resolution, across, in_channels, stem, stem_channels, tuple(stages), head, rng.randrange(2**31)
    )


def _with_extras(rng: random.Random, stages: list[StageRow]) -> list[StageRow]:
    """Extras between the stages of some networks; an extra has the channels of the stage before it."""
    if rng.random() >= WITH_EXTRAS:
        return stages
    found: list[StageRow] = []
    for row in stages:
        found.append(row)
        if rng.random() < AFTER_STAGE:
            found += [(an_extra(rng), row[1], 1, 1) for _ in range(rng.choice((1, 2)))]
    return found
