"""After the search: training resumes bit for bit, exported networks compute what torch does, mistakes take one line."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from devices.errors import UserError
from latency.modules import build_network
from search import checkpoint, export, train
from search.formats import export as export_file
from search.recipe import Recipe
from search.trainer import TrainPhase
from search.weights import load_weights, save_weights
from tests.conftest import ROOT
from tests.search.conftest import make_data, make_space
from tests.search.test_run import same

needs_tflite = pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is None, reason="the extra `tflite` is not installed"
)
SMALL = ["--image-size", "16", "--steps", "12", "--batch-size", "16", "--threads", "1"]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METRONOME_CACHE", str(tmp_path_factory.mktemp("converted")))
        yield


@pytest.fixture
def arch(tmp_path: Path) -> Path:
    path = tmp_path / "architecture.json"
    path.write_text(make_space().architecture([0, 1, 4]).to_json())
    return path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]):
    """Run a command; returns (exit code, the JSON it printed, stderr)."""

    def call(module, *arguments: object) -> tuple[int, dict, str]:
        try:
            code = module.main([*map(str, arguments), "--json"])
        except SystemExit as stop:
            code = int(str(stop.code))
        out, err = capfd.readouterr()
        return code, json.loads(out) if out.strip() else {}, err

    return call


def test_a_training_writes_weights_that_are_read_back_and_exported(cli, arch: Path, tmp_path: Path) -> None:
    import onnxruntime as ort

    code, result, err = cli(train, "--arch", arch, *SMALL, "--formats", "onnx", "--dropout", "0.2", "--ema", "0.9")
    assert code == 0, err
    assert "12 steps of 16 images; lr 0.01, " in err
    assert "dropout 0.2" in err
    folder = tmp_path / "trained"
    assert result["weights"] == str(folder / "model.safetensors")
    assert result["onnx_deviation"] < 1e-4
    assert json.loads((folder / "result.json").read_text()) == result
    trained = load_weights(folder / "model.safetensors")
    assert trained.ops == make_space().architecture([0, 1, 4]).ops
    assert trained.classes == tuple(map(str, range(10)))
    assert trained.image_size == 16
    x = torch.rand(1, 3, 16, 16)
    session = ort.InferenceSession(str(folder / "network.onnx"), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"input": x.numpy()})[0], trained.network(x).detach().numpy(), atol=1e-4)

    code, _, err = cli(train, "--arch", arch, *SMALL)
    assert code == 2
    assert "finished run; add --overwrite" in err
    code, again, _ = cli(
        train, "--arch", arch, *SMALL, "--formats", "onnx", "--dropout", "0.2", "--ema", "0.9", "--resume"
    )
    assert (code, again) == (0, result)

    for precision, least in (("fp32", 0.0), ("fp16", 0.0), ("int8", 1e-5)):
        code, made, err = cli(
            export, "--weights", result["weights"], "--arch", arch, "--precision", precision, "--data", "digits",
            "--eval-images", "150", "--calibration-images", "16",
        )  # fmt: skip
        assert code == 0, err
        assert Path(made["path"]).stat().st_size == made["bytes"]
        assert least <= made["deviation"] < 0.2
        assert made["eval_images"] == 150
        assert made["accuracy"] == pytest.approx(made["torch_accuracy"], abs=0.05)
    assert f"{made['torch_accuracy']:.1%}" in err


@needs_tflite
def test_tflite_in_each_precision(cli, arch: Path, tmp_path: Path) -> None:
    weights = trained_file(tmp_path)
    found = {}
    for precision in ("fp32", "int8"):
        code, found[precision], err = cli(
            export, "--weights", weights, "--format", "tflite", "--precision", precision, "--data", "digits",
            "--eval-images", "50", "--calibration-images", "16",
        )  # fmt: skip
        assert code == 0, err
        assert found[precision]["accuracy"] == pytest.approx(found[precision]["torch_accuracy"], abs=0.15)
    assert found["fp32"]["deviation"] < 1e-4 < found["int8"]["deviation"] < 0.3
    assert found["int8"]["bytes"] < found["fp32"]["bytes"]


def trained_file(folder: Path) -> Path:
    """Weights of a network that has seen some digits."""
    from search.data import load_data

    data = load_data("digits", image_size=16)
    recipe = Recipe(batch_size=32, warmup_steps=0, search_steps=1, train_steps=40, train_lr=0.05)
    ops = make_space().architecture([0, 1, 4]).ops
    phase = TrainPhase("x", ops, data, recipe, 0)
    while phase.step < phase.total:
        phase.advance()
    save_weights(folder / "model.safetensors", phase.network, ops, data.classes, 16)
    return folder / "model.safetensors"


def test_killed_and_resumed_is_bit_for_bit_an_undisturbed_training(arch: Path, tmp_path: Path) -> None:
    """kill -9 of a real process between checkpoints, twice; every number of the final state is the same."""
    options = ["--arch", str(arch), *SMALL, "--formats", "none", "--dropout", "0.3", "--ema", "0.9", "--cutout", "0.3",
               "--save-every-s", "0.02", "--clip-norm", "1"]  # fmt: skip
    options[options.index("12")] = "80"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train.main([*options, "--out", str(whole)]) == 0
    command = [sys.executable, "-m", "search.train", *options, "--out", str(broken)]
    for kills in range(2):
        process = subprocess.Popen([*command, *(["--resume"] if kills else [])], cwd=ROOT, stderr=subprocess.PIPE)
        metrics, deadline = broken / "metrics.jsonl", time.monotonic() + 60
        start = rows(metrics)
        while rows(metrics) < max(start, 15 * kills) + 8 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.communicate()
    assert train.main([*options, "--out", str(broken), "--resume"]) == 0
    ends = [checkpoint.load(folder / "checkpoint.pt") for folder in (whole, broken)]
    assert same(ends[0], ends[1])
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()


def rows(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    ops = make_space().architecture([0, 1, 4]).ops
    network = build_network(ops)
    path = tmp_path / "model.safetensors"
    save_weights(path, network, ops, tuple("0123456789"), 16)
    assert same(dict(load_weights(path, ops).network.state_dict()), dict(network.state_dict()))
    with pytest.raises(UserError, match=r"weights of another architecture; op 1 differs"):
        load_weights(path, make_space().architecture([1, 1, 4]).ops)
    with pytest.raises(UserError, match=r"no such file; search\.train writes one"):
        load_weights(tmp_path / "absent.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: "):
        load_weights(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, str(path))
    with pytest.raises(UserError, match=r"its header is not that of search\.train"):
        load_weights(path)
    save_weights(path, build_network(make_space().architecture([1, 1, 4]).ops), ops, tuple("0123456789"), 16)
    with pytest.raises(UserError, match=r"its tensors do not fit its ops: .*size mismatch"):
        load_weights(path)


def test_several_processes_are_refused_by_one_of_them(cli, arch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, told in (("0", "without torchrun"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        code, _, err = cli(train, "--arch", arch, *SMALL)
        assert code == 2
        assert told in err
        assert len(err.splitlines()) == bool(told)
    assert not (arch.parent / "trained").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "absent.json"], "absent.json: No such file"),
        (["--data", "imagefolder:nowhere"], "no folder nowhere"),
        (["--data", "imagefolder:."], "cannot be read|no label column"),
        (["--precision", "int7"], "--precision int7: .*one of fp32, bf16, fp16"),
        (["--torch-device", "tpu"], "--torch-device tpu: cpu or cuda"),
        (["--formats", "onx"], "--formats onx: did you mean 'onnx'"),
        (["--save-every-s", "0"], "--save-every-s 0"),
        (["--train-steps", "-1"], "--train-steps -1"),
        (["--batch-size", "1797"], r"--batch-size 1797: there are only 14\d\d images to train on"),
        (["--dropout", "1"], "--dropout 1.0: below 1"),
        (["--augmentation", "cutmix"], "--augmentation cutmix: .*one of pad-crop, resized-crop"),
        (["--augmentation", "resized-crop"], "the digits are 8x8 pixels"),
        (["--validation-images", "5000"], "--validation-images 5000"),
        (["--resume"], "nothing to resume"),
        (["--train-lr", "1e30", "--train-steps", "30"], r"the loss is (nan|inf) at step \d+ of train"),
    ],
)
def test_mistakes_in_training_take_one_line(
    cli, arch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments if "--arch" in arguments else ["--arch", str(arch), *arguments]
    code, _, err = cli(train, *given, "--image-size", "16", "--threads", "1")
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last), last
    assert "Traceback" not in err


def test_images_that_the_network_cannot_take(cli, tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    path.write_text(make_space(size=4).architecture([0, 1, 4]).to_json())  # its last Linear takes a 1x1 map
    code, _, err = cli(train, "--arch", path, "--image-size", "32")
    assert code == 2
    assert "images of 32x32 leave 8x8 before the last Linear of the network of tiny, which takes 1x1" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tfl"], "--format tfl: did you mean 'tflite'"),
        (["--precision", "bf16"], "--precision bf16: did you mean 'fp16'"),
        (["--out", "x.bin"], "a file of format onnx ends in .onnx"),
        (["--input-size", "0"], "--input-size 0: at least 1"),
        (["--eval-images", "0"], "--eval-images 0"),
        (["--data", "parquet:nowhere"], "no folder nowhere"),
        (["--arch", "other.json"], "weights of another architecture; op 1"),
        (["--data", "imagefolder:two"], "trained on 3 classes"),
    ],
)
def test_mistakes_in_an_export_take_one_line(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    from tests.search.test_data import photos

    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "two")
    (tmp_path / "other.json").write_text(make_space().architecture([1, 1, 4]).to_json())
    ops = make_space().architecture([0, 1, 4]).ops
    data = make_data()
    save_weights(
        tmp_path / "model.safetensors",
        TrainPhase("x", ops, data, Recipe(2, 0, 1, 1), 0).network,
        ops,
        data.classes,
        16,
    )
    code, _, err = cli(export, "--weights", "model.safetensors", *arguments)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last), last
    assert "Traceback" not in err


def test_a_network_that_computes_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import search.formats

    network = build_network(make_space().architecture([0, 0, 0]).ops).eval()
    other = build_network(make_space().architecture([0, 0, 0]).ops).eval()
    with torch.no_grad():
        other[-1][-1].bias.fill_(1.0)
    real = search.formats.export_onnx
    monkeypatch.setattr(search.formats, "export_onnx", lambda module, shape: real(other, shape))
    with pytest.raises(UserError, match=r"differ by .*; not kept"):
        export_file(network, (1, 3, 16, 16), tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()


@needs_tflite
def test_a_run_writes_network_tflite(bands, quick, tmp_path: Path) -> None:
    from search.api import Options, search_data
    from tests.search.conftest import FakePredictor

    result = search_data(
        make_space(), FakePredictor(), bands, recipe=quick, run_dir=tmp_path / "r", options=Options(tflite=True)
    )
    from devices.tflite import Network

    x = torch.rand(1, 3, 16, 16)
    ours = result.network(x).detach().numpy()
    assert np.allclose(Network(tmp_path / "r" / "network.tflite")(x.numpy()), ours, atol=1e-4)


def test_training_on_images_decoded_by_threads_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Random resized crops of real JPEG files, one of them cut off: three workers, stopped in mid-epoch."""
    from search.data import Reading, load_data
    from tests.search.test_data import photos

    def phase(workers: int) -> TrainPhase:
        reading = Reading(workers=workers, augmentation="resized-crop")
        data = load_data(f"imagefolder:{folder}", image_size=16, reading=reading)
        recipe = Recipe(batch_size=4, warmup_steps=0, search_steps=1, train_steps=9, cutout=0.25)
        return TrainPhase("x", make_space().architecture([0, 1, 4]).ops, data, recipe, 0)

    folder = photos(tmp_path / "photos", 24, bad=(5,))
    straight, stopped, resumed = phase(0), phase(3), phase(2)
    rows_ = [straight.advance() for _ in range(9)]
    assert [stopped.advance() for _ in range(4)] == rows_[:4]
    resumed.load_state_dict(stopped.state_dict())
    assert [resumed.advance() for _ in range(5)] == rows_[4:]
    assert same(resumed.state_dict(), straight.state_dict())


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_corrupt_image_too_many_ends_the_command(cli, arch: Path, tmp_path: Path, stream: list[str]) -> None:
    from tests.search.test_data import photos

    folder = photos(tmp_path / "photos", 24, bad=(5, 6))
    command = [
        "--arch",
        arch,
        "--data",
        f"imagefolder:{folder}",
        *SMALL,
        "--formats",
        "none",
        "--workers",
        "2",
        *stream,
    ]
    code, _, err = cli(train, *command, "--max-corrupt", "1", "--out", tmp_path / "a")
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert re.search(r"^error: .*0[56]\.jpg cannot be decoded .*that makes 2, and --max-corrupt is 1", last), last
    assert "Traceback" not in err
    code, result, err = cli(train, *command, "--max-corrupt", "2", "--out", tmp_path / "b")
    assert code == 0, err
    assert len([line for line in err.splitlines() if line.startswith("warning: ")]) == 2
    assert 0 <= result["test_accuracy"] <= 1
