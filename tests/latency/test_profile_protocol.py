"""The benchmark of the protocol, on the scripted device: it runs, and its judgement is right where the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.profile_protocol import LEVELS, PROTOCOLS, Timed, judge, main
from latency.flops import params
from latency.ops import network_text, parse_network
from tests.latency.conftest import true_s


def known(space, rng, in_context):
    """Ops by `true_s`; 30 networks whose ops take `in_context(op)` each."""
    chains = list(dict.fromkeys(network_text(space.random(rng).kernel_ops) for _ in range(30)))
    seconds = {str(op): true_s(op) for op in space.unique_ops()}
    seconds |= {c: sum(in_context(op) for op in parse_network(c)) for c in chains}
    return Timed(seconds, {k: 1e-3 * s for k, s in seconds.items()}), chains


def test_exact_sums_have_no_error(space, rng):
    timed, chains = known(space, rng, true_s)
    for found in judge(timed, chains, timed.seconds).values():
        assert found["mape"] == pytest.approx(0, abs=1e-3)
        assert found["spearman"] > 0.99


def test_each_level_takes_out_what_it_is_there_for(space, rng):
    """Half as long again in context: the line knows. Weights that come from memory: only the bytes know."""
    timed, chains = known(space, rng, lambda op: 1.5 * true_s(op))
    found = judge(timed, chains, timed.seconds)
    assert found["sum"]["bias"] == pytest.approx(1 / 1.5 - 1)
    assert found["line"]["mape"] < 1e-6
    timed, chains = known(space, rng, lambda op: true_s(op) + 2e-9 * params(op))
    found = judge(timed, chains, timed.seconds)
    assert found["bytes"]["mape"] < 1e-6 < found["line"]["mape"]


def test_a_run_is_kept_beside_those_before(replay_toml, space_py, tmp_path, capsys):
    out = tmp_path / "result.json"
    out.write_text('{"runs": [{"date": "2026-01-01"}]}')
    args = ["--device", str(replay_toml), "--space", space_py, "--networks", "12", "--seconds", "0.1", "--repeats", "1"]
    assert main([*args, "--out", str(out)]) == 0
    before, now = json.loads(out.read_text())["runs"]
    assert before == {"date": "2026-01-01"}
    for judgement in ("own_networks", "common_reference"):
        for protocol in PROTOCOLS:
            assert [set(found) for found in now[judgement][protocol]] == [set(LEVELS)]
    assert len(now["error_ratio"]) == 2 * len(LEVELS) * (len(PROTOCOLS) - 1)
    assert np.all(np.array(now["rounds"]) > 5)
    assert "run 2 added" in capsys.readouterr().out


def test_too_few_networks(capsys):
    assert main(["--networks", "3"]) == 2
    assert "--networks must be at least 10" in capsys.readouterr().err
