"""The pipeline and the command: same seed same result, resuming bit for bit, and every mistake in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from devices.errors import UserError
from latency.console import Ui
from latency.space import SearchSpace, load_architecture
from search import api, checkpoint, run, rundir
from search.api import Options, search, search_data
from search.costs import Costs, make_costs
from search.data import Data, DataError
from search.divergence import Diverged
from search.pipeline import Pipeline
from search.recipe import Recipe, RecipeError, alpha_rate, for_data
from search.state import start
from search.strategies import load
from search.trainer import SearchPhase, TrainPhase, accuracy, fair_path
from tests.conftest import ROOT
from tests.search.conftest import SPACE_FILE, FakePredictor, make_space


def target(costs: Costs) -> float:
    return 0.6 * costs.expected_s(costs.uniform_LK) + 0.4 * costs.network_s(costs.fastest)


def phase(space: SearchSpace, costs: Costs, data: Data, recipe: Recipe, seed: int = 0) -> SearchPhase:
    state = start(space, costs, num_classes=3, target_s=target(costs), recipe=recipe, seed=seed)
    return SearchPhase(state, load("proxyless_g"), data, recipe, [len(c.candidates) for c in space.choices])


def same(a: object, b: object) -> bool:
    """Equal to the bit, tensors included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_every_candidate_is_warmed_up_equally_often() -> None:
    counts = [2, 3, 1]
    paths = [fair_path(counts, 0, step) for step in range(12)]
    for block, n in enumerate(counts):
        for cycle in range(12 // n):
            assert sorted(path[block] for path in paths[cycle * n : cycle * n + n]) == list(range(n))
    assert paths != [fair_path(counts, 1, step) for step in range(12)]


def test_the_recipe_follows_the_data() -> None:
    paper = for_data(1_281_167)
    assert (paper.batch_size, paper.alpha_every, paper.label_smoothing) == (256, 5, 0.1)
    epoch = 1_281_167 // 256
    assert (paper.warmup_steps, paper.search_steps, paper.alpha_from_step) == (40 * epoch, 120 * epoch, epoch)
    assert paper.alpha_lr == pytest.approx(1e-3)
    assert for_data(45_000, device="cuda").alpha_lr == pytest.approx(6e-3, rel=0.02)
    assert for_data(1000).search_steps < 1000
    assert for_data(1000, alpha_lr=0.5, batch_size=8).alpha_lr == 0.5
    half = for_data(1000, search_steps=for_data(1000).search_steps // 2)
    assert half.warmup_steps == for_data(1000).warmup_steps // 2
    assert alpha_rate(1) == 0.1
    # arXiv 1812.00332: dropout of the released networks, cutout on CIFAR-10, REINFORCE's rate
    assert [for_data(1_281_167, space=f"proxyless{s}").dropout for s in ("", "_cpu", "_gpu")] == [0.1, 0.2, 0.3]
    assert (for_data(45_000).cutout, for_data(45_000).dropout, paper.cutout) == (0.5, 0.0, 0.0)
    faster = for_data(45_000, strategy="proxyless_r", device="cuda").alpha_lr
    assert faster / for_data(45_000, device="cuda").alpha_lr == pytest.approx(10 / 6)
    assert for_data(45_000, device="cuda").train_steps == 300 * (45_000 // 256)
    assert for_data(45_000).train_steps == 30 * (45_000 // 256)


@pytest.mark.parametrize("n", [1000, 45_000, 1_281_167])
def test_learning_rates_scale_with_the_batch(n: int) -> None:
    """lr = base * batch / base batch (Goyal et al., arXiv 1706.02677); a rate that is given stays."""
    base = for_data(n)
    double = for_data(n, batch_size=2 * base.batch_size, search_lr=0.3)
    assert (double.train_lr, double.warmup_lr, double.search_lr) == (2 * base.train_lr, 2 * base.warmup_lr, 0.3)
    if n > 10_000:
        assert (base.batch_size, base.train_lr, base.search_lr) == (256, 0.05, 0.025)


def test_a_number_that_no_run_can_use_is_named() -> None:
    for wrong in (
        {"search_steps": 0},
        {"batch_size": 1},
        {"alpha_lr": float("nan")},
        {"train_lr": 0.0},
        {"warmup_steps": -1},
        {"dropout": 1.0},
        {"ema": 1.0},
        {"clip_norm": -1.0},
    ):
        with pytest.raises(RecipeError, match=next(iter(wrong)).replace("_", "-")):
            for_data(1000, **wrong)


def test_resuming_is_bit_identical(
    space: SearchSpace, costs: Costs, bands: Data, quick: Recipe, tmp_path: Path
) -> None:
    """Stopped anywhere and read back from disk, weights, alphas, optimisers and lambda come out the same."""
    straight = phase(space, costs, bands, quick)
    rows = [straight.advance() for _ in range(straight.total)]
    for stop in (2, 5, 7):
        first = phase(space, costs, bands, quick)
        for _ in range(stop):
            first.advance()
        checkpoint.save(tmp_path / "c.pt", {"state": first.state_dict()})
        second = phase(space, costs, bands, quick)
        second.load_state_dict(checkpoint.load(tmp_path / "c.pt")["state"])
        assert [second.advance() for _ in range(second.total - stop)] == rows[stop:]
        assert same(second.state_dict(), straight.state_dict())
    assert not same(
        phase(space, costs, bands, quick, seed=1).state_dict(), phase(space, costs, bands, quick).state_dict()
    )


def test_global_randomness_is_neither_used_nor_disturbed(
    space: SearchSpace, costs: Costs, bands: Data, quick: Recipe
) -> None:
    def final() -> dict[str, object]:
        one = phase(space, costs, bands, quick)
        for _ in range(6):
            one.advance()
        return one.state_dict()

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = final()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(final(), first)


def test_the_search_phase_warms_up_then_alternates(
    space: SearchSpace, costs: Costs, bands: Data, quick: Recipe
) -> None:
    searching = phase(space, costs, bands, quick)
    alpha = searching.state.supernet.alpha_LK.detach().clone()
    rows = [searching.advance() for _ in range(quick.warmup_steps)]
    assert torch.equal(searching.state.supernet.alpha_LK.detach(), alpha)
    rows += [searching.advance() for _ in range(quick.search_steps)]
    assert [row["phase"] for row in rows] == ["warmup"] * 4 + ["search"] * 8
    assert ["expected_s" in row for row in rows] == [False] * 4 + [False, True] * 4
    assert not torch.equal(searching.state.supernet.alpha_LK.detach(), alpha)


def test_search_meets_the_target_whatever_it_is(space: SearchSpace, costs: Costs, bands: Data) -> None:
    recipe = Recipe(
        batch_size=8, warmup_steps=0, search_steps=120, train_steps=0, alpha_every=1, alpha_lr=0.1, dual_rate=0.5,
        search_lr=0.01,
    )  # fmt: skip
    fastest, slowest = costs.network_s(costs.fastest), costs.network_s(costs.slowest)
    for share in (0.35, 0.65):
        wanted = fastest + share * (slowest - fastest)
        state = start(space, costs, num_classes=3, target_s=wanted, recipe=recipe, seed=0)
        one = SearchPhase(state, load("proxyless_g"), bands, recipe, [len(c.candidates) for c in space.choices])
        for _ in range(one.total):
            row = one.advance()
        assert row["expected_s"] == pytest.approx(wanted, rel=0.1)


def test_training_learns_and_evaluation_leaves_the_network_alone(space: SearchSpace, bands: Data) -> None:
    recipe = Recipe(batch_size=32, warmup_steps=0, search_steps=1, train_steps=60, train_lr=0.05, augment=False)
    one = TrainPhase("x", space.architecture([0, 1, 4]).ops, bands, recipe, seed=0)
    while one.step < one.total:
        one.advance()
    before = {k: v.clone() for k, v in one.network.state_dict().items()}
    assert accuracy(one.network, bands.test) > 0.8
    assert accuracy(one.network, bands.test, batch_size=5) == accuracy(one.network, bands.test)  # eval-mode batch norm
    assert same(dict(one.network.state_dict()), before)
    assert one.network.training


def test_a_loss_that_is_no_number_stops_with_the_step(
    space: SearchSpace, costs: Costs, bands: Data, quick: Recipe
) -> None:
    searching = phase(space, costs, bands, quick)
    searching.advance()
    with torch.no_grad():
        next(searching.state.supernet.head.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match=r"step 1 of warmup.*learning rate"):
        searching.advance()


def run_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_python_api_on_a_users_space_and_dataset(
    space: SearchSpace, predictor: FakePredictor, quick: Recipe, tmp_path: Path
) -> None:
    x = torch.rand(60, 3, 16, 16)
    train, test = TensorDataset(x, torch.arange(60) % 3), TensorDataset(x[:12], torch.arange(12) % 3)
    costs = make_costs(space, predictor)
    wanted = target(costs)
    folder = tmp_path / "run"
    result = search(space, predictor, train, test, target_s=wanted, recipe=quick, run_dir=folder)
    assert result.predicted_s <= wanted
    assert result.predicted_s == pytest.approx(predictor.network_s(result.architecture.ops)[0])
    assert result.random_predicted_s <= wanted
    assert 0 <= result.test_accuracy <= 1
    assert result.network(x[:2]).shape == (2, 3)
    assert run_files(folder) == {
        "config.json", "metrics.jsonl", "checkpoint.pt", "checkpoint_before.pt", "architecture.json", "random_architecture.json", "network.onnx",
        "report.html",
    }  # fmt: skip
    assert load_architecture(folder / "architecture.json") == result.architecture
    again = search(space, predictor, train, test, target_s=wanted, recipe=quick)  # keeps no files
    assert again.architecture == result.architecture
    assert (again.probs_LK == result.probs_LK).all()
    assert (again.test_accuracy, again.random_test_accuracy) == (result.test_accuracy, result.random_test_accuracy)


def test_export_agrees_with_the_trained_network(
    space: SearchSpace, predictor: FakePredictor, quick: Recipe, bands: Data, tmp_path: Path
) -> None:
    import onnxruntime as ort

    result = search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path / "r")
    session = ort.InferenceSession(str(tmp_path / "r" / "network.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == list(space.input_shape)
    x = torch.rand(space.input_shape)
    with torch.no_grad():
        ours = result.network(x)
    assert torch.allclose(torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), ours, atol=1e-4)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [("search", 7), ("train_found", 2), ("train_random", 3)])
def test_a_run_killed_anywhere_resumes_to_the_same_files(
    space: SearchSpace, predictor: FakePredictor, quick: Recipe, bands: Data, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, at: tuple[str, int],
) -> None:  # fmt: skip
    """Killed without warning some steps after the last checkpoint, as by kill -9."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    search_data(space, predictor, bands, recipe=quick, run_dir=whole)
    append = rundir.RunDir.append

    def cut(self: rundir.RunDir, row: dict) -> int:
        size = append(self, row)
        if (row["phase"].replace("warmup", "search"), row.get("step")) == at:
            raise Stop
        return size

    monkeypatch.setattr(rundir.RunDir, "append", cut)
    monkeypatch.setattr(checkpoint.Saver, "tick", lambda self: self.write() if _step(self) % 3 == 0 else None)
    with pytest.raises(Stop):
        search_data(space, predictor, bands, recipe=quick, run_dir=broken)
    monkeypatch.undo()
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "sea')  # torn
    search_data(space, predictor, bands, recipe=quick, run_dir=broken, resume=True)
    for name in ("architecture.json", "random_architecture.json", "metrics.jsonl", "config.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    ends = [checkpoint.load(folder / "checkpoint.pt") for folder in (whole, broken)]
    assert same(ends[0], ends[1])


def _step(saver: checkpoint.Saver) -> int:
    pipeline = saver.write.__self__  # type: ignore[attr-defined]
    assert isinstance(pipeline, Pipeline)
    assert pipeline._phase is not None
    return pipeline._phase[1].step


def test_a_finished_run_resumes_to_its_result(
    space: SearchSpace, predictor: FakePredictor, quick: Recipe, bands: Data, tmp_path: Path
) -> None:
    first = search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path / "r")
    metrics = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    second = search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path / "r", resume=True)
    assert (second.architecture, second.test_accuracy) == (first.architecture, first.test_accuracy)
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == metrics


def test_run_folders_in_use_are_refused(
    space: SearchSpace,
    predictor: FakePredictor,
    quick: Recipe,
    bands: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "r"

    def go(**more: object) -> None:
        recipe = Recipe(**{**vars(quick), **more.pop("recipe", {})})  # type: ignore[dict-item]
        search_data(space, predictor, bands, recipe=recipe, run_dir=folder, **more)  # type: ignore[arg-type]

    with pytest.raises(UserError, match=r"nothing to resume.*leave --resume out"):
        go(resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "_train", lambda *_: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            go()
    with pytest.raises(UserError, match="this very run, unfinished; add --resume"):
        go()
    with pytest.raises(UserError, match=r"unfinished run with another config \(seed: 0 there, 1 here\)"):
        go(options=Options(seed=1))
    with pytest.raises(UserError, match=r"recipe\.batch_size: 16 there, 8 here"):
        go(resume=True, recipe={"batch_size": 8})
    go(resume=True)
    with pytest.raises(UserError, match="finished run; add --overwrite"):
        go()
    with pytest.raises(UserError, match="exclude each other"):
        go(resume=True, overwrite=True)
    go(overwrite=True, recipe={"train_steps": 2})
    stranger = tmp_path / "letters"
    stranger.mkdir()
    (stranger / "mail.txt").write_text("dear")
    folder = stranger
    with pytest.raises(UserError, match="not a run"):
        go()
    assert (stranger / "mail.txt").read_text() == "dear"


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "other"])
def test_a_damaged_checkpoint_is_named(
    space, predictor, quick: Recipe, bands: Data, tmp_path: Path, damage: str
) -> None:
    search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    if damage == "other":
        torch.save({"hello": 1}, path)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"x" * 1000, "empty": b""}[damage])
    checkpoint.before(path).write_bytes(path.read_bytes())  # else that one is taken
    with pytest.raises(UserError, match=r"checkpoint\.pt is (damaged|not a checkpoint).*--overwrite"):
        search_data(space, predictor, bands, recipe=quick, run_dir=tmp_path, resume=True)


def test_images_that_the_space_cannot_take(predictor: FakePredictor, quick: Recipe) -> None:
    def images(*shape: int) -> TensorDataset:
        return TensorDataset(torch.rand(30, *shape), torch.arange(30) % 3)

    with pytest.raises(DataError, match="images have 1 channels, space 'tiny' takes 3"):
        search(make_space(), predictor, images(1, 16, 16), images(1, 16, 16), recipe=quick)
    narrow = make_space(size=4)  # its last Linear takes a 1x1 map
    with pytest.raises(DataError, match=r"leave 4x4 before the last Linear .*use --image-size 4"):
        search(narrow, predictor, images(3, 16, 16), images(3, 16, 16), recipe=quick)


def test_the_command(cli, tmp_path: Path) -> None:
    code, out, err = cli("--json", "--steps", "6", "--train-steps", "3", "--name", "r")
    assert code == 0, err
    result = json.loads(out)
    assert {"target_ms", "predicted_ms", "test_accuracy", "random_test_accuracy", "architecture"} <= result.keys()
    assert result["predicted_ms"] <= result["target_ms"]
    assert result["architecture"] == "runs/r/architecture.json"
    assert "no target given" in err
    assert "recipe: 3 steps of warm-up, 6 of search" in err
    assert load_architecture(tmp_path / result["architecture"]).space == "tiny"


FASTEST = r"--target-ms 0\.1: the fastest network of the space takes 0\.\d+ ms"


def test_the_largest_batch_is_all_images_and_alphas_smaller_one_is_told(
    space: SearchSpace, predictor: FakePredictor, bands: Data, quick: Recipe
) -> None:
    said: list[str] = []
    ui = Ui()
    ui.say = said.append  # type: ignore[method-assign]
    short = replace(quick, warmup_steps=0, search_steps=2, train_steps=0)
    full = replace(short, batch_size=len(bands.train))
    search_data(space, predictor, bands, recipe=full, ui=ui)
    told = f"an alpha step takes all {len(bands.validation)} images held out for it, less than the batch"
    assert told in said
    said.clear()
    search_data(space, predictor, bands, recipe=short, ui=ui)
    assert told not in said
    with pytest.raises(RecipeError, match=f"only {len(bands.train)} images to train on"):
        search_data(space, predictor, bands, recipe=replace(short, batch_size=len(bands.train) + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target-ms", "0.1"], FASTEST),
        (["--target-ms", "nan"], "positive number of milliseconds"),
        (["--target-ms", "-3"], "positive number of milliseconds"),
        (["--target-ms", "soon"], "invalid float value"),
        (["--data", "digit"], "did you mean 'digits'"),
        (["--data", "parquet:nowhere"], "no folder nowhere"),
        (["--space", "mine.py:yours"], "'yours' is not a SearchSpace; the file has: mine"),
        (["--space", "proxles"], "unknown space"),
        (["--strategy-option", "gate=full"], "did you mean 'gates'"),
        (["--strategy-option", "gates"], "NAME=VALUE is needed"),
        (["--strategy", "proxyless"], r"did you mean 'proxyless-[gr]'"),
        (["--predictor", "fake.pkl"], "a second predictor needs its limit, like fake.pkl:80ms"),
        (
            ["--predictor", "fake.pkl:1e-6s"],
            r"--predictor fake.pkl:1e-6s: the fastest network of the space takes 0\.\d+ ms",
        ),
        (["--predictor", "fake.pkl:6"], "--predictor '6': a time above 0 with its unit"),
        (["--predictor", "other.pkl:6ms"], "other.pkl"),
        (["--max-macs", "lots"], "--max-macs 'lots': a number above 0 is needed, like 300M"),
        (["--max-macs", "1K"], r"--max-macs 1K: the smallest network of the space has \d+(\.\d+)?K multiply-adds"),
        (["--max-params", "10"], r"--max-params 10: the smallest network of the space has \d+(\.\d+)?K parameters"),
        (["--loss", "dul"], "--loss dul: did you mean 'dual'.*known: dual, add, mul-log"),
        (["--lambda2", "-1", "--loss", "add"], "--lambda2 -1.0: a number of at least 0"),
        (["--lambda2", "0.1"], "--lambda2 0.1: only with --loss add"),
        (["--lambda2", "0.2", "--loss", "mul-log"], "--lambda2 0.2: only with --loss add"),
        (["--memory-gib", "16"], "--memory-gib 16: only with --dry-run"),
        (["--reference", "--top-k", "5"], "--top-k 5: only without --reference"),
        (["--reference", "--floor", "0.9"], "--floor 0.9: only without --reference"),
        (["--reference", "--strategy-option", "gates=full"], "--strategy-option: only without --reference"),
        (["--top-k", "0"], "--top-k 0: at least 1"),
        (["--verify-on", "cpuu"], "did you mean 'cpu'"),
        (["--reference"], "--reference: the paper's loss takes the logarithm of milliseconds"),
        (["--reference", "--loss", "mul-log"], "leave --strategy and --loss out"),
        (["--reference", "--loss", "add"], "needs --lambda2, per millisecond of E"),
        (["--batch-size", "1"], "--batch-size 1: at least 2"),
        (["--batch-size", "1152"], "--batch-size 1152: there are only 1151 images to train on"),
        (["--image-size", "0"], "--image-size 0"),
        (["--threads", "0"], "--threads 0"),
        (["--floor", "1.5"], "--floor 1.5"),
        (["--save-every-s", "0"], "--save-every-s 0"),
        (["--name", "../up"], "--name '../up'"),
        (["--resume"], "nothing to resume"),
        (
            ["--train-lr", "1e30", "--steps", "2", "--train-steps", "20"],
            r"the loss is (nan|inf) at step \d+ of train_found",
        ),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_mistakes_are_told_in_one_line(cli, arguments: list[str], message: str) -> None:
    code, out, err = cli(*arguments)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last), last
    assert "Traceback" not in out + err


def test_the_command_under_several_budgets(cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every budget is kept, told and part of what makes the run; --predictor with its limit is a target."""
    first = ["--space", "mine.py:mine", "--image-size", "8", "--predictor", "fake.pkl:0.3ms"]
    more = ["--steps", "6", "--train-steps", "2", "--predictor", "fake.pkl:0.32ms", "--max-params", "4K"]
    assert run.main([*first, *more, "--json"]) == 0
    out, err = capfd.readouterr()
    assert "params: at most 4K parameters; 1.178K parameters to 5.69K parameters" in err
    run_dir = tmp_path / "runs" / "fake-tiny-0.3ms-fake-0.32ms-params-4K"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    budgets = next(row for row in rows if row["phase"] == "derived")["budgets"]
    assert json.loads(out)["budgets"] == budgets
    assert [(b["name"], b["limit"]) for b in budgets] == [("fake", 0.3e-3), ("fake", 0.32e-3), ("params", 4000)]
    assert all(b["cost"] <= b["limit"] for b in budgets)
    assert [len(row["lambdas"]) for row in rows if "expected_s" in row and row["phase"] == "search"] == [3, 3, 3]
    config = json.loads((run_dir / "config.json").read_text())
    assert [b["name"] for b in config["budgets"]] == ["fake", "params"]
    assert run.main([*first, "--target-ms", "0.3"]) == 2
    assert "both set the target: give one" in capfd.readouterr().err


def test_a_predictor_that_lacks_an_op_or_is_absent(cli) -> None:
    code, _, err = cli(predictor="partial.pkl")
    assert code == 2
    assert "the fake knows no MBConv" in err
    code, _, err = cli(predictor="absent.pkl")
    assert code == 2
    assert "absent.pkl" in err


def test_a_target_above_the_slowest_network_warns_and_goes_on(cli) -> None:
    code, out, err = cli("--json", "--steps", "2", "--train-steps", "1", "--target-ms", "1000")
    assert code == 0
    assert "does not bind" in err
    assert json.loads(out)["target_ms"] == 1000


def test_signals_save_and_tell_how_to_go_on(tmp_path: Path) -> None:
    """A real process: Ctrl-C ends it with 130, SIGTERM with 143, and what is there resumes."""
    import signal
    import time

    (tmp_path / "mine.py").write_text(SPACE_FILE)
    program = (
        "import sys, latency.predictor; from tests.search.conftest import FakePredictor; from search import run;"
        "latency.predictor.load_predictor = lambda path: FakePredictor(); sys.exit(run.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "--predictor", "fake.pkl", "--space", str(tmp_path / "mine.py") + ":mine",
               "--image-size", "8", "--steps", "100000", "--threads", "1", "--runs", str(tmp_path), "--name", "r"]  # fmt: skip
    for number, code, more in ((signal.SIGINT, 130, []), (signal.SIGTERM, 143, ["--resume"])):
        metrics = tmp_path / "r" / "metrics.jsonl"
        size = metrics.stat().st_size if metrics.exists() else 0
        process = subprocess.Popen(
            [*command, *more], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size > max(size, 3000) + 500):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "--resume" in err
        assert "Traceback" not in err
    assert checkpoint.load(tmp_path / "r" / "checkpoint.pt")["phase"] == "search"


def test_the_command_line_needs_no_torch() -> None:
    program = (
        "import sys, search.run, search\n"
        "try: search.run.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'sklearn', 'scipy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "--target-ms" in done.stdout


def test_a_cuda_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a CUDA device")
    with pytest.raises(UserError, match="no CUDA device"):
        Options(device="cuda")


def test_config_differences_name_the_field() -> None:
    assert rundir.differences({"a": {"b": 1}, "machine": {"t": 1}}, {"a": {"b": 2}, "machine": {"t": 2}}) == [
        "a.b: 1 there, 2 here"
    ]
    assert api.Options().floor == 0.97
