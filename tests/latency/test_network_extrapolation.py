"""Networks with something rare, left out at once: nothing of it is in the fit that predicts them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from latency import network_extrapolation as module
from latency.joint import MIN_OPS, Observation, fit_joint
from latency.network_extrapolation import MAX_GROUPS, network_extrapolation, op_traits, rare_traits
from latency.op_fit import OpFit, fit_ops
from latency.ops import Conv2d
from latency.predictor import UnsupportedOp, from_fit
from tests.latency.conftest import small_space, true_s

NO_OPS = OpFit({}, {}, {}, None)


def networks(n, surcharge=1.0, seed=0, noise=0.003):
    """Every third network holds ops of kernel 7, which take `surcharge` times what others of their work would."""
    space, rng, noisy = small_space(), random.Random(seed), np.random.default_rng(seed)
    found = []
    for i in range(n):
        ops = [rng.choice([op for op in c.candidates if op.kernel < 7]) for c in space.choices]
        if i % 3 == 0:
            place = rng.randrange(len(ops))
            ops[place] = rng.choice([op for op in space.choices[place].candidates if op.kernel == 7])
        seconds = 1e-4 + sum(seconds_of(op, surcharge) for op in ops)
        found.append(Observation(tuple(ops), seconds * float(np.exp(noise * noisy.standard_normal())), 1e-3 * seconds))
    return found


def seconds_of(op, surcharge):
    return true_s(op) * (surcharge if op.kernel == 7 else 1.0)


def lone(surcharge=1.0):
    every = [(op, seconds_of(op, surcharge)) for op in small_space().unique_ops()]
    return [Observation((op,), s, 2e-3 * s) for op, s in every]


def test_a_trait_splits_networks_into_those_that_hold_it_and_those_that_do_not():
    nets = networks(60)
    traits = rare_traits(nets)
    assert "MBConv kernel 7" in [t.name for t in traits]
    assert len({t.ops for t in traits}) == len(traits), "the same ops are named once"
    for trait in traits:
        values = {tuple(op_traits(op)[v.split()[0]] == v.split()[1] for v in trait.values) for op in trait.ops}
        assert all(all(v) for v in values)
        for net, held in zip(nets, trait.held, strict=True):
            assert bool(trait.ops & set(net.ops)) == held


@pytest.mark.parametrize("with_ops", [False, True])
def test_nothing_of_the_trait_is_in_the_fit(with_ops, monkeypatch):
    fits = []

    def spied(observations, **options):
        fits.append({op for o in observations for op in o.ops})
        return fit_joint(observations, **options)

    monkeypatch.setattr(module, "fit_joint", spied)
    nets, ops = networks(90), lone() if with_ops else []
    found = network_extrapolation([*ops, *nets], fit_ops(ops, 3) if ops else NO_OPS)
    assert 1 <= len(found) == len(fits) <= MAX_GROUPS
    by_name = {t.name: t for t in rare_traits(nets)}
    for name, fitted in zip(found, fits, strict=True):
        assert not by_name[name].ops & fitted
        assert found[name]["networks"] == by_name[name].held.sum()
        assert found[name]["told"] + found[name]["refused"] <= found[name]["networks"]


@pytest.mark.parametrize("with_ops", [False, True])
def test_the_figure_is_of_the_trait_and_stands_beside_that_of_other_networks(with_ops):
    """A surcharge that no other op tells of is an error of networks with it; without it there is none."""
    figures = []
    for surcharge in (1.0, 3.0):
        ops = lone(surcharge) if with_ops else []
        op_fit = fit_ops(ops, 3) if ops else NO_OPS
        figures.append(network_extrapolation([*ops, *networks(90, surcharge)], op_fit)["MBConv kernel 7"])
    plain, dear = figures
    assert plain["mape"] < 0.03
    assert plain["coverage_90"] > 0.7
    assert dear["mape"] > 0.15
    assert dear["other_mape"] < 0.03
    assert dear["refused"] == 0


def test_what_a_predictor_would_refuse_is_told_anyway():
    nets = networks(90)
    without = [o for o in nets if all(op.kernel != 7 for op in o.ops)]
    predictor = from_fit("fold", fit_joint(without, calibrate=False))
    with pytest.raises(UnsupportedOp, match="kernel 3, 5"):
        predictor.network_s(nets[0].ops)
    found = network_extrapolation(nets, NO_OPS)["MBConv kernel 7"]
    assert found["networks"] == 30
    assert found["mape"] is not None


def test_a_kind_of_which_nothing_is_left_is_refused():
    conv = Conv2d(in_channels=8, out_channels=8, height=8, width=8, kernel=3)
    nets = networks(60)
    nets = [Observation((conv, *o.ops), o.seconds + 1e-4, o.stderr_s) if i % 4 == 0 else o for i, o in enumerate(nets)]
    found = network_extrapolation(nets, NO_OPS)["Conv2d"]
    assert found == {"networks": 15, "told": 0, "refused": 15, "mape": None, "coverage_90": None}


def test_the_same_figures_every_time_and_none_of_too_few():
    nets = networks(70)
    assert network_extrapolation(nets, NO_OPS) == network_extrapolation(nets, NO_OPS)
    assert network_extrapolation(nets[:20], NO_OPS) == {}, "too few would be left to fit"
    assert network_extrapolation(lone(), fit_ops(lone(), MIN_OPS)) == {}
