"""Two processes are one: the same alphas, weights and networks as one process on the same batches, but for rounding."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import latency.predictor
from devices.errors import UserError
from latency.console import Ui
from search import checkpoint, distributed, options, run, strategies
from tests.conftest import ROOT
from tests.search.conftest import SPACE_FILE, FakePredictor
from tests.search.test_data import photos
from tests.search.together import BAD, PHOTOS, everything, in_group

ROUNDING = 1e-4  # absolute, on alphas, probabilities and weights of order 1, after a few steps in float32


def largest_difference(a: Any, b: Any) -> float:
    if isinstance(a, torch.Tensor):
        return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((largest_difference(a[k], b[k]) for k in a), default=0.0)
    return 0.0 if a == b else float("inf")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    """What `together.everything` finds in one process, and in each of two of a gloo group."""
    folder = tmp_path_factory.mktemp("group")
    photos(folder / "photos", PHOTOS, BAD)
    (folder / "again").symlink_to(folder / "photos")
    torch.multiprocessing.start_processes(in_group, (str(folder), 2), nprocs=2, start_method="spawn")
    return everything(), [torch.load(folder / f"2-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", strategies.names())
def test_two_processes_find_the_alphas_of_one(name: str, found: tuple[dict, list[dict]]) -> None:
    one, two = found
    assert torch.equal(two[0][name]["alpha"], two[1][name]["alpha"])
    assert largest_difference(two[0][name]["weights"], two[1][name]["weights"]) == 0
    assert largest_difference(one[name], two[0][name]) < ROUNDING


def test_in_float64_two_processes_search_the_shipped_space_as_one_does(found: tuple[dict, list[dict]]) -> None:
    """Maps of 1x1 after 21 blocks enlarge rounding so much that float32 shows nothing here; of 1e-16 little is left."""
    one, two = found[0]["deep"], [r["deep"] for r in found[1]]
    assert largest_difference(two[0], two[1]) == 0
    assert two[0]["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert largest_difference(one["alpha"], two[0]["alpha"]) < 1e-8
    assert largest_difference(one["weights"], two[0]["weights"]) < 1e-8
    assert float(one["alpha"].std()) > 1e-3  # it has moved


def test_batch_norm_over_two_processes_is_batch_norm(found: tuple[dict, list[dict]]) -> None:
    """torch's own on all images: output, gradients, running statistics. Apart, it is another."""
    one, two = found
    assert largest_difference(one["norm"], two[0]["norm"]) < 1e-5
    assert largest_difference(one["norm"], two[1]["norm"]) < 1e-5
    assert largest_difference(one["norm"], two[0]["apart"]) > 0.01
    assert largest_difference(two[1]["apart"], two[0]["apart"]) == 0  # statistics are averaged


def test_what_the_processes_tell_each_other(found: tuple[dict, list[dict]]) -> None:
    _, two = found
    assert [r["first"] for r in two] == [0, 0]
    assert [r["share"] for r in two] == [[0, 2, 4], [1, 3]]
    assert [r["asked"] for r in two] == [15, 15]
    for r in two:
        assert r["differ"].startswith("after step 7 of search, process 1 of 2 holds other numbers")
    assert [r["failed"] for r in two] == [("UserError", "no such folder"), ("Elsewhere", "no such folder")]


def test_processes_count_corrupt_images_together_and_tell_each_once(found: tuple[dict, list[dict]]) -> None:
    _, two = found
    assert all(r["said"] for r in two)  # each has met some in its part
    said = sorted(line for r in two for line in r["said"])
    names = [line.split(" cannot be decoded ")[0].rpartition("/")[2] for line in said]
    assert sorted(names) == sorted(f"{i:02}.jpg" for i in BAD)
    counts = [int(line.split("left out, ")[1].split()[0]) for line in said]
    assert sorted(counts) == [1, 2, 3, 4, 5, 6]
    assert any("that makes 6, and --max-corrupt is 5" in r.get("too many", "") for r in two)  # no process met six


def test_a_silent_process_still_tells_the_corrupt_images_it_meets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos(tmp_path / "photos") / "ape" / "02.jpg").write_text("no image")
    ui = Ui()
    ui.warn = lambda text: None  # type: ignore[method-assign]  # as in all processes but 0
    flags = ["--data", f"imagefolder:{tmp_path}/photos", "--image-size", "8"]
    made = argparse.ArgumentParser()
    options.add_data(made)
    options.data_of(made.parse_args(flags), ui, channels=3, seed=0)
    (line,) = capsys.readouterr().err.splitlines()
    assert "ape/02.jpg cannot be decoded (cannot identify image file): left out, 1 so far" in line  # and no address


def test_one_process_needs_no_group() -> None:
    x = torch.rand(5, 2)
    assert distributed.world() == 1
    assert distributed.mean(x) is x
    assert torch.equal(x[distributed.slice_of(5)], x)
    assert distributed.first(lambda: 7) == 7
    distributed.check_batch(3, 100, "training")


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 4)
    distributed.check_batch(32, 1000, "training")
    with pytest.raises(
        UserError, match=r"33 training images a step cannot be shared by 4 processes: try --batch-size 32"
    ):
        distributed.check_batch(33, 1000, "training")
    with pytest.raises(UserError, match=r"30 search-validation images .* try --batch-size 28"):
        distributed.check_batch(64, 30, "search-validation")


def test_torchrun_restarts_a_killed_process_and_the_run_ends_as_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Process 1 of 2 is killed in the search; both start anew and go on from the checkpoint, to the end of training."""
    (tmp_path / "mine.py").write_text(SPACE_FILE)
    monkeypatch.setattr(latency.predictor, "load_predictor", lambda path: FakePredictor())

    def options(name: str) -> list[str]:
        sizes = [
            "--image-size",
            "8",
            "--steps",
            "8",
            "--train-steps",
            "4",
            "--batch-size",
            "16",
            "--save-every-s",
            "1e-6",
        ]
        folders = ["--space", f"{tmp_path}/mine.py:mine", "--runs", str(tmp_path), "--name", name]
        return ["--predictor", "fake.pkl", "--json", *sizes, *folders]

    assert run.main(options("one")) == 0
    told_one = json.loads(capfd.readouterr().out)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.search.together", *options("two")], cwd=ROOT, capture_output=True, text=True, check=False, timeout=150,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DIE_AT": "7"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    told_two = json.loads(done.stdout)  # one line, of process 0
    assert told_two["predicted_ms"] == told_one["predicted_ms"]
    for name in ("architecture.json", "random_architecture.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    rows = [
        [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in ("one", "two")
    ]
    assert len(rows[0]) == len(rows[1])
    for a, b in zip(*rows, strict=True):
        assert (a["phase"], a.get("step")) == (b["phase"], b.get("step"))
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0), abs=ROUNDING)
        assert a.get("expected_s", 0) == pytest.approx(b.get("expected_s", 0), rel=ROUNDING)
    ends = [checkpoint.load(tmp_path / folder / "checkpoint.pt") for folder in ("one", "two")]
    assert largest_difference(ends[0]["found_weights"], ends[1]["found_weights"]) < ROUNDING
