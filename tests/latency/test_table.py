from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency.fit_sources import observations
from latency.ops import network_text
from latency.table import COLUMNS, LatencyTable, Row, TableError, parse_row
from tests.latency.test_ops import ops

FINGERPRINT = {"device": "cpu", "threads": 1}
ABOUT = {"space": "x"}
seconds = st.floats(1e-9, 1e3)


@st.composite
def rows(draw):
    chain = tuple(draw(st.lists(ops(), min_size=1, max_size=3)))
    low, mid, high = sorted(draw(st.tuples(seconds, seconds, seconds)))
    return Row(
        network_text(chain), "op" if len(chain) == 1 else "network", draw(st.integers(1, 999)), mid, low, high,
        draw(seconds), draw(seconds), draw(st.floats(-0.9, 5)), draw(st.sampled_from([(), ("noisy",), ("cold", "noisy")])), 1,
    )  # fmt: skip


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows(), unique_by=lambda r: r.op, max_size=5))
def test_rows_round_trip(tmp_path, made):
    table = LatencyTable(tmp_path / "t.csv")
    table.remove()
    table.start(FINGERPRINT, ABOUT)
    for row in made:
        table.append(row)
    assert table.rows() == made


def one_row(n=1) -> Row:
    op = f"Linear(in_channels={n},out_channels=2,height=1,width=1)"
    return Row(op, "op", 10, 2e-3, 1e-3, 3e-3, 1e-3, 1e-3, 0.0, (), 1)


@pytest.fixture
def table(tmp_path):
    made = LatencyTable(tmp_path / "t.csv")
    made.start(FINGERPRINT, ABOUT)
    made.append(one_row(1))
    made.append(one_row(2))
    return made


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped_and_the_next_row_starts_clean(table, cut):
    whole = table.path.read_bytes()
    table.path.write_bytes(whole[:-cut])
    assert table.rows() == [one_row(1)]
    assert table.start(FINGERPRINT, ABOUT) == 2
    table.append(one_row(3))
    assert table.rows() == [one_row(1), one_row(3)]


def test_finished_rows_are_kept_byte_for_byte(table):
    before = table.path.read_bytes()
    table.start(FINGERPRINT, ABOUT)
    table.append(one_row(3))
    assert table.path.read_bytes().startswith(before)


def test_another_fingerprint_is_refused_with_the_difference(table):
    with pytest.raises(TableError, match=r"threads: table has 1, here 2.*--out.*--overwrite"):
        table.start({"device": "cpu", "threads": 2}, ABOUT)
    table.json_path.unlink()
    with pytest.raises(TableError, match="no provenance"):
        table.start(FINGERPRINT, ABOUT)


def test_samples_round_trip(table):
    table.append_samples(1, 0, [("abc", 1e-3), ("def", 2.5e-3)])
    table.append_samples(1, 1, [("abc", 1.1e-3)])
    assert table.samples() == [(1, 0, "abc", 1e-3), (1, 0, "def", 2.5e-3), (1, 1, "abc", 1.1e-3)]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("median_s", "nan", "median_s = nan is not finite"),
        ("median_s", "fast", "median_s = 'fast' is not a number"),
        ("median_s", "-1", "below 0"),
        ("median_s", "0", "nothing takes no time"),
        ("ci_low_s", "1", "outside"),
        ("op", "Foo(x=1)", "unknown op kind 'Foo'"),
        ("kind", "net", "one of op, network"),
        ("n", "0", "below 1"),
    ],
)
def test_a_bad_cell_names_file_line_and_field(table, column, value, says):
    cells = one_row(3).cells()
    cells[COLUMNS.index(column)] = value
    with table.path.open("a") as file:
        file.write(",".join(f'"{c}"' for c in cells) + "\n")
    with pytest.raises(TableError) as error:
        table.rows()
    assert f"{table.path} line 4: " in str(error.value)
    assert says in str(error.value)


def test_other_damage(table, tmp_path):
    with pytest.raises(TableError, match="No such file"):
        LatencyTable(tmp_path / "none.csv").rows()
    table.append(one_row(1))
    with pytest.raises(TableError, match="line 4: measured already in line 2"):
        table.rows()
    table.path.write_text("")
    with pytest.raises(TableError, match="empty"):
        table.rows()
    table.path.write_text("a,b\n")
    with pytest.raises(TableError, match="line 1: the header"):
        table.rows()
    table.path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(TableError, match="not a text file"):
        table.rows()


@given(st.lists(st.text(max_size=30), max_size=12))
def test_garbage_rows_are_named_errors(cells):
    with pytest.raises(TableError):
        parse_row(cells)


def test_settled_rows_take_their_places_and_no_other_line_changes(table):
    """Two sessions; of the second, a row is put anew."""
    assert table.start(FINGERPRINT, ABOUT) == 2
    second = replace(one_row(3), session=2)
    for row in (second, replace(one_row(4), session=2)):
        table.append(row)
    before = table.path.read_bytes().split(b"\n")
    table.settle([replace(second, median_s=1.5e-3, n=99), replace(one_row(1), session=2, n=7)])
    after = table.path.read_bytes().split(b"\n")
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, True, True, False, True, True]
    assert table.rows()[2] == replace(second, median_s=1.5e-3, n=99)


def test_what_all_rows_have_in_common_is_left_out_for_fits(table):
    """By hand: 0.05 told, 0.04 of it common, 0.03 its own."""
    told = replace(one_row(), median_s=1.0, ci_low_s=math.exp(-0.05), ci_high_s=math.exp(0.05))
    assert told.own_half_s(0.04) == pytest.approx(math.sinh(0.03))
    assert told.own_half_s(0.0) == pytest.approx(math.sinh(0.05))
    assert told.own_half_s(1.0) == 0
    assert replace(told, flags=("in_context",)).own_half_s(0.04) == pytest.approx(math.sinh(0.05))
    assert table.scales() == {}, "tables of older versions say nothing of it"
    table.update_session(scale=0.04)
    assert table.scales() == {1: 0.04}
    assert [o.stderr_s for o in observations(table)] == pytest.approx([r.own_half_s(0.04) / 1.96 for r in table.rows()])
