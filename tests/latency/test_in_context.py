"""Kernels of a network dealt out to its blocks."""

from __future__ import annotations

import pytest

from devices.base import DeviceError
from latency.in_context import NotAttributed, deal, node_seconds
from latency.ops import Add, Conv2d, Linear, mbconv
from latency.wiring import parallel

STEM = Conv2d(in_channels=3, out_channels=16, height=28, width=28, kernel=3, stride=2)
BLOCK = mbconv(16, 16, 14, kernel=3, stride=1, expand=3)
HEAD = Linear(in_channels=16, out_channels=10, height=14, width=14)
CHAIN = (STEM, BLOCK, BLOCK, HEAD)
#: What the converter makes of each op alone; inside a network the Linear's TRANSPOSE is gone.
ALONE = {
    STEM: ["PAD", "CONV_2D"],
    BLOCK: ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD"],
    HEAD: ["TRANSPOSE", "MEAN", "FULLY_CONNECTED"],
}


class Session:
    def __init__(self, kinds, error=None):
        self.kinds, self.error = kinds, error

    def kernels_s(self, loops):
        if self.error:
            raise self.error
        return [(kind, float(2**i)) for i, kind in enumerate(self.kinds)]


def kernels_of(*kinds):
    return Session(kinds).kernels_s(1)


def test_kernels_are_dealt_out_in_order_and_no_second_is_lost():
    whole = [k for op in CHAIN for k in ALONE[op] if k != "TRANSPOSE"]
    alone = {op: Session(kinds) for op, kinds in ALONE.items()}
    found = node_seconds(CHAIN, Session(whole), alone, 5)
    assert found == {"0": 3.0, "1": 4 + 8 + 16 + 32, "2": 60.0 * 16, "3": 1024.0 + 2048.0}
    assert sum(found.values()) == sum(s for _, s in Session(whole).kernels_s(1))


def test_kernels_of_xnnpack_lose_their_borders_too():
    kinds = {STEM: ["Convert (NC, F32, QS8)", "Convolution (NHWC, QS8) IGEMM", "Convert (NC, QS8, F32)"]}
    for whole in (kinds[STEM], kinds[STEM][1:], kinds[STEM][:2], kinds[STEM][1:2]):
        assert len(deal([STEM], kernels_of(*whole), kinds)) == 1
    with pytest.raises(NotAttributed):
        deal([STEM], kernels_of(kinds[STEM][0]), kinds)


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        (["PAD", "CONV_2D", "CONV_2D", "CONV_2D"], "block 2, MBConv.* inside the network CONV_2D, CONV_2D"),
        (["PAD", "CONV_2D", *ALONE[BLOCK], "SOFTMAX"], "the network runs 7 kernels, its 2 blocks together 6"),
        (["PAD", "CONV_2D"], "inside the network nothing"),
    ],
)
def test_a_list_that_is_not_the_blocks_is_refused(whole, says):
    with pytest.raises(NotAttributed, match=says):
        deal([STEM, BLOCK], kernels_of(*whole), ALONE)


def test_what_cannot_be_known_is_refused():
    alone = {op: Session(kinds) for op, kinds in ALONE.items()}
    with pytest.raises(NotAttributed, match="was not run alone"):
        node_seconds(CHAIN, Session([]), {STEM: alone[STEM]}, 5)
    tree = (STEM, *parallel((BLOCK,), (BLOCK,), close=Add(in_channels=16, out_channels=16, height=14, width=14)))
    with pytest.raises(NotAttributed, match="branches"):
        node_seconds(tree, Session([]), alone, 5)
    with pytest.raises(DeviceError, match="no table"):
        node_seconds(CHAIN, Session([], DeviceError("no table")), alone, 5)
    assert node_seconds(CHAIN, object(), alone, 5) == {}
