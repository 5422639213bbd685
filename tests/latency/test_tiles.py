"""How kernels are cut into register tiles, and what the network around a kernel reads."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency import kernels as k
from latency.features import feature_matrix
from latency.flops import bytes_moved, macs, params
from latency.frozen import TERMS, work_terms
from latency.kernel_context import in_network, network_kib
from latency.tiles import LANES, NAMES, Tiles, inside, product, tiles


def cut(op):
    return Tiles(*tiles(op))


def square(c_in, c_out, size, window=3, **more):
    strides, out = more.pop("strides", (1, 1)), more.pop("out", (size, size))
    return k.conv(c_in, c_out, window=(window, window), strides=strides, out=out, height=size, width=size, **more)


def test_a_convolution_by_hand():
    """32 -> 80 channels, 3 x 3 on 8 x 8. Rows: 22 of 24 places inside; 6 outputs inside a row and 2 at its ends.

    5 blocks of outputs: a set of 4 and one of 1. In a row: the 6 inner outputs are one turn at each of 3 places, the 2
    at the ends a turn at each of 2.
    """
    found = cut(square(32, 80, 8))
    assert found.multiplications == 22 * 22 * 32 * 5
    assert found.turns == 22 * (3 + 4) * 32 * 2
    assert found.accumulated == 2 * 64 * 5
    assert found.calls == 2 * 8 * 2
    assert found.product == found.unrolled == found.thin == found.acted == 0


def test_a_pointwise_convolution_takes_the_map_as_one_row():
    """64 -> 64 at 7 x 7: 49 outputs are 8 tiles of 6 and one of 1; 4 blocks of inputs are stored once."""
    found = cut(square(64, 64, 7, window=1, act="hswish"))
    assert (found.multiplications, found.turns) == (49 * 64 * 4, 9 * 64)
    assert (found.accumulated, found.calls, found.acted) == (49 * 4, 1, 49 * 64)


def test_channels_that_are_no_blocks_are_unrolled_and_multiplied():
    """27 -> 27 channels: no multiple of 4. 27 rows of 12, 12, 3; 64 columns are 4 blocks, two at a time."""
    found = cut(square(27, 27, 8))
    assert found.unrolled == 27 * 9 * 64
    assert found.product == 27 * 9 * 2 * (24 + 24 + 8)  # 3 x 2 vectors take the time of 8
    assert found.multiplications == 0


def test_an_image_is_read_as_it_is_by_each_set_of_blocks():
    stem = cut(square(3, 80, 32, strides=(2, 2), out=(16, 16)))
    assert stem.thin == 3 * 32 * 32 * 2
    assert stem.multiplications > 0


def test_a_dilation_larger_than_the_map_leaves_one_place_of_the_window():
    wide, point = cut(square(64, 64, 6, dilation=6)), cut(square(64, 64, 6, window=1))
    assert wide.multiplications == point.multiplications
    assert wide.turns > 3 * point.turns  # every output by itself


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 3), st.integers(1, 8), st.integers(0, 12))
def test_places_inside_the_map_are_counted_as_they_are(size, window, stride, dilation, before):
    out = max(1, size // stride)
    found = inside(size, out, window, stride, dilation, before)
    padded = [0] * 400
    padded[100 : 100 + size] = [1] * size
    assert found == [sum(padded[100 + o * stride - before + j * dilation] for j in range(window)) for o in range(out)]


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 300))
def test_a_product_takes_at_least_the_multiplications_asked_for(rows, inner, columns):
    found = product(rows, inner, columns)
    assert found >= rows * inner * math.ceil(columns / LANES)
    assert found == inner * product(rows, 1, columns)
    assert found <= product(rows + 12, inner, columns)


def test_a_single_row_is_what_its_weights_take():
    one, rows = (k.Gemm(in_channels=64, out_channels=32, height=h, width=1, network_kib=2**13) for h in (1, 2))
    assert cut(one).product == 0 < cut(rows).product
    assert cut(one).weights_middle == params(one)


@given(st.integers(0, 22))
def test_weights_come_from_somewhere(log_kib):
    op = k.Gemm(in_channels=64, out_channels=32, height=1, width=1)
    far = [cut(replace(op, network_kib=2**i)) for i in (log_kib, log_kib + 1)]
    for found in far:
        shares = (found.weights_near, found.weights_middle, found.weights_far)
        assert sum(shares) == pytest.approx(params(op))
        assert min(shares) >= 0
    assert far[1].weights_near <= far[0].weights_near
    assert far[1].weights_far >= far[0].weights_far
    assert cut(op).weights_near == cut(op).weights_middle == cut(op).weights_far == 0


def test_kernels_that_are_not_cut_have_no_tiles():
    shape = {"in_channels": 8, "out_channels": 8, "height": 4, "width": 4}
    assert tiles(k.Elementwise(**shape)) == (0.0,) * len(NAMES)
    assert cut(k.Softmax(**shape, batch=3)).rows == 48
    assert cut(k.Copy(**shape, copy="transpose")).rows == 4 * 4 * 8
    assert cut(k.Copy(in_channels=8, out_channels=8, height=4, width=1, copy="transpose")).rows == 4
    assert cut(k.Copy(**shape, copy="pad")).rows == 0


def test_what_a_network_reads_by_hand():
    """Weights 64 * 64 + 64 and 64 * 10 + 10 numbers, the largest map 2 * 64 * 64 of them: 50 KiB, nearest 64."""
    conv, last = square(64, 64, 8, window=1), k.Gemm(in_channels=64, out_channels=10, height=1, width=1)
    assert network_kib([conv, k.GlobalPool(in_channels=64, out_channels=64, height=8, width=8), last]) == 64
    assert in_network(conv, 64).network_kib == 64
    assert in_network(k.View(), 64).network_kib == 64
    assert macs(in_network(conv, 64)) == macs(conv)
    assert network_kib([]) == 1


def test_what_moves_in_blocks_moves_whole_blocks():
    """19 channels are 32; a resize that interpolates computes each number, another copies it."""
    shape = {"in_channels": 19, "out_channels": 19, "height": 6, "width": 4}
    assert cut(k.Copy(**shape, copy="reorder_out")).filled == 32 * 24
    assert cut(k.Copy(**shape, copy="slice")).filled == 0
    larger = {**shape, "out_height": 12, "out_width": 8}
    nearest, linear = (k.Resize(**larger, blocked=1, resize=how) for how in ("nearest", "linear"))
    assert (cut(nearest).filled, cut(nearest).interpolated) == (32 * 96, 0)
    assert (cut(linear).filled, cut(linear).interpolated) == (0, 32 * 96)
    plain = cut(replace(linear, blocked=0))
    assert (plain.filled, plain.interpolated) == (0, 0)


def test_products_are_told_by_their_tiles_too():
    """30 rows are 3 tiles, 40 columns are 3 blocks: 2 tiles across."""
    one = cut(k.MatMul(batch=1, in_channels=8, out_channels=40, height=30, width=1))
    assert one.pieces == 3 * 2
    assert cut(k.MatMul(batch=5, in_channels=8, out_channels=40, height=30, width=1)).pieces == 30
    assert cut(square(32, 80, 8)).pieces == 0


def test_a_larger_network_makes_starts_and_bytes_dearer():
    """By 2**13 KiB all come from the middle, by 2**16 from afar; beyond 512 KiB an op spills."""
    op = k.Elementwise(in_channels=64, out_channels=64, height=64, width=64)
    near, middle, far = (cut(replace(op, network_kib=2**i)) for i in (8, 13, 17))
    moved = bytes_moved(op)
    assert (near.starts_middle, near.starts_far, near.bytes_middle, near.bytes_far) == (0, 0, 0, 0)
    assert (middle.starts_middle, middle.bytes_middle, middle.bytes_far) == (1, moved, 0)
    assert (far.starts_far, far.bytes_far, far.bytes_middle) == (1, moved, 0)
    assert cut(op).spilled == moved - 2**19 > 0
    assert cut(replace(op, height=1, width=1)).spilled == 0


def test_work_of_kernels_grows_with_the_network():
    """Whatever rates of work are fitted, none below zero: a larger network is no faster."""
    op = k.Copy(in_channels=64, out_channels=64, height=64, width=64, copy="slice")
    rng = np.random.default_rng(0)
    for _ in range(20):
        rates = rng.random(len(TERMS))
        work = [work_terms(feature_matrix([replace(op, network_kib=2**i)])) @ rates for i in (9, 13, 16)]
        assert work[0] < work[1]
        assert work[0] < work[2]
