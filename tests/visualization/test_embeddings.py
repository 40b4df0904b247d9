"""Images as vectors: features, neighbours, a linear SVM, the projector's files."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax.config import ConfigError
from cnnjax.visualization import embeddings as em


def test_features_are_the_layer_in_the_order_of_the_images(lenet, digits):
    images = digits[0][:10]
    stages = lenet.stages(jnp.asarray(images, jnp.float32) / 255)
    found = em.features(lenet, images, ["fc2", "conv2"], batch_size=4)
    assert set(found) == {"fc2", "conv2"}
    np.testing.assert_allclose(found["fc2"], stages["fc2"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["conv2"], np.mean(stages["conv2"], axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_a_linear_svm_separates_digits_by_their_features(lenet, digits):
    images, labels = digits
    vectors = em.features(lenet, images[1000:1800], ["fc2"])["fc2"]
    labels = labels[1000:1800]
    accuracy = em.svm_accuracy(vectors[:400], labels[:400], vectors[400:], labels[400:])
    assert accuracy > 0.85
    shuffled = np.random.default_rng(0).permutation(labels[:400])
    assert em.svm_accuracy(vectors[:400], shuffled, vectors[400:], labels[400:]) < 0.4


def test_neighbours_are_the_smallest_angles():
    vectors = np.random.default_rng(0).normal(size=(30, 5))
    vectors[7] = vectors[3]  # even where another vector is the same
    found = em.nearest(vectors, [3, 11], count=4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, query in zip(found, (3, 11), strict=True):
        order = np.argsort(-(unit @ unit[query]), kind="stable")
        np.testing.assert_array_equal(np.sort(row), np.sort(order[order != query][:4]))
        assert query not in row


def test_pca_finds_the_long_axes():
    rng = np.random.default_rng(0)
    coordinates = rng.normal(size=(100, 2)) * [10, 3]
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    points = em.pca(coordinates @ basis[:2] + 0.01 * rng.normal(size=(100, 6)))
    for axis in range(2):
        assert abs(np.corrcoef(points[:, axis], coordinates[:, axis])[0, 1]) > 0.98


def test_tsne_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(20, 5)), rng.normal(size=(20, 5)) + 20])
    points = em.tsne(vectors)
    centres = points[:20].mean(0), points[20:].mean(0)
    spread = max(
        np.linalg.norm(p - c, axis=1).max() for p, c in zip((points[:20], points[20:]), centres, strict=True)
    )
    assert points.shape == (40, 2) and np.linalg.norm(centres[0] - centres[1]) > spread
    with pytest.raises(ConfigError, match="at least 4 images"):
        em.tsne(vectors[:3])


def test_thumbnails_lie_at_their_places():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    images[1] = 128
    picture = em.scatter_picture(np.asarray([[0.0, 0.0], [1.0, 2.0]]), images, size=50, thumbnail=10)
    assert (picture[:10, :10] == 0).all() and (picture[40:, 40:] == 128).all()
    assert (picture[10:40] == 255).all()


def test_pictures_of_vectors_and_neighbours():
    assert em.vector_picture(np.arange(10.0)).ndim == 3
    images = np.zeros((5, 8, 8, 3), np.uint8)
    assert em.neighbours_picture(images, [0, 1], np.asarray([[1, 2], [3, 4]])).dtype == np.uint8


def test_projector_files(tmp_path):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((5, 4, 4, 1), 50, np.uint8)
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    em.write_projector(tmp_path, vectors, images, ["a", "b\tb", "c\nc", "d", "e"], thumbnail=4)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "vectors.tsv", delimiter="\t"), vectors, rtol=1e-5)
    assert (tmp_path / "metadata.tsv").read_text().splitlines() == ["a", "b b", "c c", "d", "e"]
    sprite = np.asarray(Image.open(tmp_path / "sprite.png"))
    assert sprite.shape == (12, 12, 3)
    assert [int(sprite[4 * (i // 3), 4 * (i % 3), 0]) for i in range(6)] == [0, 50, 100, 150, 200, 0]
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "vectors.tsv"' in config and config.count("single_image_dim: 4") == 2
    with pytest.raises(ConfigError, match="at most 65536 images"):
        em.write_projector(tmp_path, vectors, np.zeros((65537, 1, 1, 1), np.uint8), [])
