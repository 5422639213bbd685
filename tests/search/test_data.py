from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from devices.errors import UserError
from search.augment import PAD, RESIZED, Augmentation, augment, centre_box, coloured, crop_box, crop_draws, cut_out
from search.data import (
    Data,
    DataError,
    Reading,
    Split,
    batch,
    from_datasets,
    load_data,
    stratified,
    validation_share,
)
from search.decode import Decoded
from search.loader import Loader
from search.rows import RowGroups, windowed_order


def test_digits_are_split_by_class_and_do_not_overlap() -> None:
    data = load_data("digits", image_size=20)
    parts = [data.train, data.validation, data.test]
    assert sum(map(len, parts)) == 1797
    assert len(set(np.concatenate([p.indices for p in parts]).tolist())) == 1797
    for part in parts:
        shares = np.bincount(part.labels, minlength=10) / len(part)
        assert np.allclose(shares, 0.1, atol=0.01)
    assert data.image_shape == (3, 20, 20)
    x, y = data.test.fetch([0, 1, 2])
    assert x.dtype == torch.float32
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    assert y.tolist() == data.test.labels[:3].tolist()
    assert not data.flip


def test_stratified_holds_the_share_of_each_class() -> None:
    labels = np.array([0] * 50 + [1] * 10 + [2] * 5)
    kept, held = stratified(labels, 0.2, seed=1)
    assert np.bincount(labels[held]).tolist() == [10, 2, 1]
    assert sorted([*kept, *held]) == list(range(65))
    assert not np.array_equal(held, stratified(labels, 0.2, seed=2)[1])


def test_an_epoch_of_batches_is_a_permutation(bands: Data) -> None:
    marked = Split(
        TensorDataset(torch.arange(10.0).reshape(10, 1, 1, 1), torch.zeros(10)), np.arange(10), np.zeros(10, int)
    )
    epochs = [[int(v) for step in range(e * 3, e * 3 + 3) for v in batch(marked, 3, 0, "s", step)[0]] for e in range(2)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [int(v) for v in batch(marked, 3, 0, "s", 4)[0]] == epochs[1][3:6]
    assert len(batch(marked, 64, 0, "s", 7)[0]) == 10


def test_augmentation_shifts_and_flips_reproducibly() -> None:
    ramp = torch.arange(256.0).reshape(1, 1, 16, 16).repeat(32, 1, 1, 1)
    split = Split(TensorDataset(ramp, torch.zeros(32)), np.arange(32), np.zeros(32, int))
    shifted, _ = batch(split, 32, 0, "s", 0, augment=True)
    flipped, _ = batch(split, 32, 0, "s", 0, augment=True, flip=True)
    assert torch.equal(shifted, batch(split, 32, 0, "s", 0, augment=True)[0])
    for plain, image in zip(shifted, flipped, strict=True):
        pixels = set(image[image > 0].tolist())
        assert pixels <= set(range(256))
        # rows rise left to right, unless mirrored; and each pixel keeps its row's neighbours
        rises = (image[0, 8, 4:12].diff() == 1).all()
        falls = (image[0, 8, 4:12].diff() == -1).all()
        assert bool(rises) != bool(falls)
        assert bool((plain[0, 8, 4:12].diff() == 1).all())
    mirrored = sum(bool(image[0, 8, 5] > image[0, 8, 6]) for image in flipped)
    assert 6 < mirrored < 26
    assert len({float(image[0, 8, 8]) for image in shifted}) > 5


def test_a_users_own_datasets() -> None:
    x = torch.rand(40, 3, 8, 8)
    train, test = TensorDataset(x, torch.arange(40) % 4), TensorDataset(x[:8], torch.arange(8) % 4)
    data = from_datasets(train, test)
    assert (len(data.train), len(data.validation), len(data.test), len(data.classes)) == (32, 8, 8, 4)
    images, labels = data.validation.fetch([0])
    index = int(data.validation.indices[0])
    assert torch.equal(images[0], x[index])
    assert int(labels[0]) == index % 4


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(torch.rand(0, 3, 8, 8), torch.zeros(0)), "is empty"),
        (TensorDataset(torch.rand(4, 8, 8), torch.zeros(4)), r"whose first is a tensor of shape \(8, 8\)"),
        (
            TensorDataset(torch.rand(4, 3, 8, 8)),
            r"must give \(image tensor \(C, H, W\), label\) pairs; item 0 is a tuple",
        ),
        (TensorDataset(torch.rand(4, 3, 8, 8), -torch.ones(4)), "label -1"),
        (TensorDataset(torch.rand(4, 3, 8, 8), torch.rand(4, 2)), "not a whole number"),
        (TensorDataset(torch.rand(40, 3, 8, 8), torch.ones(40)), "same label"),
    ],
)
def test_unusable_datasets_say_why(dataset: TensorDataset, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_datasets(dataset, dataset)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("cifar", "known: digits, parquet:DIR, imagefolder:DIR"),
        ("parquet:", "known:"),
        ("parquet:nowhere", "no folder nowhere"),
        ("imagefolder:nowhere/at/all", "no folder nowhere/at/all"),
    ],
)
def test_a_bad_spec_says_what_to_do(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec, image_size=8)


def test_an_impossible_image_size() -> None:
    with pytest.raises(DataError, match="--image-size 0"):
        load_data("digits", image_size=0)


def png(value: int, size: tuple[int, int] = (12, 10)) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def write_parquet(path: Path, rows: dict[str, list[object]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def cells(n: int) -> list[object]:
    return [{"bytes": png(10 * i), "path": None} for i in range(n)]


def test_parquet_with_and_without_a_test_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", {"img": cells(20), "label": [i % 2 for i in range(20)]})
    data = load_data(f"parquet:{tmp_path}", image_size=6)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    assert data.image_shape == (3, 6, 6)
    position = int(data.test.indices[0])
    assert float(data.test.fetch([0])[0][0, 0].mean()) == pytest.approx(10 * position / 255)
    write_parquet(tmp_path / "test-0.parquet", {"img": cells(6), "label": [i % 2 for i in range(6)]})
    assert len(load_data(f"parquet:{tmp_path}", image_size=6).test) == 6


def test_labels_may_be_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"image": cells(20), "label": ["dog" if i % 2 else "cat" for i in range(20)]})
    data = load_data(f"parquet:{tmp_path}", image_size=6, channels=1)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [int(i % 2) for i in data.train.indices]
    assert data.image_shape == (1, 6, 6)


def test_imagefolder(tmp_path: Path) -> None:
    for name in ("ape", "bee"):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i}.png").write_bytes(png(20 * i))
    data = load_data(f"imagefolder:{tmp_path}", image_size=6)
    assert data.classes == ("ape", "bee")
    assert len(data.train) + len(data.validation) + len(data.test) == 20


def test_large_sets_are_decoded_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import search.folders

    write_parquet(tmp_path / "a.parquet", {"img": cells(20), "label": [i % 2 for i in range(20)]})
    kept = load_data(f"parquet:{tmp_path}", image_size=6)
    monkeypatch.setattr(search.folders, "IN_MEMORY_BYTES", 0)
    lazy = load_data(f"parquet:{tmp_path}", image_size=6)
    assert type(lazy.train.dataset) is Decoded
    assert torch.equal(kept.train.fetch([3, 1])[0], lazy.train.fetch([3, 1])[0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"img": [1, 2], "label": [0, 1]}, "no image column .*columns: img, label"),
        ({"img": cells(4), "kind": [0, 1, 0, 1]}, "no label column; columns: img, kind"),
        ({"img": cells(4), "label": [0, None, 0, 1]}, "is a label missing"),
        ({"img": cells(4), "label": [0, -1, 0, 1]}, "run from -1 to 1"),
        (
            {"img": [{"bytes": b"no image", "path": None}] * 4, "label": [0, 1, 0, 1]},
            r"none of the 4 training images can be decoded: \S+a\.parquet row 0",
        ),
        ({"img": cells(2), "label": [0, 1]}, "more images are needed"),
    ],
)
def test_unusable_parquet_says_why(tmp_path: Path, rows: dict[str, list[object]], message: str) -> None:
    write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(DataError, match=message):
        load_data(f"parquet:{tmp_path}", image_size=6)


def test_a_folder_without_parquet_or_with_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*\.parquet file"):
        load_data(f"parquet:{tmp_path}", image_size=6)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="cannot be read"):
        load_data(f"parquet:{tmp_path}", image_size=6)


@pytest.mark.parametrize("stream", [False, True])
def test_parquet_files_that_do_not_belong_together_say_which(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], stream: bool
) -> None:
    """The file, also where only the kind of labels differs, and nothing of what `datasets` logs."""
    for i in range(3):
        write_parquet(tmp_path / f"part{i}.parquet", {"img": cells(6), "label": [0, 1, 2] * 2})
    odd = tmp_path / "a_table.parquet"
    write_parquet(odd, {f"c{i}": [1.0] for i in range(9)})
    reading = Reading(stream=stream)
    with pytest.raises(
        DataError, match=r"a_table\.parquet has columns c0, .*c5 and 3 more, other files have img, label"
    ):
        load_data(f"parquet:{tmp_path}", image_size=6, reading=reading)
    odd.write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"a_table\.parquet cannot be read"):
        load_data(f"parquet:{tmp_path}", image_size=6, reading=reading)
    write_parquet(odd, {"img": cells(6), "label": ["x", "y", "z"] * 2})
    with pytest.raises(DataError, match=r"a_table.* has columns img, label \(text\), .* have img, label \(numbers\)"):
        load_data(f"parquet:{tmp_path}", image_size=6, reading=reading)
    assert capfd.readouterr().err == ""


def test_parquet_that_datasets_cannot_join_tells_the_cause_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(tmp_path / "a.parquet", {"img": cells(6), "label": [0, 1, 2] * 2, "more": [1] * 6})
    write_parquet(tmp_path / "b.parquet", {"img": cells(6), "label": [0, 1, 2] * 2, "more": ["x"] * 6})
    with pytest.raises(DataError, match="cannot be read: ArrowInvalid: Failed to parse string") as raised:
        load_data(f"parquet:{tmp_path}", image_size=6, reading=Reading(stream=False))
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""
    assert not caplog.records


def test_imagefolder_without_classes(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    with pytest.raises(DataError, match="no label column"):
        load_data(f"imagefolder:{tmp_path}", image_size=6)


def test_cifar10(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import search.folders

    if not (shared_data / "cifar10").is_dir():
        pytest.skip(f"no CIFAR-10 parquet in {shared_data}")
    monkeypatch.setattr(search.folders, "IN_MEMORY_BYTES", 0)  # reading 60,000 labels is enough here
    data = load_data(f"parquet:{shared_data / 'cifar10'}", image_size=32)
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    assert len(data.classes) == 10
    assert data.flip
    assert np.bincount(data.validation.labels).tolist() == [500] * 10
    images, labels = data.train.fetch([0, 1, 2])
    assert images.shape == (3, 3, 32, 32)
    assert float(images.std()) > 0.1
    assert labels.tolist() == data.train.labels[:3].tolist()


def test_validation_images_are_the_papers() -> None:
    """arXiv 1812.00332: 50,000 of ImageNet, 5,000 of CIFAR-10; a fifth of small sets."""
    for n, held in ((1_281_167, 50_000), (50_000, 5_000), (1_000, 200)):
        assert round(n * validation_share(n)) == held
    assert validation_share(1000, 30) == 0.03
    with pytest.raises(DataError, match="--validation-images 1000: there are 1000"):
        validation_share(1000, 1000)
    data = load_data("digits", image_size=8, reading=Reading(validation_images=100))
    assert abs(len(data.validation) - 100) <= 5


def jpeg(seed: int, size: tuple[int, int] = (60, 48)) -> bytes:
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def photos(folder: Path, n: int = 24, bad: tuple[int, ...] = ()) -> Path:
    """`n` JPEG files in two folders; those in `bad` are cut off half-way."""
    for i in range(n):
        content = jpeg(i)
        path = folder / ("ape", "bee")[i % 2] / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[: len(content) // 2] if i in bad else content)
    return folder


def photo_rows(folder: Path, n: int = 40, group: int = 4, bad: tuple[int, ...] = (), empty: bool = False) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": jpeg(i)[: 300 if i in bad else None], "path": None} for i in range(n)]
    folder.mkdir(exist_ok=True)
    half = n // 2
    for part, rows in enumerate((range(half), range(half, n))):
        table = pa.table({"image": [images[i] for i in rows], "label": [i % 2 for i in rows]})
        pq.write_table(table, folder / f"train-{part}.parquet", row_group_size=group)
    return folder


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_corrupt_images_are_named_counted_and_left_out(tmp_path: Path, kind: str, stream: bool) -> None:
    folder = (
        photos(tmp_path / "x", 40, bad=(3, 8)) if kind == "imagefolder" else photo_rows(tmp_path / "x", bad=(3, 28))
    )
    said: list[str] = []
    reading = Reading(max_corrupt=2, stream=stream, workers=2, warn=said.append)
    data = load_data(f"{kind}:{folder}", image_size=16, reading=reading)
    for split in (data.train, data.validation, data.test):
        images, labels = split.fetch(range(len(split)))
        assert len(images) == len(labels)
    assert len(said) == 2
    named = ("03.jpg", "08.jpg") if kind == "imagefolder" else ("train-0.parquet row 3", "train-1.parquet row 8")
    assert all(any(name in line for line in said) for name in named), said
    assert "2 so far of --max-corrupt 2" in said[1]
    strict = Reading(max_corrupt=1, stream=stream, warn=said.append)

    def read_all() -> None:
        data = load_data(f"{kind}:{folder}", image_size=16, reading=strict)
        for split in (data.train, data.validation, data.test):
            split.fetch(range(len(split)))

    with pytest.raises(DataError, match=r"cannot be decoded .*that makes 2, and --max-corrupt is 1"):
        read_all()


def test_an_image_that_its_decoder_stumbles_over_is_a_corrupt_one(tmp_path: Path) -> None:
    """A TIFF whose width is of type 5, a fraction: Pillow 13.0 raises TypeError, which is not among what it documents."""
    from PIL import Image

    folder = photos(tmp_path / "x", 40)
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 24, 3), 7, dtype=np.uint8)).save(buffer, "tiff")
    broken = bytearray(buffer.getvalue())
    broken[72] = 5
    (folder / "ape" / "99.tif").write_bytes(broken)
    said: list[str] = []
    data = load_data(f"imagefolder:{folder}", image_size=16, reading=Reading(warn=said.append))
    assert sum(map(len, (data.train, data.validation, data.test))) == 40
    (line,) = said
    assert "99.tif cannot be decoded" in line


def test_a_batch_is_filled_up_where_an_image_is_corrupt(tmp_path: Path) -> None:
    data = load_data(f"imagefolder:{photos(tmp_path, 24, bad=(3,))}", image_size=16, reading=Reading(stream=True))
    everything = Split(data.train.dataset, np.arange(24), data.train.dataset.labels)  # type: ignore[attr-defined]
    images, labels = everything.batch(np.array([12, 13, 14]))  # bee/01, 03, 05
    assert torch.equal(images[2], images[0])
    assert labels.tolist() == [1, 1, 1]
    images, labels = everything.fetch([12, 13, 14])
    assert len(images) == len(labels) == 2
    with pytest.raises(DataError, match="none of the 1 images"):
        everything.batch(np.array([13]))


@pytest.mark.parametrize("workers", [1, 3])
def test_decoding_ahead_by_threads_gives_what_plain_decoding_gives(tmp_path: Path, workers: int) -> None:
    """Any number of workers, any step first: a batch is a function of its step."""
    folder = photos(tmp_path)
    plain = load_data(f"imagefolder:{folder}", image_size=80)
    data = load_data(f"imagefolder:{folder}", image_size=80, reading=Reading(workers=workers))
    assert data.augmentation == RESIZED
    how = data.augmentation_of()
    straight = [Loader(plain.train, 4, 0, "s", how).batch(step) for step in range(8)]
    ahead, late = Loader(data.train, 4, 0, "s", how), Loader(data.train, 4, 0, "s", how)
    for step in range(8):
        assert all(map(torch.equal, ahead.batch(step), straight[step]))
    for step in (6, 1, 3, 5, 7):
        assert all(map(torch.equal, late.batch(step), straight[step]))


def test_streamed_row_groups_are_what_is_read_at_once_and_memory_is_bounded(tmp_path: Path) -> None:
    folder = photo_rows(tmp_path / "rows")
    kept = load_data(f"parquet:{folder}", image_size=16)
    data = load_data(f"parquet:{folder}", image_size=16, reading=Reading(stream=True, workers=3))
    assert kept.summary()["mixed_groups"] == 0 < data.summary()["mixed_groups"]  # another order: another run
    assert data.summary() | {"mixed_groups": 0} == kept.summary()
    for ours, theirs in ((data.train, kept.train), (data.test, kept.test)):
        assert torch.equal(ours.fetch(range(len(ours)))[0], theirs.fetch(range(len(theirs)))[0])
    groups = RowGroups(sorted(folder.glob("*.parquet")), "image", cache_bytes=1)
    assert (groups.capacity, groups.window, len(groups)) == (2, 1, 40)
    for i in np.random.default_rng(0).permutation(40):
        assert groups.encoded(int(i)) == jpeg(int(i))
        assert groups.held <= 2


def test_a_windowed_order_mixes_few_groups_at_a_time() -> None:
    groups = np.repeat(np.arange(12), 5)
    order = windowed_order(groups, 3, np.random.default_rng(0))
    assert sorted(order) == list(range(60))
    for first in range(0, 60, 15):
        assert len(set(groups[order[first : first + 15]])) == 3
    assert not np.array_equal(order, windowed_order(groups, 3, np.random.default_rng(1)))
    runs = (np.diff(groups[order]) != 0).sum()
    assert runs > 30  # mixed within the window, not group after group


def test_evaluation_takes_the_centre_and_training_parts_of_an_image() -> None:
    assert centre_box(400, 300, 0.875) == pytest.approx((68.75, 18.75, 331.25, 281.25))
    draws = crop_draws(500, 0, "s", 0)
    boxes = np.array([crop_box(400, 300, d) for d in draws])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 400).all()
    assert (boxes[:, 3] <= 300).all()
    assert ((w / h) > 0.74).all()
    assert ((w / h) < 1.35).all()
    area = w * h / 120_000
    assert area.min() > 0.07
    assert 0.35 < area.mean() < 0.55
    assert torch.equal(draws, crop_draws(500, 0, "s", 0))
    assert crop_box(1000, 10, draws[0])[3] <= 10  # nothing fits: the centre


def test_a_large_jpeg_is_decoded_small_to_nearly_the_same_pixels(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("ape", "bee"):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.jpg").write_bytes(jpeg(i, (640, 512)))
    data = load_data(f"imagefolder:{tmp_path}", image_size=72)
    image = Image.open(tmp_path / "ape" / "0.jpg")
    exact = image.resize((72, 72), Image.Resampling.BILINEAR, box=centre_box(640, 512, 0.875))
    expected = torch.from_numpy(np.asarray(exact).copy()).permute(2, 0, 1).float() / 255
    got = data.train.dataset[0][0]
    assert float((got - expected).abs().mean()) < 0.01


def test_cutout_and_colours() -> None:
    draws = torch.Generator().manual_seed(0)
    cut = cut_out(torch.ones(64, 3, 32, 32), 0.5, draws)
    shares = (cut == 0.5).float().mean(dim=(1, 2, 3))
    assert float(shares.max()) == 0.25  # 16 of 32 pixels where the square lies inside
    assert float(shares.min()) >= 0.25 / 4 - 0.02
    x = torch.rand(64, 3, 8, 8)
    y = coloured(x, draws)
    assert 0 <= float(y.min()) <= float(y.max()) <= 1
    assert len({round(float(v), 4) for v in (y.mean(dim=(1, 2, 3)) - x.mean(dim=(1, 2, 3)))}) > 30
    grey = torch.full((4, 3, 2, 2), 0.25)
    assert torch.allclose(coloured(grey, draws).std(dim=1), torch.zeros(4, 2, 2), atol=1e-6)  # saturation leaves grey


def test_augmentation_is_drawn_from_seed_stream_and_step() -> None:
    x = torch.rand(8, 3, 16, 16)
    how = Augmentation(PAD, flip=True, cutout=0.25)
    first = augment(x, how, 0, "s", 5)
    assert torch.equal(first, augment(x, how, 0, "s", 5))
    assert all(not torch.equal(first, augment(x, how, *other)) for other in ((1, "s", 5), (0, "t", 5), (0, "s", 6)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augmentation": "padcrop"}, "--augmentation padcrop: did you mean 'pad-crop'"),
        ({"max_corrupt": -1}, "--max-corrupt -1"),
        ({"workers": -2}, "--workers -2"),
    ],
)
def test_unusable_ways_of_reading(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reading(**options)
