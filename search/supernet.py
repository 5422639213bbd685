"""All candidates of a space in one module, of which a forward pass runs only the sampled path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from latency import wiring
from latency.modules import build, merge
from latency.ops import Op
from latency.space import Choice, SearchSpace, for_classes
from search import gates
from search.costs import Costs
from search.objective import expected_latency_s

Mix = Callable[[int, nn.ModuleList, torch.Tensor], torch.Tensor]  # (block, its candidates, x) -> the block's output
ALPHA_STD = 1e-3  # alpha ~ N(0, 1e-3), released code of arXiv 1812.00332


class Supernet(nn.Module):
    """Stem, L blocks of up to K candidates, head; `alpha_LK` (float64) and the candidates' costs beside them.

    Candidates come from latency.modules.build, each with its block's shortcut inside (Zero with a shortcut is the
    identity). Weights are `weights()`; `alpha_LK` is a parameter of its own that no weight optimiser sees.
    """

    cost_s: torch.Tensor
    valid_LK: torch.Tensor
    fixed_s: torch.Tensor

    def __init__(
        self, space: SearchSpace, costs: Costs, num_classes: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Initialise weights from torch's global generator and alpha from `generator`.

        `num_classes` resizes the last Linear (trained classes); costs stay those of the space's own ops.
        """
        super().__init__()
        head: Sequence[Op] = space.head if num_classes is None else for_classes(space.head, num_classes)
        self.stem = nn.Sequential(*map(build, space.stem))
        self.blocks = nn.ModuleList(_block(choice) for choice in space.choices)
        self.steps = space.steps
        glue = {str(i): build(s) for i, s in enumerate(self.steps) if isinstance(s, Op) and not s.is_wiring}
        self.glue = nn.ModuleDict(glue)  # fixed ops between the blocks, by place in `steps`; none in a chain
        self.head = nn.Sequential(*map(build, head))
        noise_LK = torch.randn(costs.cost_LK.shape, generator=generator, dtype=torch.float64) * ALPHA_STD
        self.alpha_LK = nn.Parameter(noise_LK)
        self.register_buffer("cost_s", torch.from_numpy(costs.cost_LK.copy()))
        self.register_buffer("valid_LK", torch.from_numpy(costs.valid_LK.copy()))
        self.register_buffer("fixed_s", torch.tensor(costs.fixed_s, dtype=torch.float64))

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of everything but alpha."""
        return ((name, p) for name, p in self.named_parameters() if name != "alpha_LK")

    def logits(self) -> torch.Tensor:
        """alpha with -inf where there is no candidate: (L, K), detached."""
        return gates.masked_logits(self.alpha_LK.detach(), self.valid_LK)

    def probs(self) -> torch.Tensor:
        """softmax(alpha): (L, K), differentiable."""
        return gates.probabilities(self.alpha_LK, self.valid_LK)

    def expected_s(self) -> torch.Tensor:
        """E[latency] in seconds under softmax(alpha); scalar, differentiable."""
        return expected_latency_s(self.probs(), self.cost_s, self.fixed_s)

    def costs(self) -> Costs:
        """The costs it was built with, as numpy."""
        return Costs(self.cost_s.cpu().numpy(), self.valid_LK.cpu().numpy(), float(self.fixed_s))

    def counts(self) -> list[int]:
        """How many candidates each block has: L numbers."""
        counts: list[int] = self.valid_LK.sum(1).tolist()
        return counts

    def run(self, x: torch.Tensor, mix: Mix) -> torch.Tensor:
        """Logits (n, classes) where `mix` makes each block's output of its candidates: the one walk through the net.

        Blocks come in order, each once. In a space with branches several blocks may be given the same tensor.
        """

        def apply(place: int, y: torch.Tensor) -> torch.Tensor:
            step = self.steps[place]
            if isinstance(step, int):
                return mix(step, _candidates(self.blocks[step]), y)
            made: torch.Tensor = self.glue[str(place)](y)
            return made

        y: torch.Tensor = self.head(wiring.fold(self.steps, self.stem(x), apply, merge))
        return y

    def forward(self, x: torch.Tensor, path: Sequence[int]) -> torch.Tensor:
        """Logits (n, classes) of the network that takes candidate `path[l]` in block l; no other candidate runs."""
        assert len(path) == len(self.blocks), f"{len(path)} choices for {len(self.blocks)} blocks"
        return self.run(x, lambda block, candidates, x: candidates[path[block]](x))

    def forward_pair(self, x: torch.Tensor, pair_L2: torch.Tensor, gates_L2: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of the path `pair_L2[:, 0]`, bound to `gates_L2` for their gradient.

        After backward, gates_L2.grad[l, j] = <o_lj(x), dL/dm_l>. The second candidate of a pair runs without a graph.
        A block whose pair names one candidate twice runs it once and leaves its gates' gradients zero.
        """
        pairs, gates_of = pair_L2.tolist(), gates_L2.unbind()

        def mix(block: int, candidates: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
            active, inactive = pairs[block]
            y: torch.Tensor = candidates[active](x)
            if inactive == active:
                return y
            with torch.no_grad():
                other = candidates[inactive](x)
            return gates.pair_gate(y, other, gates_of[block])

        return self.run(x, mix)

    def forward_full(self, x: torch.Tensor, path: Sequence[int], gates_LK: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of `path`, bound to the gates of all candidates for their gradient.

        Backward runs the candidates off the path, one at a time and without a graph, so it belongs inside `only_alpha`
        with the forward. Then gates_LK.grad[l, k] = <o_lk(x), dL/dm_l>; 0 in blocks of a single candidate.
        """
        gates_of = gates_LK.unbind()

        def mix(block: int, candidates: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = candidates[path[block]](x)
            return y if len(candidates) == 1 else gates.full_gate(y, x, gates_of[block], candidates, path[block])

        return self.run(x, mix)

    def forward_mixture(self, x: torch.Tensor, weights_LK: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) where block l gives sum_k weights_LK[l, k] o_k(x), all of it in the graph.

        Candidates of weight exactly 0 do not run. Memory is that of all the others together.
        """
        weights_LK = weights_LK.to(x)
        used = (weights_LK.detach() != 0).tolist()

        def mix(block: int, candidates: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
            terms = (weights_LK[block, k] * op(x) for k, op in enumerate(candidates) if used[block][k])
            total: torch.Tensor = functools.reduce(torch.add, terms)
            return total

        return self.run(x, mix)


def _block(choice: Choice) -> nn.ModuleList:
    return nn.ModuleList(map(build, choice.candidates))


def _candidates(block: nn.Module) -> nn.ModuleList:
    assert isinstance(block, nn.ModuleList)
    return block


@contextmanager
def only_alpha(supernet: Supernet) -> Iterator[None]:
    """Weights frozen, and batch norm normalising by the batch without touching its running statistics."""
    weights = [p for _, p in supernet.weights()]
    norms = [m for m in supernet.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [m.track_running_stats for m in norms]
    for p in weights:
        p.requires_grad_(False)
    for m in norms:
        m.track_running_stats = False  # in training mode: batch statistics, buffers not passed to the kernel at all
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)
        for m, flag in zip(norms, tracked, strict=True):
            m.track_running_stats = flag
