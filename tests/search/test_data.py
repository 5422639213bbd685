from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from search.data import Data, DataError, Split, batch, from_datasets, load_data, stratified


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
    assert type(lazy.train.dataset) is search.folders.Decoded
    assert torch.equal(kept.train.fetch([3, 1])[0], lazy.train.fetch([3, 1])[0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"img": [1, 2], "label": [0, 1]}, "no image column .*columns: img, label"),
        ({"img": cells(4), "kind": [0, 1, 0, 1]}, "no label column; columns: img, kind"),
        ({"img": cells(4), "label": [0, None, 0, 1]}, "is a label missing"),
        ({"img": cells(4), "label": [0, -1, 0, 1]}, "run from -1 to 1"),
        ({"img": [{"bytes": b"no image", "path": None}] * 4, "label": [0, 1, 0, 1]}, "image 0 .*cannot be decoded"),
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
    assert (len(data.train), len(data.validation), len(data.test)) == (40_000, 10_000, 10_000)
    assert len(data.classes) == 10
    assert data.flip
    assert np.bincount(data.validation.labels).tolist() == [1000] * 10
    images, labels = data.train.fetch([0, 1, 2])
    assert images.shape == (3, 3, 32, 32)
    assert float(images.std()) > 0.1
    assert labels.tolist() == data.train.labels[:3].tolist()
