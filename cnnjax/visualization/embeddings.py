"""A network as a vector representation of images: what is near what, and how well a linear model can use it."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from cnnjax.config import ConfigError
from cnnjax.drawing.figures import names_as_they_are
from cnnjax.network import Network
from cnnjax.visualization.addresses import parse_address
from cnnjax.visualization.batches import map_batches
from cnnjax.visualization.pictures import grid, plot, png, to_uint8

SPRITE_SIDE = 8192  # the largest that TensorBoard reads


def features(
    network: Network, images: np.ndarray, layers: Sequence[str], batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Vectors of layers, [N, F] each, of images [N, H, W, C]; of a layer with positions or rows, the mean over them."""
    names = tuple(parse_address(network, layer).layer for layer in layers)
    return map_batches(lambda batch: _vectors(network, batch, names), images, batch_size)


@functools.partial(jax.jit, static_argnames="layers")
def _vectors(network: Network, images: Array, layers: tuple[str, ...]) -> dict[str, Array]:
    stages = network.stages(images)
    values = {name: stages[name].astype(jnp.float32) for name in layers}
    return {name: jnp.mean(v, axis=tuple(range(1, v.ndim - 1))) for name, v in values.items()}


def svm_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Share of test vectors that a linear SVM, trained on the others, puts into the right class."""
    model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=0))
    model.fit(train, train_labels)
    return float(model.score(test, test_labels))


def nearest(vectors: np.ndarray, queries: Sequence[int], count: int = 8) -> np.ndarray:
    """Indices of the vectors nearest to some of them in angle, the nearest first: [queries, count]."""
    search = NearestNeighbors(n_neighbors=count + 1, metric="cosine").fit(vectors)
    found = search.kneighbors(vectors[list(queries)], return_distance=False)
    return np.stack([row[row != query][:count] for row, query in zip(found, queries, strict=True)])


def pca(vectors: np.ndarray) -> np.ndarray:
    """The two directions of largest variance: [N, 2]."""
    return PCA(2, random_state=0).fit_transform(vectors)


def tsne(vectors: np.ndarray) -> np.ndarray:
    """t-SNE in two dimensions (van der Maaten & Hinton 2008): [N, 2]."""
    if len(vectors) < 4:
        raise ConfigError(f"t-SNE needs at least 4 images, not {len(vectors)}")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    # on a busy machine its threads wait for each other ten times as long as they work
    with threadpool_limits(1):
        return TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(vectors)


def neighbours_picture(images: np.ndarray, queries: Sequence[int], found: np.ndarray) -> np.ndarray:
    """Queries on the left, their nearest neighbours to the right: uint8 [H, W, 3]."""
    order = np.concatenate([np.asarray(queries)[:, None], found], axis=1)
    return grid(images[order.ravel()], columns=order.shape[1], titles=("image",), side=56)


def scatter_picture(
    points: np.ndarray, images: np.ndarray, size: int = 900, thumbnail: int = 28
) -> np.ndarray:
    """Small images at their places [N, 2]: uint8 [size, size, 3]. Earlier images lie over later ones."""
    canvas = np.full((size, size, 3), 255, np.uint8)
    low, high = points.min(axis=0), points.max(axis=0)
    places = (points - low) / np.maximum(high - low, 1e-12)
    thumbnails = _thumbnails(images, thumbnail)
    corners = np.round(places * (size - thumbnail)).astype(int)
    for (x, y), picture in zip(corners[::-1], thumbnails[::-1], strict=True):
        canvas[y : y + thumbnail, x : x + thumbnail] = picture
    return canvas


@names_as_they_are()
def vector_picture(vector: np.ndarray, title: str = "") -> np.ndarray:
    """A vector [F] as a plot and, folded into rows, as an image: uint8 [H, W, 3]."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot(vector, linewidth=0.8)
    left.set(xlabel="feature", ylabel="value", title=title)
    columns = int(np.ceil(np.sqrt(len(vector))))
    folded = np.full(-(-len(vector) // columns) * columns, np.nan)
    folded[: len(vector)] = vector
    shown = right.imshow(folded.reshape(-1, columns), cmap="viridis")
    right.set(xticks=[], yticks=[], title=f"{len(vector)} values as an image")
    figure.colorbar(shown, ax=right)
    return plot(figure)


def write_projector(
    folder: Path | str, vectors: np.ndarray, images: np.ndarray, labels: Sequence[str], thumbnail: int = 32
) -> None:
    """Files for TensorBoard's embedding projector: `tensorboard --logdir FOLDER`.

    vectors.tsv, metadata.tsv (a label per line), sprite.png, projector_config.pbtxt.
    Raises ConfigError if the thumbnails of so many images do not fit into one sprite.
    """
    folder = Path(folder)
    columns = int(np.ceil(np.sqrt(len(images))))
    if columns * thumbnail > SPRITE_SIDE:
        limit = (SPRITE_SIDE // thumbnail) ** 2
        raise ConfigError(f"the projector shows at most {limit} images, not {len(images)}: give fewer")
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "vectors.tsv", vectors, fmt="%.6g", delimiter="\t")
    lines = [" ".join(str(label).split()) for label in labels]
    (folder / "metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sprite = np.zeros((columns * columns, thumbnail, thumbnail, 3), np.uint8)
    sprite[: len(images)] = _thumbnails(images, thumbnail)
    rows = sprite.reshape(columns, columns, thumbnail, thumbnail, 3).swapaxes(1, 2)
    (folder / "sprite.png").write_bytes(png(rows.reshape(columns * thumbnail, columns * thumbnail, 3)))
    fields = {"tensor_name": "features", "tensor_path": "vectors.tsv", "metadata_path": "metadata.tsv"}
    text = "".join(f"  {name}: {json.dumps(value)}\n" for name, value in fields.items())
    sprite_text = f'  sprite {{\n    image_path: "sprite.png"\n    single_image_dim: {thumbnail}\n    single_image_dim: {thumbnail}\n  }}\n'
    (folder / "projector_config.pbtxt").write_text(
        f"embeddings {{\n{text}{sprite_text}}}\n", encoding="utf-8"
    )


def _thumbnails(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, side, side, 3]."""
    pictures = to_uint8(images)
    return np.stack(
        [np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR)) for p in pictures]
    )
