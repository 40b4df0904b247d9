import gzip
import io

import numpy as np
import pytest
import tiny

from cnnjax.config import ConfigError
from cnnjax.data.formats import archives


def labels(count, num_classes, seed=0):
    return np.random.default_rng(seed).integers(0, num_classes, count, dtype=np.uint8)


def write(folder, files):
    paths = {name: folder / name for name in files}
    for name, content in files.items():
        paths[name].write_bytes(content)
    return paths


def test_mnist(tmp_path):
    train = tiny.random_images(5, 4, 3), labels(5, 10)
    test = tiny.random_images(2, 4, 3, seed=1), labels(2, 10, seed=1)
    splits = archives.read_mnist(write(tmp_path, tiny.mnist(train, test)))
    for split, (image, label) in zip(splits, (train, test), strict=True):
        np.testing.assert_array_equal(split["image"], image[..., None])
        np.testing.assert_array_equal(split["label"], label)
        assert split["image"].dtype == np.uint8 and split["label"].dtype == np.int32


def test_emnist_takes_the_first_examples_of_one_set(tmp_path):
    train, test = (tiny.random_images(6, 4, 4), labels(6, 26)), (tiny.random_images(3, 4, 4), labels(3, 26))
    path = tmp_path / "gzip.zip"
    path.write_bytes(tiny.emnist("letters", train, test))
    read_train, read_test = archives.read_emnist(path, "letters", 4, 3)
    np.testing.assert_array_equal(read_train["image"][..., 0], train[0][:4])
    np.testing.assert_array_equal(read_train["label"], train[1][:4])
    np.testing.assert_array_equal(read_test["label"], test[1])
    with pytest.raises(ConfigError, match="gzip.zip: 6 examples in the split train, not 7"):
        archives.read_emnist(path, "letters", 7, 3)
    with pytest.raises(ConfigError, match="gzip.zip: a file is missing in it.*emnist-digits-train"):
        archives.read_emnist(path, "digits", 4, 3)


def test_cifar10(tmp_path):
    images, label = tiny.random_images(12, 32, 32, 3), labels(12, 2)
    files = {
        f"data_batch_{i + 1}.bin": tiny.cifar_records(images[2 * i : 2 * i + 2], label[2 * i : 2 * i + 2])
        for i in range(5)
    }
    files |= {
        "test_batch.bin": tiny.cifar_records(images[10:], label[10:]),
        "batches.meta.txt": b"cat\ndog\n\n",
    }
    path = tmp_path / "cifar-10.tar.gz"
    path.write_bytes(tiny.cifar(files))
    train, test, classes = archives.read_cifar(path)
    np.testing.assert_array_equal(train["image"], images[:10])
    np.testing.assert_array_equal(train["label"], label[:10])
    np.testing.assert_array_equal(test["image"], images[10:])
    assert classes == ("cat", "dog")
    assert train["image"].flags.c_contiguous and train["label"].dtype == np.int32

    del files["data_batch_3.bin"]
    path.write_bytes(tiny.cifar(files))
    with pytest.raises(ConfigError, match="cifar-10.tar.gz: a file is missing in it: 'data_batch_3.bin'"):
        archives.read_cifar(path)


def test_cifar100_has_fine_labels(tmp_path):
    images, coarse, fine = tiny.random_images(3, 32, 32, 3), labels(3, 20), labels(3, 100, seed=1)
    records = tiny.cifar_records(images, coarse, fine)
    files = {"train.bin": records, "test.bin": records, "coarse_label_names.txt": b"fish"}
    path = tmp_path / "cifar-100.tar.gz"
    path.write_bytes(tiny.cifar(files | {"fine_label_names.txt": b"apple\naquarium_fish\n"}))
    train, _, classes = archives.read_cifar(path)
    np.testing.assert_array_equal(train["image"], images)
    np.testing.assert_array_equal(train["label"], fine)
    assert classes == ("apple", "aquarium_fish")


@pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 3, 4), (0, 5)])
def test_idx_of_any_number_of_axes(shape):
    array = tiny.random_images(*shape)
    np.testing.assert_array_equal(archives.read_idx(io.BytesIO(tiny.idx(array))), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\x89PNG\r\n", "not an idx file"),
        (tiny.idx(np.zeros((2, 2), np.uint8)).replace(b"\x08", b"\x0d", 1), "of unsigned bytes"),
        (tiny.idx(np.zeros((2, 2), np.uint8))[:-1], "ends after 3 of 4 bytes"),
        (tiny.idx(np.zeros((2, 2), np.uint8))[:7], "ends after 3 of 8 bytes"),
        (tiny.idx(np.zeros((2, 2), np.uint8)) + b"x", "longer than its header says"),
    ],
)
def test_idx_refuses(content, message):
    with pytest.raises(ValueError, match=message):
        archives.read_idx(io.BytesIO(content))


def test_cifar_refuses_part_of_a_record():
    with pytest.raises(ValueError, match="3,074 bytes are not a whole number of 3,073-byte records"):
        archives.read_cifar_records(bytes(3074), 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "end-of-stream"),
        (lambda content: b"not gzip" + content, "[Nn]ot a gzipped file"),
        (lambda content: gzip.compress(tiny.idx(np.zeros(3, np.uint8))), r"shape \(2,\) for images of shape \(3,\)"),
        (lambda content: gzip.compress(b"text"), "not an idx file"),
    ],
)  # fmt: skip
def test_errors_name_the_archive(damage, message, tmp_path):
    files = tiny.mnist(
        (tiny.random_images(2, 3, 3), labels(2, 2)), (tiny.random_images(2, 3, 3), labels(2, 2))
    )
    name = "t10k-images-idx3-ubyte.gz"
    paths = write(tmp_path, files | {name: damage(files[name])})
    with pytest.raises(ConfigError, match=f"t10k-.*-ubyte.gz: .*{message}"):
        archives.read_mnist(paths)


@pytest.mark.parametrize(
    "content", [b"", b"junk", tiny.cifar({"a.bin": bytes(9000)})[:60]], ids=["empty", "junk", "cut"]
)
def test_damaged_tar_and_zip_files_are_named(content, tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="data.bin: "):
        archives.read_cifar(path)
    with pytest.raises(ConfigError, match="data.bin: "):
        archives.read_emnist(path, "letters", 1, 1)
