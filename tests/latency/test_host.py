from __future__ import annotations

import json

import pytest

from latency import profile
from latency.host import HostWatch, advice, host_state
from latency.table import LatencyTable, Row

QUIET = {"load_1min": 0.1, "cores": 2, "others": 0.0, "steal": 0.0}


def row(half_width, n=40, flags=("warm",)):
    return Row("Identity(in_channels=1)", "op", n, 1.0, 1 - half_width, 1 + half_width, 1.0, 1.0, 0.0, flags, 1)


GOOD, NOISY = row(0.01), row(0.06, flags=("warm", "noisy"))


def said(rows=(GOOD,), before=QUIET, after=QUIET, **more):
    return advice(rows, 0.02, 120.0, before, after, **more)


def test_a_quiet_host_and_narrow_intervals_need_no_advice():
    assert said() == []
    assert said(governor="not exposed", between={"n": 8, "spread": 0.005, "noise": 0.001}) == []
    assert said(between={"n": 8, "spread": 0.031, "noise": 0.03}) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            {"before": {**QUIET, "load_1min": 3.1}},
            "load average 3.1 on 2 cores before the start: expect wide intervals",
        ),
        ({"after": {**QUIET, "others": 0.34}}, "other processes had 34% of this machine's cores"),
        ({"after": {**QUIET, "steal": 0.07}}, "the hypervisor took 7% of the processor time"),
        ({"governor": "powersave"}, "the frequency governor is 'powersave'"),
        ({"rows": (GOOD, row(0.01, n=7))}, "1 of 2 rows rest on fewer than 10 samples"),
        ({"rows": (GOOD, row(0.3, n=4, flags=("warm", "noisy")))}, "measure anew with --overwrite"),
        ({"between": {"n": 8, "spread": 0.031, "noise": 0.01}}, "8 workloads differed by 3.1% in the middle"),
    ],
)
def test_each_trouble_has_its_line(arguments, line):
    (only,) = said(**arguments)
    assert line in only


def test_noisy_rows_are_told_what_budget_would_do():
    """+-6 % where 2 % was asked for: nine times the samples, and the confirmation: 2 min * 9 * 1.4 = 25.2."""
    (only,) = said(rows=(GOOD, NOISY))
    assert "1 of 2 rows did not reach +-2.0%" in only
    assert "--overwrite --budget-min 26 should do, or be content with --target-ci 0.06" in only


def test_a_phone_does_not_care_for_this_machines_load():
    busy = {**QUIET, "load_1min": 9.0, "others": 0.5, "steal": 0.5}
    assert said(before=busy, after=busy, governor="powersave", on_this_host=False) == []


def test_steal_that_is_not_told_is_not_zero_and_not_advice():
    assert said(after={**QUIET, "steal": None}) == []


def test_the_watch_sees_its_own_work():
    watch = HostWatch()
    total = 0
    while watch._now()[1] - watch._start[1] < 0.05:
        total += sum(range(1000))
    facts = watch.facts()
    assert facts["own"] > 0
    assert 0 <= facts["others"] <= 1
    assert {"load_1min", "cores", "mhz", "free_gib"} <= set(host_state()) <= set(facts)
    json.dumps(facts, allow_nan=False)


def test_a_profile_keeps_the_state_of_the_host_and_the_second_session(replay_toml, space_py, tmp_path, capsys):
    table = tmp_path / "fake.csv"
    args = ["--device", replay_toml, "--space", space_py, "--out", table, "--networks", 4, "--budget-min", 0.05]
    assert profile.main([str(a) for a in args]) == 0
    (session,) = LatencyTable(table).provenance()["sessions"]
    assert {"steal", "own", "others", "load_1min"} <= set(session["host_after"])
    assert session["between_sessions"]["n"] == 8
    assert session["between_sessions"]["spread"] < 0.1
    assert "8 workloads measured again in a second session" in capsys.readouterr().out
    assert all("warm" in row.flags for row in LatencyTable(table).rows())
