import subprocess
import sys

import numpy as np
import pytest
import tiny

from cnnjax.config import ConfigError, Data
from cnnjax.data.sources import load
from cnnjax.data.statistics import channel_stats
from cnnjax.data.tfds import download as tfds_download


def counts(split):
    return np.bincount(split["label"]).tolist()


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    dataset = load(Data(name="digits"))
    assert dataset.train["image"].shape == (1437, 8, 8, 1) and dataset.test["image"].shape == (360, 8, 8, 1)
    assert dataset.train["image"].min() == 0 and dataset.train["image"].max() == 255
    # The same pairs of image and label, in two parts.
    images = np.concatenate([dataset.train["image"], dataset.test["image"]]).reshape(1797, 64)
    ours = np.column_stack([images, np.concatenate([dataset.train["label"], dataset.test["label"]])])
    source = load_digits()
    theirs = np.column_stack([np.round(source.data / 16 * 255), source.target]).astype(np.int64)
    np.testing.assert_array_equal(sorted(ours.tolist()), sorted(theirs.tolist()))
    # By hand: 360/1797 of 178, 182, 177, 183, 181, 182, 181, 179, 174, 180 by largest remainders.
    assert counts(dataset.test) == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]


def test_digits_resized_and_limited():
    dataset = load(Data(name="digits", image_size=28, limit=50))
    assert dataset.train["image"].shape == dataset.test["image"].shape == (50, 28, 28, 1)
    whole = load(Data(name="digits"))
    np.testing.assert_array_equal(dataset.train["label"], whole.train["label"][:50])


def test_synthetic_images_can_be_learned():
    from sklearn.neighbors import NearestCentroid

    dataset = load(Data(name="synthetic"))
    assert dataset.train["image"].shape == (1000, 32, 32, 3)
    assert counts(dataset.train) == [100] * 10 and counts(dataset.test) == [20] * 10
    flat = [split["image"].reshape(len(split["label"]), -1) for split in (dataset.train, dataset.test)]
    model = NearestCentroid().fit(flat[0], dataset.train["label"])
    assert model.score(flat[1], dataset.test["label"]) > 0.95
    again = load(Data(name="synthetic"))
    np.testing.assert_array_equal(dataset.test["image"], again.test["image"])
    assert load(Data(name="synthetic", image_size=17)).test["image"].shape == (200, 17, 17, 3)


def test_validation_replaces_the_test_split():
    whole = load(Data(name="digits"))
    dataset = load(Data(name="digits", validation=0.1))
    assert len(dataset.train["label"]) == 1293 and len(dataset.test["label"]) == 144
    parts = np.concatenate([dataset.train["image"], dataset.test["image"]]).reshape(1437, -1)
    np.testing.assert_array_equal(
        sorted(parts.tolist()), sorted(whole.train["image"].reshape(1437, -1).tolist())
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minst", "unknown; did you mean .*mnist"),
        ("digit", r"did you mean digits\b"),
        ("cifar-10", "did you mean cifar10"),
        (
            "Xyzzy/q:1.0.0",
            "choose digits, synthetic, folder:PATH, .*yolo:PATH, .*figures, points:PATH, records:PATH or a name of tensorflow-datasets",
        ),
        ("", "unknown; choose digits"),
        ("folder:", "did you mean folder:PATH"),
        ("../../etc", "unknown"),
        ("huggingface:mnist", "unknown"),
        ("emnist/letter", "choose one of emnist/byclass, .*, emnist/letters"),
        ("mnist/big", "mnist has no configurations"),
        ("mnist:9.9.9", "cannot be loaded at version 9.9.9"),
        (
            "tf_flowers",
            "not prepared as array_record in .*pip install tensorflow .*"
            "tfds build tf_flowers --file_format=array_record --data_dir=",
        ),
        ("imagenet_resized/8x8", "tfds build imagenet_resized/8x8 --file_format"),
    ],
)
def test_mistaken_names_get_one_clear_line(name, message, tmp_path, offline):
    with pytest.raises(ConfigError, match=message) as caught:
        load(Data(name=name), str(tmp_path))
    assert "\n" not in str(caught.value) and f"data.name={name!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "emnist/digits", "cifar10", "cifar100"])
def test_without_network_every_archive_says_so(name, tmp_path, offline):
    with pytest.raises(ConfigError, match="cannot be reached: go online, or put .* into") as caught:
        load(Data(name=name), str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def fetched(files, folder, monkeypatch):
    """Lets `fetch` find the files, as if these were the ones on record."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(
        tfds_download, "fetch", lambda builder, data_dir: {name: folder / name for name in files}
    )


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_mnist_and_its_kin(name, tmp_path, monkeypatch):
    images, labels = tiny.random_images(20, 28, 28), np.arange(20, dtype=np.uint8) % 10
    fetched(tiny.mnist((images, labels), (images[:5], labels[:5])), tmp_path, monkeypatch)
    dataset = load(Data(name=name, limit=12), str(tmp_path))
    np.testing.assert_array_equal(dataset.train["image"][..., 0], images[:12])
    np.testing.assert_array_equal(dataset.test["label"], labels[:5])
    first = {"mnist": "0", "fashion_mnist": "T-shirt/top", "kmnist": "o"}
    assert len(dataset.classes) == 10 and dataset.classes[0] == first[name]
    assert load(Data(name=name, image_size=32), str(tmp_path)).train["image"].shape == (20, 32, 32, 1)


def test_emnist_from_its_archive_is_upright(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    images, labels = tiny.random_images(20, 28, 28), np.arange(20, dtype=np.uint8) % 10
    config = tfds.builder_cls("emnist").builder_configs["digits"]
    monkeypatch.setattr(config, "train_examples", 15)
    monkeypatch.setattr(config, "test_examples", 4)
    archive = tiny.emnist("digits", (images, labels), (images[:5], labels[:5]))
    fetched({"gzip.zip": archive}, tmp_path, monkeypatch)
    dataset = load(Data(name="emnist/digits"), str(tmp_path))
    np.testing.assert_array_equal(dataset.train["image"][..., 0], images[:15].swapaxes(1, 2))
    np.testing.assert_array_equal(dataset.test["label"], labels[:4])
    assert len(dataset.classes) == 10


def test_cifar_has_the_names_of_its_archive(tmp_path, monkeypatch):
    images = tiny.random_images(10, 32, 32, 3)
    files = {
        f"data_batch_{i + 1}.bin": tiny.cifar_records(images[i : i + 1], np.array([i % 2])) for i in range(5)
    }
    files |= {"test_batch.bin": tiny.cifar_records(images[5:], np.ones(5)), "batches.meta.txt": b"cat\ndog\n"}
    fetched({"cifar-10-binary.tar.gz": tiny.cifar(files)}, tmp_path, monkeypatch)
    dataset = load(Data(name="cifar10"), str(tmp_path))
    assert dataset.classes == ("cat", "dog")
    np.testing.assert_array_equal(dataset.test["image"], images[5:])


def test_where_data_is_looked_for(tmp_path, monkeypatch, offline):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "of_environment"))
    with pytest.raises(ConfigError, match="of_environment"):
        load(Data(name="mnist"))
    with pytest.raises(ConfigError, match="given"):
        load(Data(name="mnist"), str(tmp_path / "given"))
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    with pytest.raises(ConfigError, match="home/tensorflow_datasets"):
        load(Data(name="mnist"))


def test_own_data_needs_no_import_of_tensorflow_datasets():
    code = (
        "import sys; from cnnjax.config import Data; from cnnjax.data.sources import load; "
        "load(Data(name='synthetic')); assert 'tensorflow_datasets' not in sys.modules; "
        "assert 'sklearn' not in sys.modules and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_mnist(shared, offline):
    dataset = load(Data(name="mnist"), str(shared("data/tfds")))
    assert dataset.train["image"].shape == (60_000, 28, 28, 1)
    assert dataset.test["image"].shape == (10_000, 28, 28, 1)
    # Published: http://yann.lecun.com/exdb/mnist, and every description since.
    assert counts(dataset.train) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert counts(dataset.test) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.train["label"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    (mean,), (std,) = channel_stats(dataset.train["image"])
    assert (round(mean, 4), round(std, 4)) == (0.1307, 0.3081)
    held = load(Data(name="mnist", validation=1 / 12), str(shared("data/tfds")))
    assert len(held.train["label"]) == 55_000 and len(held.test["label"]) == 5_000


def test_real_mnist_archives_are_verified(shared, tmp_path, offline):
    (tmp_path / "downloads").mkdir()
    for path in shared("data/tfds/downloads").iterdir():
        if "t10k-labels" in path.name and path.suffix == ".gz":
            (tmp_path / "downloads" / path.name).write_bytes(path.read_bytes()[:-1] + b"x")
        else:
            (tmp_path / "downloads" / path.name).symlink_to(path)
    with pytest.raises(ConfigError, match="t10k-labels.*.gz is damaged: wrong SHA-256 sum"):
        load(Data(name="mnist"), str(tmp_path))


def test_real_cifar10(shared, offline, cache):
    data_dir = str(shared("data/tfds"))
    dataset = load(Data(name="cifar10", limit=2000), data_dir)
    assert dataset.train["image"].shape == dataset.test["image"].shape == (2000, 32, 32, 3)
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert dataset.classes == tuple(names.split())
    (stored,) = cache.rglob("*.npz")
    written = stored.stat().st_mtime_ns
    again = load(Data(name="cifar10", limit=2000), data_dir)
    assert stored.stat().st_mtime_ns == written  # not decoded again
    np.testing.assert_array_equal(dataset.train["image"], again.train["image"])


@pytest.mark.full
def test_the_whole_of_real_cifar10(shared, offline):
    dataset = load(Data(name="cifar10"), str(shared("data/tfds")))
    assert counts(dataset.train) == [5000] * 10 and counts(dataset.test) == [1000] * 10
    mean, std = channel_stats(dataset.train["image"])
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-4)  # as everybody has it
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=1e-4)
