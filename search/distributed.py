"""One run on several processes, as torchrun starts them: equal draws, each its part of the batch, one result.

Every process draws the same paths, since draws are functions of (seed, stream, step), and takes its part of the very
batch that one process would take. Gradients of the parameters on the path are averaged, alpha's gradients too, so all
processes make the same step. Process 0 writes the files and speaks. Without torchrun, or with one process, every
function here leaves its argument as it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from devices.errors import UserError

T = TypeVar("T")
BUCKET = 2**23  # numbers averaged in one message: 32 MB
STOPPED = "stopped"
TIMEOUT = timedelta(minutes=30)  # a process that waits longer for another gives up


class RanksDiffer(UserError):
    """Processes that should be in the same state are not."""


class Elsewhere(UserError):
    """Process 0 met a user's error and has told it; this process only ends."""


def launched() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def restarted() -> bool:
    """Whether torchrun started this process anew after a failure (--max-restarts): the run then goes on."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def begin(device: str) -> str:
    """Join the other processes; returns the device of this one: with several GPUs, each process has its own."""
    if not launched():
        return device
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    store, rank_, world_ = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=_fresh(store), rank=rank_, world_size=world_, timeout=TIMEOUT)
    return device


def _fresh(store: Any) -> Any:
    """`store` without what an earlier start left in it.

    Without --rdzv-backend, torchrun gives restarted processes the store of those that died, with their addresses in it,
    and they would wait for each other for ever (torch 2.13).
    """
    count, node = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")), os.environ.get("GROUP_RANK", "0")
    used = any(store.check([f"metronome/{earlier}/{node}"]) for earlier in range(count))
    store.set(f"metronome/{count}/{node}", "")
    return PrefixStore(f"metronome/{count}", store) if used else store


def end() -> None:
    """Leave the other processes."""
    if _joined():
        dist.destroy_process_group()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _joined() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _joined() else 1


def check_batch(size: int, available: int, what: str) -> None:
    """Raise UserError where a batch of `size` out of `available` images cannot be parted evenly."""
    n = world()
    size = min(size, available)
    if size % n or size < n:
        fits = max(size // n, 1) * n
        raise UserError(f"{size} {what} images a step cannot be shared by {n} processes: try --batch-size {fits}")


def slice_of(n: int) -> slice:
    """Which of a batch of `n` images are this process's; all processes get equally many, a remainder is left out."""
    each = n // world()
    return slice(rank() * each, (rank() + 1) * each)


def whole(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch whose parts the processes hold, in order."""
    return (x, y) if world() == 1 else (torch.cat(gather(x)), torch.cat(gather(y)))


def share(items: Sequence[T]) -> Sequence[T]:
    """The items that this process sees to: every `world()`th."""
    return items[rank() :: world()]


def gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """`tensor` of every process, which must have the same shape in all."""
    found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(found, tensor.contiguous())
    return found


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over the processes; a new tensor."""
    if world() == 1:
        return tensor
    result = _sendable(tensor)
    dist.all_reduce(result)
    return result.to(tensor.device)


def mean(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over the processes; a new tensor."""
    return tensor if world() == 1 else total(tensor) / world()


def _sendable(tensor: torch.Tensor) -> torch.Tensor:
    """A copy where the processes' backend can take it: NCCL knows the GPU's memory only."""
    gpu = dist.get_backend() == "nccl"
    return tensor.detach().clone().to("cuda" if gpu else "cpu").contiguous()


def mean_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Average the gradients that there are: those of the path, the same in all processes, in few messages."""
    if world() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    mean_in_place(grads)


def mean_in_place(tensors: Sequence[torch.Tensor]) -> None:
    """Average each of `tensors` over the processes, laid end to end in messages of up to BUCKET numbers."""
    bucket: list[torch.Tensor] = []
    for index, tensor in enumerate(tensors):
        bucket.append(tensor)
        full = sum(t.numel() for t in bucket) >= BUCKET
        following = tensors[index + 1] if index + 1 < len(tensors) else None
        if full or following is None or following.dtype != tensor.dtype:
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            flat /= world()
            for t, values in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                t.copy_(values.view_as(t))
            bucket = []


def first(work: Callable[[], T]) -> T:
    """What `work()` gives in process 0, in all of them; it runs there only. Its UserError ends all of them."""
    if world() == 1:
        return work()
    told: list[Any] = [None, None]
    error: UserError | None = None
    if rank() == 0:
        try:
            told[0] = work()
        except UserError as raised:
            error, told[1] = raised, str(raised)
    dist.broadcast_object_list(told)
    if error is not None:
        raise error
    if told[1] is not None:
        raise Elsewhere(told[1])
    result: T = told[0]
    return result


def count_once(kind: str, name: str, mine: int) -> tuple[int, bool]:
    """(names of `kind` that all processes together have counted so far, whether this one is the first to count `name`).

    For what only some processes come upon, from any thread and without waiting for the others: a store that all share
    keeps the count. `mine` is this process's own, `name` included: the answer where there is only one process.
    """
    if world() == 1:
        return mine, True
    store = _store()
    first_to = store.add(f"{kind}: {name}", 1) == 1
    return store.add(kind, int(first_to)), first_to


def stopping() -> bool:
    """Let the other processes know that a user's error ends this one and so all; whether this is the first to say so.

    The first tells the error; others, which most often meet the same or are cut off by it, only end.
    """
    try:
        return world() == 1 or _store().add(STOPPED, 1) == 1
    except RuntimeError:  # the store went with the process that kept it
        return True


def stopped() -> bool:
    """Whether a process has told a user's error: it then leaves in mid-step, and connections to it break."""
    try:
        return world() > 1 and _store().check([STOPPED])
    except RuntimeError:
        return False


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def agree(state: torch.Tensor, asked: int, where: str) -> int:
    """The greatest `asked` of all processes, so that all stop at the same step where one was told to.

    Raises RanksDiffer, naming the step (`where`) and the processes, where `state` is not the same to the bit in all.
    """
    if world() == 1:
        return asked
    content = state.detach().cpu().contiguous().numpy().tobytes()
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)
    mine = torch.tensor([digest, asked], dtype=torch.int64)
    told = [(int(t[0]), int(t[1])) for t in gather(_sendable(mine))]
    digests = [d for d, _ in told]
    usual = max(digests, key=digests.count)
    odd = [i for i, d in enumerate(digests) if d != usual]
    if odd:
        raise RanksDiffer(
            f"after {where}, process {', '.join(map(str, odd))} of {world()} holds other numbers than the rest: "
            "stopped, the last checkpoint stands. Unequal torch versions or hardware of the processes can do that"
        )
    return max(flag for _, flag in told)
