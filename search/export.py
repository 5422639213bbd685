"""`python -m search.export`: trained weights as .onnx or .tflite, fp32, fp16 or int8, checked on images. See --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from devices.errors import UserError
from latency.console import Ui, parser, run
from search import options


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    return run(_work, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    made = parser("search.export", "Write trained weights as .onnx or .tflite in the precision they are deployed in.")
    made.add_argument("--weights", type=Path, required=True, help="model.safetensors, from python -m search.train")
    made.add_argument("--arch", type=Path, help="architecture.json that the weights must belong to")
    made.add_argument("--format", default="onnx", help="onnx or tflite")
    made.add_argument("--precision", default="fp32", help="fp32, fp16 or int8")
    made.add_argument("--out", type=Path, help="file to write; by default network_PRECISION.FORMAT beside the weights")
    made.add_argument("--input-size", type=int, help="side of the images it takes; by default the architecture's")
    made.add_argument("--calibration-images", type=int, default=64, help="training images that int8 is calibrated on")
    made.add_argument("--eval-images", type=int, default=500, help="test images that accuracy is measured on")
    made.add_argument("--seed", type=int, default=0, help="the seed of the training: it decides what is a test image")
    options.add_data(made, default=None, sized=False)
    return made


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    for name in ("calibration_images", "eval_images", "input_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: at least 1")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as in search.run
    from search.evaluate import calibration, compare
    from search.formats import check_format, export
    from search.images import check_images
    from search.weights import load_weights

    check_format(args.format, args.precision)
    from latency.space import load_architecture

    trained = load_weights(args.weights, None if args.arch is None else load_architecture(args.arch).ops)
    _, channels, size, _ = trained.ops[0].input_shape
    size = args.input_size or size
    check_images(trained.ops, (channels, size, size), "the network")
    path = args.out or args.weights.with_name(f"network_{args.precision}.{args.format}")
    if path.suffix != f".{args.format}":
        raise UserError(f"--out {path}: a file of format {args.format} ends in .{args.format}")
    data = None
    if args.data is not None:
        args.image_size = trained.image_size  # as trained; then scaled to what the file takes
        data = options.data_of(args, ui, channels=channels, seed=args.seed)
        if data.classes != trained.classes:
            raise UserError(
                f"{args.weights}: trained on {len(trained.classes)} classes ({', '.join(trained.classes[:3])}, ...), "
                f"--data {args.data} has {len(data.classes)} ({', '.join(data.classes[:3])}, ...)"
            )
        if size != trained.image_size:
            ui.warn(
                f"trained on images of {trained.image_size}, exported for {size}: accuracy is that of enlarged images; "
                f"--input-size {trained.image_size} exports for the former"
            )
    elif args.precision == "int8":
        ui.warn("without --data int8 is calibrated on noise: right for timing, not for accuracy")
    shape = (1, channels, size, size)
    inputs = None if data is None else calibration(data, size, args.calibration_images, args.seed)
    made = export(trained.network, shape, path, args.precision, inputs)
    result: dict[str, Any] = {"path": str(path), "bytes": path.stat().st_size, "deviation": made.deviation}
    ui.say(
        f"{path}: {'x'.join(map(str, shape))}, {args.precision}, {result['bytes'] / 1e6:.2f} MB, "
        f"differs from torch by {made.deviation:.1e} of the largest output"
    )
    if data is not None:
        ours, theirs, n = compare(trained.network, made.run, data, size, args.eval_images)
        result |= {"accuracy": theirs, "torch_accuracy": ours, "eval_images": n}
        ui.say(f"accuracy on {n} test images: {theirs:.1%} (torch, fp32: {ours:.1%})")
    return result


if __name__ == "__main__":
    sys.exit(main())
