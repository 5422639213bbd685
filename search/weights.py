"""model.safetensors: the weights of one trained network, and in its header what they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from devices.errors import UserError
from latency.files import write_atomically
from latency.modules import build_network
from latency.ops import Op, OpError, parse_op
from latency.space import for_classes

SCHEMA, HEADER = 1, "metronome"


class WeightsError(UserError):
    """A file of weights that cannot be read, or belongs to another network."""


@dataclass(frozen=True)
class Trained:
    """A network in eval mode with its ops as trained, the names of its classes, and the image size of its training."""

    network: nn.Module
    ops: tuple[Op, ...]
    classes: tuple[str, ...]
    image_size: int


def save_weights(path: Path, network: nn.Module, ops: Sequence[Op], classes: Sequence[str], image_size: int) -> None:
    """Write the weights of `network`, built of `ops` (as in architecture.json; classes as trained), atomically."""
    from safetensors.torch import save

    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    header = {"schema": SCHEMA, "ops": list(map(str, ops)), "classes": list(classes), "image_size": image_size}
    # One entry: safetensors writes several in an order that changes from process to process.
    write_atomically(path, save(tensors, metadata={HEADER: json.dumps(header)}))


def load_weights(path: Path, ops: Sequence[Op] | None = None) -> Trained:
    """The network in `path`. Raises WeightsError: no such file, damaged, not ours, or of other ops than `ops`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError) as error:
        why = "no such file" if not path.exists() else str(error)
        raise WeightsError(f"{path}: {why}; search.train writes one") from None
    if text is None:
        raise WeightsError(f"{path}: its header is not that of search.train")
    try:
        header = json.loads(text)
        if header["schema"] != SCHEMA:
            raise WeightsError(f"{path}: schema {header['schema']}, this version reads {SCHEMA}")
        found = tuple(parse_op(op) for op in header["ops"])
        classes = tuple(map(str, header["classes"]))
        image_size = int(header["image_size"])
    except WeightsError:
        raise
    except (KeyError, ValueError, TypeError, OpError) as error:
        raise WeightsError(f"{path}: its header is damaged ({error})") from None
    if ops is not None and tuple(ops) != found:
        first = next((i for i, (a, b) in enumerate(zip(ops, found, strict=False)) if a != b), min(len(ops), len(found)))
        raise WeightsError(f"{path}: weights of another architecture; op {first} differs from the architecture's")
    network = build_network(for_classes(found, len(classes)))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path}: its tensors do not fit its ops: {str(error).splitlines()[-1].strip()}") from None
    return Trained(network.eval(), found, classes, image_size)


def same_shape(images: torch.Tensor, size: int) -> torch.Tensor:
    """`images` (n, C, H, W) at `size` x `size`, bilinearly where they are not so already."""
    if images.shape[-2:] == (size, size):
        return images
    scaled: torch.Tensor = nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return scaled
