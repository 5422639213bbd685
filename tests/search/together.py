"""What the processes of test_distributed run: a program for torchrun, and functions for processes of a gloo group."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import latency.predictor
from devices.errors import UserError
from latency.space import load_space
from search import distributed, run, strategies
from search.batchnorm import statistics, together
from search.costs import make_costs
from search.data import Reading, load_data
from search.lean import lean
from search.recipe import Recipe
from search.state import start
from search.trainer import SearchPhase
from tests.search.conftest import FakePredictor, make_data, make_space

PHOTOS, BAD = 48, (3, 4, 20, 30, 31, 41)
RECIPE = Recipe(
    batch_size=16, warmup_steps=3, search_steps=6, train_steps=4, alpha_every=2, alpha_lr=0.1, dual_rate=1.0
)


def main() -> int:
    """`search.run` with the fake predictor. Process 1 dies after step DIE_AT, unless torchrun has restarted it."""
    torch.set_num_threads(1)
    latency.predictor.load_predictor = lambda path: FakePredictor()  # type: ignore[assignment]
    advance = SearchPhase.advance

    def meddle(self: SearchPhase) -> dict:
        row = advance(self)
        if distributed.rank() == 1 and not distributed.restarted() and self.step == int(os.environ["DIE_AT"]):
            os.kill(os.getpid(), 9)
        return row

    SearchPhase.advance = meddle  # type: ignore[method-assign]
    return run.main(sys.argv[1:])


def in_group(rank: int, folder: str, world: int) -> None:
    """One process of a gloo group of `world`: write what `everything` finds to FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save(everything() | corrupt(Path(folder)), Path(folder) / f"{world}-{rank}.pt")
    distributed.end()


def corrupt(folder: Path) -> dict:
    """What this process says of the corrupt images in FOLDER/photos, and where one fewer may be corrupt (FOLDER/again)."""
    found: dict = {"said": []}
    for name, limit in (("photos", len(BAD)), ("again", len(BAD) - 1)):
        reading = Reading(max_corrupt=limit, stream=True, warn=found["said"].append if name == "photos" else print)
        data = load_data(f"imagefolder:{folder}/{name}", image_size=8, reading=reading)
        try:
            for split in (data.train, data.validation, data.test):
                for _ in range(2):  # an image is told once
                    split.fetch(distributed.share(range(len(split))))
        except UserError as error:
            found["too many"] = str(error)
        dist.barrier()
    return found


def everything() -> dict:
    """Alphas and weights after a short search by each strategy; batch norm; and what only several processes can show."""
    found: dict = {"norm": _norm(together_=True), "deep": deep()}
    for name in strategies.names():
        supernet = _search(name).state.supernet
        found[name] = {"alpha": supernet.alpha_LK.detach(), "weights": dict(supernet.state_dict())}
    if distributed.world() > 1:
        found |= {"apart": _norm(together_=False), "first": distributed.first(lambda: distributed.rank())}
        found["share"] = list(distributed.share(range(5)))
        try:
            distributed.agree(
                torch.tensor([1.0, distributed.rank() * 1e-12], dtype=torch.float64), 0, "step 7 of search"
            )
        except UserError as error:
            found["differ"] = str(error)
        found["asked"] = distributed.agree(torch.ones(2), 15 * distributed.rank(), "step 8")
        try:
            distributed.first(_fail)
        except UserError as error:
            found["failed"] = type(error).__name__, str(error)
    return found


def deep() -> dict:
    """Alphas and weights after two weight steps and an alpha step in the shipped space of 21 blocks, maps down to 1x1.

    In float64, where what is left of rounding cannot hide a difference of the algorithm.
    """
    space, recipe = (
        load_space("proxyless"),
        replace(RECIPE, warmup_steps=1, search_steps=1, alpha_every=1),
    )
    costs = make_costs(space, FakePredictor())
    target_s = 0.8 * costs.expected_s(costs.uniform_LK)
    state = start(space, costs, num_classes=3, target_s=target_s, recipe=recipe, seed=0)
    state.supernet.double().stem.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    counts = [len(c.candidates) for c in space.choices]
    phase = SearchPhase(state, strategies.load("proxyless-g"), make_data(size=32), recipe, counts)
    together(lean(state.supernet))
    rows = [phase.advance() for _ in range(phase.total)]
    weights = {name: w for name, w in state.supernet.state_dict().items() if w.ndim < 4}  # of norms; and the classifier
    return {"alpha": state.supernet.alpha_LK.detach(), "weights": weights, "loss": [row["loss"] for row in rows]}


def _fail() -> None:
    raise UserError("no such folder")


def _search(name: str) -> SearchPhase:
    space = make_space()
    costs = make_costs(space, FakePredictor())
    target_s = 0.6 * costs.expected_s(costs.uniform_LK) + 0.4 * costs.network_s(costs.fastest)
    state = start(space, costs, num_classes=3, target_s=target_s, recipe=RECIPE, seed=0)
    phase = SearchPhase(state, strategies.load(name), make_data(), RECIPE, [len(c.candidates) for c in space.choices])
    together(lean(state.supernet))
    while phase.step < phase.total:
        phase.advance()
    return phase


def _norm(*, together_: bool) -> dict:
    """Output, gradients and running statistics of a batch norm on 8 images, of which each process has its part."""
    draws = torch.Generator().manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm2d(4, momentum=0.3))
    with torch.no_grad():
        norm[0].weight.copy_(torch.randn(4, generator=draws))
        norm[0].bias.copy_(torch.randn(4, generator=draws))
    x = torch.randn(8, 4, 5, 3, generator=draws) * torch.tensor([1.0, 3.0, 0.1, 2.0])[:, None, None] + 0.7
    upstream = torch.randn(8, 4, 5, 3, generator=draws)
    if together_:
        together(norm)
    part = distributed.slice_of(len(x))
    mine, up = x[part].clone().requires_grad_(), upstream[part]
    y = norm(mine)
    (y * up).sum().backward()
    distributed.mean_gradients(norm.parameters())
    if not together_:
        distributed.mean_in_place(statistics(norm))
    n = distributed.world()
    assert mine.grad is not None
    y, dx = distributed.whole(y.detach(), mine.grad)
    return {
        "y": y, "dx": dx, "dw": norm[0].weight.grad * n, "db": norm[0].bias.grad * n,  # sums, not means, as above
        **{name: b for name, b in norm.state_dict().items() if "running" in name},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
