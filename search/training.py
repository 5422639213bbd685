"""After the search: one architecture trained from scratch, evaluated, and written as weights, ONNX and .tflite."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import torch

from devices.base import DeviceUnavailable
from latency.console import Ui
from latency.files import write_atomically, write_json
from latency.modules import build_network
from latency.space import Architecture, for_classes
from search import checkpoint, rundir
from search.compute import Compute
from search.data import Data
from search.divergence import Diverged
from search.formats import export
from search.images import check_images
from search.phase import run_phase
from search.recipe import Recipe
from search.rundir import RunDir
from search.trainer import TrainPhase, accuracy
from search.weights import save_weights

PHASE = "train"


class Training:
    """One training in a folder of its own, with the files and the ways to resume of a run."""

    def __init__(
        self,
        architecture: Architecture,
        data: Data,
        recipe: Recipe,
        folder: Path,
        *,
        seed: int,
        device: str,
        compute: Compute,
        formats: tuple[str, ...],
        save_every_s: float,
        ui: Ui,
    ) -> None:
        """Raises DataError where the network cannot take the images."""
        check_images(architecture.ops, data.image_shape, f"the network of {architecture.space}")
        self.architecture, self.data, self.recipe, self.run, self.ui = architecture, data, recipe, RunDir(folder), ui
        self.formats, self.device = formats, device
        self.phase = TrainPhase(PHASE, architecture.ops, data, recipe, seed, device, compute)
        self._metrics_bytes = 0
        self._saver = checkpoint.Saver(
            self._save, save_every_s, f"saved in {folder}; run the same command with --resume to go on"
        )
        changed = compute.changed()
        self.config: dict[str, Any] = {
            "schema": 1,
            "command": "train",
            "architecture": architecture.key,
            "seed": seed,
            "data": data.summary(),
            "recipe": dataclasses.asdict(recipe),
            "machine": {
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "cpu": platform.machine(),
                "device": device,
            },
            **({"compute": changed} if changed else {}),
        }

    def run_all(self, *, resume: bool, overwrite: bool) -> dict[str, Any]:
        """Train, evaluate, write. Returns what `--json` prints.

        Raises RunError, CheckpointError, Diverged, ExportError, DeviceError; KeyboardInterrupt or Terminated once
        saved.
        """
        for difference in self.run.begin(self.config, resume=resume, overwrite=overwrite):
            self.ui.warn(f"resumed under other conditions, so not bit for bit: {difference}")
        if resume and checkpoint.exists(self.run.checkpoint):
            self._load()
        else:
            self.run.truncate_metrics(0)
        write_atomically(self.run.path / rundir.ARCHITECTURE, self.architecture.to_json().encode())
        with self._saver.listening():
            with self.ui.progress("training") as report:
                run_phase(self.phase, self._write, self._saver.tick, report)
            self._save()
        return self._finish()

    def _finish(self) -> dict[str, Any]:
        trained = self.phase.trained
        right = accuracy(trained, self.data.test, self.device)
        network = build_network(for_classes(self.architecture.ops, len(self.data.classes)))
        network.load_state_dict(trained.state_dict())  # without the hooks and ways to compute of training
        weights = self.run.path / rundir.WEIGHTS
        save_weights(weights, network, self.architecture.ops, self.data.classes, self.data.image_shape[1])
        result: dict[str, Any] = {"test_accuracy": right, "steps": self.phase.step, "weights": str(weights)}
        self.ui.say(f"test accuracy {right:.1%} on {len(self.data.test)} images; {weights}")
        shape = self.architecture.ops[0].input_shape
        for kind in self.formats:
            path = self.run.path / f"network.{kind}"
            try:
                made = export(network.eval(), shape, path)
            except DeviceUnavailable as error:
                self.ui.say(f"no {path.name}: {error}")
                continue
            result |= {kind: str(path), f"{kind}_deviation": made.deviation}
            size = "x".join(map(str, shape))
            mb = path.stat().st_size / 1e6
            self.ui.say(f"{path}: {size}, {mb:.2f} MB, differs from torch by {made.deviation:.0e}")
        write_json(self.run.path / rundir.RESULT, result)
        if self.run.finished() is None:
            self._write({"phase": "done", "test_accuracy": right})
            self._save()
        return result

    def _save(self) -> None:
        state = self.phase.state_dict()
        bad = checkpoint.not_finite(state)
        if bad is not None:
            raise Diverged(f"{bad} is no number after step {self.phase.step - 1}, so not saved: {self.phase.advice}")
        self.run.sync_metrics()
        checkpoint.save(self.run.checkpoint, {"phase": PHASE, "state": state, "metrics_bytes": self._metrics_bytes})

    def _load(self) -> None:
        content, warning = checkpoint.load_newest(self.run.checkpoint)
        if warning is not None:
            self.ui.warn(warning)
        try:
            self.phase.load_state_dict(content["state"])
            self._metrics_bytes = int(content["metrics_bytes"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise checkpoint.CheckpointError(
                f"{self.run.checkpoint} is of another run ({type(error).__name__}); start again with --overwrite"
            ) from error
        if not self.run.truncate_metrics(self._metrics_bytes):
            self.ui.warn(f"{self.run.path / rundir.METRICS} lacks rows from before the checkpoint")
            self._metrics_bytes = (self.run.path / rundir.METRICS).stat().st_size
        self.ui.say(f"resumed at step {self.phase.step} of {self.phase.total}")

    def _write(self, row: dict[str, Any]) -> None:
        self._metrics_bytes = self.run.append(row)
