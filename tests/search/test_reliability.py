"""Whatever happens to a run, what was saved is whole, and going on gives what an undisturbed run gives."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import latency.predictor
from devices.errors import UserError
from latency.console import Ui
from latency.space import SearchSpace
from search import checkpoint, run, rundir, strategies
from search.api import search_data
from search.checkpoint import CheckpointError
from search.costs import Costs
from search.data import Data
from search.divergence import Diverged
from search.pipeline import Pipeline
from search.recipe import Recipe
from search.state import start
from search.trainer import SearchPhase
from tests.conftest import ROOT
from tests.search.conftest import SPACE_FILE, FakePredictor
from tests.search.test_run import Stop, same, target

FILES = ("architecture.json", "random_architecture.json", "metrics.jsonl")


def save_every(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Save every `steps` steps of a phase, whatever the clock says."""

    def tick(self: checkpoint.Saver) -> None:
        pipeline = self.write.__self__  # type: ignore[attr-defined]
        assert isinstance(pipeline, Pipeline)
        assert pipeline._phase is not None
        if pipeline._phase[1].step % steps == 0:
            self.write()

    monkeypatch.setattr(checkpoint.Saver, "tick", tick)


def stop_at(monkeypatch: pytest.MonkeyPatch, phase: str, step: int) -> None:
    """End the run, as a kill does, once it has written the row of `step`."""
    append = rundir.RunDir.append

    def cut(self: rundir.RunDir, row: dict) -> int:
        size = append(self, row)
        if (row["phase"], row.get("step")) == (phase, step):
            raise Stop
        return size

    monkeypatch.setattr(rundir.RunDir, "append", cut)


@pytest.mark.parametrize("name", strategies.names())
def test_every_strategy_resumes_bit_for_bit(
    name: str, space: SearchSpace, costs: Costs, bands: Data, quick: Recipe, tmp_path: Path
) -> None:
    def phase() -> SearchPhase:
        state = start(space, costs, num_classes=3, target_s=target(costs), recipe=quick, seed=0)
        return SearchPhase(state, strategies.load(name), bands, quick, [len(c.candidates) for c in space.choices])

    straight = phase()
    rows = [straight.advance() for _ in range(straight.total)]
    first = phase()
    for _ in range(7):
        first.advance()
    checkpoint.save(tmp_path / "c.pt", {"state": first.state_dict()})
    second = phase()
    second.load_state_dict(checkpoint.load(tmp_path / "c.pt")["state"])
    assert [second.advance() for _ in range(second.total - 7)] == rows[7:]
    assert same(second.state_dict(), straight.state_dict())


def test_a_corrupt_newest_checkpoint_falls_back_to_the_one_before(
    space: SearchSpace, predictor: FakePredictor, quick: Recipe, bands: Data, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    search_data(space, predictor, bands, recipe=quick, run_dir=whole)
    with monkeypatch.context() as patch:
        save_every(patch, 3)
        stop_at(patch, "search", 10)
        with pytest.raises(Stop):
            search_data(space, predictor, bands, recipe=quick, run_dir=broken)
    newest = broken / "checkpoint.pt"
    assert [checkpoint.load(p)["state"]["step"] for p in (checkpoint.before(newest), newest)] == [6, 9]
    flipped = bytearray(newest.read_bytes())
    flipped[len(flipped) // 2] ^= 1  # in the middle of a weight: the archive's structure stays whole
    for damage, content in (("cut", bytes(flipped[: len(flipped) // 2])), ("bit", bytes(flipped)), ("gone", None)):
        run_dir = tmp_path / damage
        shutil.copytree(broken, run_dir)
        (run_dir / "checkpoint.pt").unlink()
        if content is not None:
            (run_dir / "checkpoint.pt").write_bytes(content)
        search_data(space, predictor, bands, recipe=quick, run_dir=run_dir, resume=True, ui=Ui())
        warned = capsys.readouterr()
        assert "checkpoint.pt" in warned.err, damage
        assert "going on from the checkpoint before it" in warned.err, damage
        assert "resumed at step 6" in warned.out, damage
        for name in FILES:
            assert (run_dir / name).read_bytes() == (whole / name).read_bytes(), (damage, name)


def test_a_damaged_checkpoint_never_takes_the_place_of_the_good_one(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    for step in range(3):
        checkpoint.save(path, {"step": step})
    assert [checkpoint.load(p)["step"] for p in (path, checkpoint.before(path))] == [2, 1]
    path.write_bytes(b"nothing")
    assert checkpoint.load_newest(path)[0]["step"] == 1
    assert checkpoint.load(path)["step"] == 1
    checkpoint.save(path, {"step": 9})
    assert [checkpoint.load(p)["step"] for p in (path, checkpoint.before(path))] == [9, 1]
    for damaged in (path, checkpoint.before(path)):
        damaged.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"c\.pt is damaged.*--overwrite"):
        checkpoint.load_newest(path)


def test_a_diverged_run_keeps_its_last_good_checkpoint_and_goes_on_at_a_lower_rate(
    space: SearchSpace, predictor: FakePredictor, quick: Recipe, bands: Data, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Saving at every step, so that a step from a finite loss to weights that are no numbers meets a save."""
    wild = Recipe(**{**vars(quick), "train_lr": 1e38, "train_steps": 20})
    save_every(monkeypatch, 1)
    with pytest.raises(
        Diverged, match=r"(at|after) step \d+ of train_found.*--train-lr 3\.3e\+37 \(a third of 1e\+38\)"
    ):
        search_data(space, predictor, bands, recipe=wild, run_dir=tmp_path)
    for path in (tmp_path / "checkpoint.pt", checkpoint.before(tmp_path / "checkpoint.pt")):
        assert checkpoint.not_finite(checkpoint.load(path)["state"]) is None
    kept = checkpoint.load(tmp_path / "checkpoint.pt")
    assert kept["phase"] == "train_found"
    calm = Recipe(**{**vars(wild), "train_lr": 0.05})
    with pytest.raises(UserError, match=r"recipe\.batch_size: 16 there, 8 here; give the same options"):
        search_data(
            space, predictor, bands, recipe=Recipe(**{**vars(calm), "batch_size": 8}), run_dir=tmp_path, resume=True
        )
    # the rate was too high from the first step on: from the checkpoint of that step all is well
    checkpoint.before(tmp_path / "checkpoint.pt").replace(tmp_path / "checkpoint.pt")
    search_data(space, predictor, bands, recipe=calm, run_dir=tmp_path, resume=True, ui=Ui())
    assert "recipe.train_lr: 1e+38 there, 0.05 here" in capsys.readouterr().err
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["recipe"]["train_lr"], config["before"][0]["recipe"]["train_lr"]) == (0.05, 1e38)


def test_weights_that_are_no_numbers_are_not_saved(
    space: SearchSpace,
    predictor: FakePredictor,
    quick: Recipe,
    bands: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advance = SearchPhase.advance

    def poisoned(self: SearchPhase) -> dict:
        row = advance(self)
        if self.step == 7:
            with torch.no_grad():
                next(self.state.supernet.head.parameters()).fill_(float("nan"))
        return row

    monkeypatch.setattr(SearchPhase, "advance", poisoned)
    save_every(monkeypatch, 1)
    with pytest.raises(
        Diverged, match=r"head\S* is no number after step 6 of search, so not saved: .*--search-lr 0\.0083"
    ):
        search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path)
    assert checkpoint.load(tmp_path / "checkpoint.pt")["state"]["step"] == 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoints_whole(
    small_disk: Path,
    space: SearchSpace,
    predictor: FakePredictor,
    quick: Recipe,
    bands: Data,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Someone else fills the disk during the run. With room made, the run ends as an undisturbed one does."""
    folder, advance = small_disk / "r", SearchPhase.advance

    def greedy(self: SearchPhase) -> dict:
        if self.step == 7:
            free = os.statvfs(small_disk)
            (small_disk / "other").write_bytes(bytes(free.f_bavail * free.f_frsize - 16384))
        return advance(self)

    save_every(monkeypatch, 3)
    with monkeypatch.context() as patch:
        patch.setattr(SearchPhase, "advance", greedy)
        message = r"cannot write .*checkpoint\.pt \(0\.\d MB needed, 0\.0 MB free\): No space left on device; .* stands: make room"
        with pytest.raises(CheckpointError, match=message):
            search_data(space, predictor, bands, recipe=quick, run_dir=folder)
    assert not list(folder.glob("*.part"))
    assert [checkpoint.load(folder / name)["state"]["step"] for name in ("checkpoint_before.pt", "checkpoint.pt")] == [
        3,
        6,
    ]
    (small_disk / "other").unlink()
    resumed = search_data(space, predictor, bands, recipe=quick, run_dir=folder, resume=True)
    assert resumed.architecture == search_data(space, predictor, bands, recipe=quick).architecture


def test_a_file_that_may_not_grow_is_told_as_a_full_disk(tmp_path: Path) -> None:
    path, limits = tmp_path / "c.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint.save(path, {"step": 1})
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(CheckpointError, match=r"cannot write .* \(4\.0 MB needed, .*File too large; .*stands"):
            checkpoint.save(path, {"weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


PROGRAM = (
    "import sys, latency.predictor; from tests.search.conftest import FakePredictor; from search import run;"
    "latency.predictor.load_predictor = lambda path: FakePredictor(); sys.exit(run.main(sys.argv[1:]))"
)


def test_kill_9_and_resume_gives_what_an_undisturbed_run_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes killed in the search and, resumed, in the training (benchmarks/kill_resume.py: five times)."""
    (tmp_path / "mine.py").write_text(SPACE_FILE)
    monkeypatch.setattr(latency.predictor, "load_predictor", lambda path: FakePredictor())

    def options(name: str) -> list[str]:
        sizes = [
            "--image-size",
            "8",
            "--steps",
            "60",
            "--train-steps",
            "60",
            "--threads",
            "1",
            "--save-every-s",
            "0.05",
        ]
        folders = ["--space", f"{tmp_path}/mine.py:mine", "--runs", str(tmp_path), "--name", name]
        return ["--predictor", "fake.pkl", *sizes, *folders]

    assert run.main(options("whole")) == 0
    metrics, command = tmp_path / "broken" / "metrics.jsonl", [sys.executable, "-c", PROGRAM, *options("broken")]
    for more, row in (([], b'"phase": "search", "step": 70'), (["--resume"], b'"phase": "train_found", "step": 20')):
        process = subprocess.Popen([*command, *more], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (metrics.exists() and row in metrics.read_bytes()):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.005)
        process.kill()
        process.communicate()
    assert run.main([*options("broken"), "--resume"]) == 0
    for name in FILES:
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    ends = [checkpoint.load(tmp_path / folder / "checkpoint.pt") for folder in ("whole", "broken")]
    assert same(ends[0], ends[1])
