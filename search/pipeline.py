"""A run from warm-up to report: search, derive, train the network found and a random one of equal latency, export."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from latency.console import Report, Ui, ms, quiet
from latency.files import write_atomically
from latency.modules import build_network
from latency.space import SearchSpace, for_classes
from search import checkpoint, distributed, rundir
from search.batchnorm import in_step, together
from search.candidates import Candidate, budget_on, choose, measured, most_probable, open_device, ranked, told_of
from search.compute import PLAIN, Compute
from search.data import Data
from search.derive import random_of_equal_latency
from search.divergence import Diverged
from search.formats import export_if_possible, export_network
from search.lean import lean
from search.objective import LossForm
from search.phase import Phase, run_phase
from search.ranking import supernet_accuracies
from search.recipe import Recipe
from search.result import Result
from search.resume import load_run
from search.rng import derive_seed
from search.rundir import RunDir, space_row
from search.state import start
from search.strategies import Strategy
from search.targets import Plan
from search.trainer import SearchPhase, TrainPhase, accuracy

FOUND, RANDOM = "train_found", "train_random"


class Pipeline:
    """Stages in order, each skipped where the checkpoint already has its result."""

    def __init__(
        self,
        space: SearchSpace,
        plan: Plan,
        data: Data,
        recipe: Recipe,
        strategy: Strategy,
        run: RunDir,
        *,
        seed: int,
        loss: LossForm,
        floor: float,
        top_k: int,
        verify_on: str | None,
        reference: bool,
        device: str,
        compute: Compute = PLAIN,
        tflite: bool = False,
        save_every_s: float,
        keep: bool,
        ui: Ui | None,
        sync_bn: bool = True,
    ) -> None:
        """Of several processes, all have the same arguments but for `run`, `keep` and `ui`: see search_plan."""
        self.space, self.plan, self.data, self.recipe, self.loss = space, plan, data, recipe, loss
        self.costs, self.target_s = plan.costs, plan.target_s
        self.strategy, self.run, self.seed, self.floor, self.device = strategy, run, seed, floor, device
        self.top_k, self.verify_on, self.reference = top_k, verify_on, reference
        self.keep, self.ui, self.compute, self.tflite, self.sync_bn = keep, ui, compute, tflite, sync_bn
        self._results: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}
        self._found_weights: dict[str, torch.Tensor] | None = None
        self._metrics_bytes = 0
        self._phase: tuple[str, Phase] | None = None
        self._saver = checkpoint.Saver(
            self._save,
            save_every_s if keep else float("inf"),
            f"saved in {run.path}; run the same command with --resume to go on"
            if keep
            else "nothing is kept without a run folder",
        )

    def run_all(self, resume: bool) -> Result:
        """All stages. Raises Diverged, CheckpointError, ExportError, DeviceError; KeyboardInterrupt once saved."""
        saved = distributed.first(lambda: load_run(self.run, self._warn) if resume else None)
        if saved is not None:
            self._go_on(saved)
        else:
            self.run.truncate_metrics(0)
            self._write(space_row(self.space, self.costs))
        with self._saver.listening():
            if not self._results.keys() & {"candidates", "indices"}:
                self._search()
            if "indices" not in self._results:
                self._choose()
            self._write_architectures()
            for name in (FOUND, RANDOM):
                if f"{name}_accuracy" not in self._results:
                    self._train(name)
            return self._finish()

    def _search(self) -> None:
        state = start(
            self.space,
            self.costs,
            num_classes=len(self.data.classes),
            target_s=self.target_s,
            recipe=self.recipe,
            seed=self.seed,
            device=self.device,
            floor=self.floor,
            plan=self.plan,
            loss=self.loss,
        )
        counts = [len(c.candidates) for c in self.space.choices]
        self._run("search", SearchPhase(state, self.strategy, self.data, self.recipe, counts, self.compute))
        with torch.no_grad():
            probs_LK = state.supernet.probs().cpu().numpy()
            log_p_LK = torch.log_softmax(state.supernet.logits(), dim=1).cpu().numpy()
            expected_s = float(state.supernet.expected_s())
        top_k = 0 if self.reference else self.top_k
        found = most_probable(probs_LK, log_p_LK, self.plan, self.floor, top_k)
        if len(found) > 1:
            networks = [candidate.indices for candidate in found]
            accuracies = supernet_accuracies(
                state.supernet, networks, self.data, batch_size=self.recipe.batch_size, seed=self.seed
            )
            found = ranked(found, accuracies)
        self._results |= {
            "candidates": [candidate.to_dict() for candidate in found],
            "expected_s": expected_s,
            "expected": state.expected_C(),
            "probs": probs_LK.tolist(),
        }

    def _candidates(self) -> list[Candidate]:
        found = [Candidate.from_dict(row) for row in self._results["candidates"]]
        if self.verify_on is None:
            return found
        self._phase = None
        self._save()  # the search is done, whatever becomes of the device
        with open_device(self.verify_on) as device:
            return measured(found, self.space, device, self._progress, self.seed)

    def _choose(self) -> None:
        found = distributed.first(self._candidates)
        if self.verify_on is None:
            chosen, notes = choose(found, self.target_s)
        else:
            held = budget_on(self.verify_on, self.plan)
            what = "target" if held is self.plan.budgets[0] else f"limit on {held.device}"
            chosen, notes = choose(found, held.limit, what)
        rng = np.random.default_rng(derive_seed(self.seed, "random network"))
        budget_s = max(self.target_s, chosen.predicted_s)  # an argmax of --reference may lie above the target
        other = random_of_equal_latency(self.costs, chosen.indices, budget_s, rng, self.plan.others)
        self._results |= {
            "candidates": [candidate.to_dict() for candidate in found],
            "indices": list(chosen.indices),
            "in_window": chosen.in_window,
            "random_indices": list(other),
            "predicted_s": chosen.predicted_s,
            "measured_s": chosen.measured_s,
            "random_predicted_s": self.costs.network_s(other),
            "budgets": self.plan.spent(chosen.indices),
        }
        self._write({"phase": "derived", **self._results})
        told = told_of(chosen, len(found), self.plan, self.floor, self._results["expected_s"], self.reference)
        self._say(f"{told[0]}; a random one of {ms(self._results['random_predicted_s'])} beside it")
        for line in (*told[1:], *notes):
            self._say(line)

    def _train(self, name: str) -> None:
        key = "indices" if name == FOUND else "random_indices"
        ops = self.space.architecture(self._results[key]).ops
        phase = TrainPhase(name, ops, self.data, self.recipe, self.seed, self.device, self.compute)
        self._run(name, phase)
        self._results[f"{name}_accuracy"] = accuracy(phase.trained, self.data.test, self.device)
        if name == FOUND:
            self._found_weights = {k: v.detach().cpu().clone() for k, v in phase.trained.state_dict().items()}
        self._write({"phase": name, "step": phase.step, "test_accuracy": self._results[f"{name}_accuracy"]})

    def _finish(self) -> Result:
        self._phase = None
        network = self._found_network()
        if self.keep:
            self._save()
            shape = self.space.input_shape
            deviation = export_network(network, shape, self.run.path / rundir.NETWORK)
            size = "x".join(map(str, shape))
            self._say(f"{self.run.path / rundir.NETWORK}: {size}, onnxruntime agrees with torch to {deviation:.0e}")
            if self.tflite:
                self._say(export_if_possible(network, shape, self.run.path / rundir.TFLITE))
        if not self._results.get("finished"):
            done = {k: v for k, v in self._results.items() if k != "probs"}
            self._write({"phase": "done", "target_s": self.target_s, **done})
            self._results["finished"] = True
        if self.keep:
            self._save()
            from search.report import write_report

            write_report(self.run.path)
        return self.result(network)

    def result(self, network: nn.Module) -> Result:
        """The results so far as a `Result`."""
        r = self._results
        found, other = self.space.architecture(r["indices"]), self.space.architecture(r["random_indices"])
        return Result(
            found,
            other,
            self.target_s,
            r["predicted_s"],
            r["random_predicted_s"],
            r["expected_s"],
            r["in_window"],
            r[f"{FOUND}_accuracy"],
            r[f"{RANDOM}_accuracy"],
            np.array(r["probs"]),
            network,
            r.get("measured_s"),
            r["budgets"],
        )

    def _found_network(self) -> nn.Module:
        assert self._found_weights is not None
        ops = self.space.architecture(self._results["indices"]).ops
        network = build_network(for_classes(ops, len(self.data.classes)))
        network.load_state_dict(self._found_weights)
        return network.eval()

    def _run(self, name: str, phase: Phase) -> None:
        self._phase = name, phase
        lean(phase.module)
        if self.sync_bn:
            together(phase.module)
        if self._resumed.get("phase") == name:
            try:
                phase.load_state_dict(self._resumed["state"])
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                raise checkpoint.CheckpointError(
                    f"{self.run.checkpoint} is of another run ({type(error).__name__}); start again with --overwrite"
                ) from error
            self._resumed = {}
            self._say(f"resumed at step {phase.step} of {name.replace('_', ' ')}")
        elif self.keep and name != "search":
            self._save()
        with self._progress(name.replace("_", " ")) as report:
            run_phase(phase, self._write, self._tick, report)

    def _tick(self) -> None:
        assert self._phase is not None
        name, phase = self._phase
        self._saver.asked = in_step(phase.module, self._saver.asked, f"step {phase.step - 1} of {name}", self.sync_bn)
        self._saver.tick()

    def _save(self) -> None:
        if not self.keep:
            return
        name, phase = self._phase or ("finish", None)
        state = phase.state_dict() if phase is not None else {}
        bad = checkpoint.not_finite(state)
        if phase is not None and bad is not None:  # the loss was a number, the step it led to was not
            raise Diverged(f"{bad} is no number after step {phase.step - 1} of {name}, so not saved: {phase.advice}")
        self.run.sync_metrics()
        checkpoint.save(
            self.run.checkpoint,
            {
                "phase": name,
                "state": state,
                "results": self._results,
                "found_weights": self._found_weights,
                "metrics_bytes": self._metrics_bytes,
            },
        )

    def _go_on(self, saved: dict[str, Any]) -> None:
        self._resumed, self._metrics_bytes = saved, saved["metrics_bytes"]
        self._results, self._found_weights = dict(saved["results"]), saved["found_weights"]

    def _write(self, row: dict[str, Any]) -> None:
        self._metrics_bytes = self.run.append(row)

    def _write_architectures(self) -> None:
        for name, key in ((rundir.ARCHITECTURE, "indices"), (rundir.RANDOM_ARCHITECTURE, "random_indices")):
            text = self.space.architecture(self._results[key]).to_json()
            write_atomically(self.run.path / name, text.encode())

    def _say(self, text: str) -> None:
        if self.ui is not None:
            self.ui.say(text)

    def _warn(self, text: str) -> None:
        if self.ui is not None:
            self.ui.warn(text)

    def _progress(self, title: str) -> AbstractContextManager[Report]:
        return nullcontext(quiet) if self.ui is None else self.ui.progress(title)
