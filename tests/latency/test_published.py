from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency.fitting import Observation, fit_ops
from latency.ops import MBConv, mbconv
from latency.published import PublishedError, parse_key, read_published

KEY = "expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:5-stride:2-idskip:0"


def test_a_proxylessnas_key():
    assert parse_key(KEY) == mbconv(16, 24, 112, kernel=5, stride=2, expand=3)


def test_a_once_for_all_key_counts_width_not_ratio():
    op = parse_key("expanded_conv-input:10x10x136-output:5x5x192-expand:408-kernel:3-stride:2-idskip:0-se:1-hs:1")
    assert isinstance(op, MBConv)
    assert (op.mid_channels, op.se, op.act) == (408, 1, "hswish")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("dilated_conv-input:1x1x1-output:1x1x1", "unknown op 'dilated_conv'"),
        ("Conv-output:1x1x1", "field 'input' is missing"),
        ("Conv-input:axbxc-output:1x1x1", "not a size"),
        (KEY.replace("kernel:5", "kernel:five"), "'five' is not a whole number"),
        (KEY.replace("idskip:0", "idskip:1"), "a shortcut needs"),
        (KEY + "-kernel:3", "not one field:value"),
    ],
)
def test_bad_keys(key, says):
    with pytest.raises(PublishedError) as error:
        parse_key(key)
    assert says in str(error.value)


@given(st.one_of(st.text(max_size=60), st.text("0123456789x:-", max_size=30).map("expanded_conv-input:".__add__)))
def test_garbage_keys_are_named_errors(key):
    with pytest.raises(PublishedError):
        parse_key(key)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a look-up table"),
        ("a: [", "not YAML"),
        (f"{KEY}: {{mean: .nan, count: 3}}", "mean = nan"),
        (f"{KEY}: {{mean: 3}}", "needs mean and count"),
        (f"{KEY}: {{mean: 0, count: 3}}", "must be positive"),
        (f"'{KEY}': {{mean: 1, count: 3}}\n'{KEY}:': {{mean: 1, count: 3}}", "two keys mean"),
    ],
)
def test_bad_files(tmp_path, text, says):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(PublishedError) as error:
        read_published(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_the_pixel1_table(shared_data):
    """72 entries; the stem's mean is 4.0838 ms over 982 networks (mobile_trim.yaml, first entry)."""
    entries = read_published(shared_data / "pixel1" / "mobile_trim.yaml")
    assert len(entries) == 72
    assert entries[0].mean_s == pytest.approx(4.083755600814664e-3)
    assert entries[0].count == 982


def test_pixel1_ops_are_predicted_without_having_been_seen(shared_data):
    """Five folds stand in for leave-one-out here (0.8 %); the forests are ten times worse."""
    from latency.estimators import fit_forest, fit_gp

    entries = read_published(shared_data / "pixel1" / "mobile_trim.yaml")
    observations = [Observation((e.op,), e.mean_s, e.stderr_s) for e in entries]
    fit = fit_ops(observations, 5, {"gaussian_process": fit_gp, "random_forest": fit_forest})
    assert fit.chosen["MBConv"] == "gaussian_process"
    assert fit.op_mape < 0.02
    assert fit.cv_mape["MBConv"]["random_forest"] > 4 * fit.op_mape


@pytest.mark.parametrize("file", ["160", "208"])
def test_note10_keys_read(shared_data, file):
    assert len(read_published(shared_data / "note10" / f"{file}_lookup_table.yaml")) > 90
