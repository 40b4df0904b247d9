"""Pages of the gallery that explain decisions: predictions, attribution, deconvnet, states, embeddings."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from cnnjax.config import ConfigError
from cnnjax.network import Network
from cnnjax.visualization import attribution as maps_of
from cnnjax.visualization import deconvnet as deconvnet_of
from cnnjax.visualization import embeddings as vectors_of
from cnnjax.visualization.addresses import LOGITS, activations, name_of_class, relus
from cnnjax.visualization.batches import to_float
from cnnjax.visualization.deconvnet import patches, project, strongest_activations
from cnnjax.visualization.fidelity import area, deletion_curve, insertion_curve
from cnnjax.visualization.pictures import Picture, grid, heat, plot, signed, to_uint8
from cnnjax.visualization.receptive_field import receptive_fields
from cnnjax.visualization.subject import Labelled, Subject

PLACED = 1000  # images that t-SNE and PCA place on a plane
SEARCHED = 2000  # images that are searched for strong activations


def predictions(subject: Subject) -> list[Picture]:
    """A check of the whole chain, preprocessing included: images with what the network says."""
    chosen = subject.examples()
    logits = activations(subject.network, to_float(subject.images[chosen]), LOGITS)
    shares = np.asarray(jax.nn.softmax(logits.astype(jnp.float32)))
    titles, right = [], 0
    for row, label in zip(shares, subject.labels[chosen], strict=True):
        best = np.argsort(-row, kind="stable")[:3]
        right += int(best[0] == label)
        titles.append(", ".join(f"{name_of_class(subject.network, int(i))} {row[i]:.2f}" for i in best))
    image = grid(subject.images[chosen], min(len(chosen), 3), titles=titles, side=200)
    caption = f"Examples with the three most probable classes; {right} of {len(chosen)} are right."
    return [Picture("predictions", image, caption, LOGITS, subject.command_for("predictions"))]


def attribution(subject: Subject) -> list[Picture]:
    """Maps of what decided for the label, by all methods, and how fast deleting what they name hurts."""
    chosen = subject.examples()
    network, images, labels = subject.network.exact(), subject.images[chosen], subject.labels[chosen]
    methods = _attribution_maps(subject, network, images, labels)
    cells, titles = [], []
    for i in range(len(chosen)):
        cells += [to_uint8(images[i])] + [shown[i] for _, shown in methods.values()]
        titles += (
            [name_of_class(network, int(labels[i])), *methods]
            if i == 0
            else [name_of_class(network, int(labels[i]))]
        )
        titles += [] if i == 0 else [""] * len(methods)
    caption = "What speaks for the label. Signed maps: grey is 0; heat maps: from their lowest to their highest value."
    image = grid(cells, len(methods) + 1, titles=titles, side=80, largest=128)
    command = subject.command_for("attribution")
    return [
        Picture("attribution", image, caption, LOGITS, command),
        _fidelity(subject, network, images, labels, {name: raw for name, (raw, _) in methods.items()}),
    ]


def deconvnet(subject: Subject) -> list[Picture]:
    """The strongest activations of feature maps projected back to pixels, beside the patches that caused them."""
    images = subject.images[:SEARCHED]
    result = []
    for name in subject.spatial_layers(3):
        channels = subject.channels(name)
        best = strongest_activations(subject.network, images, name, channels)
        active = np.flatnonzero(best.values[:, 0] > 0)  # of the others nothing can be projected
        if not len(active):
            continue
        positions = np.stack([best.y[active], best.x[active]], axis=-1)  # [channels, 9, 2]
        boxes = receptive_fields(subject.network, name, positions.reshape(-1, 2)).reshape(
            *positions.shape[:2], 4
        )
        cells, labels = [], []
        for i, places, seen in zip(active, positions, boxes, strict=True):
            pictures, c = images[best.images[i]], channels[i]
            projections = project(subject.network, pictures, name, [c] * len(pictures), places)
            for shown in (signed(patches(projections, seen)), patches(to_float(pictures), seen)):
                cells.append(grid(shown, 3, side=48, largest=72, space=2))
            labels += [f"{name}:{c}", "patches"]
        caption = (
            f"The nine images of {len(images)} that excite a map of {name} most: the activation projected back "
            "to pixels by a deconvnet, and the patch that the neuron sees. Light blue lies outside the image."
        )
        image = grid(cells, 4, titles=labels, side=1)
        result.append(
            Picture(f"deconvnet {name}", image, caption, name, subject.command_for("deconvnet", name))
        )
    return result


def evolution(subject: Subject) -> list[Picture]:
    """How features develop in training: the deconvnet at each checkpoint."""
    history = subject.history()
    if len(history) < 2:
        raise ConfigError(
            f"evolution needs several checkpoints, there is {len(history)}: train with more --train.keep_last"
        )
    images = subject.images[:SEARCHED]
    titles = [f"step {step}" for step, _ in history]
    result = []
    for name in subject.spatial_layers(2):
        chosen = subject.channels(name)
        found = deconvnet_of.evolution([network for _, network in history], images, name, chosen)
        cells = signed(found.swapaxes(0, 1).reshape(-1, *found.shape[2:]))  # a row for each channel
        image = grid(
            cells, len(history), titles=titles, rows=[f"{name}:{c}" for c in chosen], side=84, largest=112
        )
        caption = (
            f"Feature maps of {name} at several steps of training: for each the strongest activation over "
            f"{len(images)} images, projected back to pixels. Grey is 0; what never responds stays grey."
        )
        result.append(
            Picture(f"evolution {name}", image, caption, name, subject.command_for("evolution", name))
        )
    return result


def states(subject: Subject) -> list[Picture]:
    """Of a network that reads an image row by row: its states, and what it would say, after each row."""
    network = subject.network
    layers = [name for name in network.layers() if re.fullmatch(r"rows\d+", name)]
    if not layers:
        raise ConfigError("they are of a network that reads an image row by row")
    chosen = subject.examples()
    images, (height, _, _) = subject.images[chosen], network.image_shape
    after = activations(network, to_float(images), layers[0])
    limit = float(jnp.max(jnp.abs(after)))
    figure = Figure(figsize=(9, 2.2 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=(1, 3, 1.5))
    for row, image, state, said in zip(axes, images, after, _shares_after_rows(network, images), strict=True):
        row[0].imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray")
        row[1].imshow(state, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
        row[2].imshow(said, aspect="auto", cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        row[2].set_xticks(
            range(said.shape[1]), [name_of_class(network, i) for i in range(said.shape[1])], fontsize=7
        )
        for axis in row:
            axis.set_yticks([0, height - 1])
    titles = ("the image", f"{layers[0]}: each unit after each row", "probabilities, if it ended there")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    caption = f"What is remembered of the rows read so far. Blue is above 0, red below, up to {limit:.2f}; white is a probability of 1."
    return [Picture("states", plot(figure), caption, layers[0], subject.command_for("states", layers[0]))]


def _shares_after_rows(network: Network, images: np.ndarray) -> np.ndarray:
    """Probabilities [N, H, classes] of images [N, H, W, C] of which only the rows down to this one count."""
    count, height = images.shape[:2]
    seen = network.preprocessing(np.repeat(images, height, axis=0))
    rows = jnp.tile(jnp.arange(1, height + 1), count)
    logits = network.model.apply(network.variables, seen, rows=rows)
    return np.asarray(jax.nn.softmax(logits.astype(jnp.float32))).reshape(count, height, -1)


def embeddings(subject: Subject) -> list[Picture]:
    """Images as vectors: the last hidden layer, and the logits."""
    name = subject.embedding
    vectors = subject.vectors[name]
    images = subject.images[: len(vectors)]
    shown = slice(PLACED)
    chosen = [i for i in subject.examples() if i < len(images)]
    found = vectors_of.nearest(vectors, chosen, min(8, len(images) - 1))

    def picture(title: str, image: np.ndarray, caption: str, layer: str = name) -> Picture:
        return Picture(title, image, caption, layer, subject.command_for("embeddings", layer))

    pictures = [
        picture(
            "vector logits",
            vectors_of.vector_picture(subject.vectors[LOGITS][0]),
            "The logits of one image.",
            LOGITS,
        ),
        picture(f"vector {name}", vectors_of.vector_picture(vectors[0]), f"One image in {name}."),
        picture(
            f"neighbours {name}",
            vectors_of.neighbours_picture(images, chosen, found),
            f"Images on the left, and those of {len(images)} nearest to them in {name} (angle between vectors).",
        ),
        picture(
            f"t-SNE {name}",
            vectors_of.scatter_picture(vectors_of.tsne(vectors[shown]), images[shown]),
            f"{len(images[shown])} images placed by t-SNE of {name}.",
        ),
        picture(
            f"PCA {name}",
            vectors_of.scatter_picture(vectors_of.pca(vectors[shown]), images[shown]),
            f"{len(images[shown])} images placed by the two largest principal components of {name}.",
        ),
    ]
    return pictures + ([] if subject.training is None else [_svm(subject, subject.training)])


def _attribution_maps(
    subject: Subject, network: Network, images: np.ndarray, labels: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each method its maps and how they are shown, uint8 [N, H, W, 3]."""
    layer = subject.spatial_layers(3)[-1]
    patch = max(2, network.image_shape[0] // 6)
    noise_key, mask_key = jax.random.split(subject.key)
    raw = {"gradient": maps_of.gradient(network, images, labels)}
    if relus(network)[0] and not relus(network)[1]:
        raw["guided"] = maps_of.guided_backprop(network, images, labels)
    raw |= {
        "integrated": maps_of.integrated_gradients(network, images, labels, steps=20),
        "SmoothGrad": maps_of.smooth_grad(network, images, labels, noise_key, samples=20),
        "Grad-CAM": maps_of.grad_cam(network, images, labels, layer),
        "Grad-CAM++": maps_of.grad_cam_plus_plus(network, images, labels, layer),
        "occlusion": maps_of.occlusion(network, images, labels, patch, max(1, patch // 2)),
        "RISE": maps_of.rise(network, images, labels, mask_key, masks=512),
    }
    return {name: (m, to_uint8(signed(m)) if m.ndim == 4 else heat(m)) for name, m in raw.items()}


def _fidelity(
    subject: Subject, network: Network, images: np.ndarray, labels: np.ndarray, maps: dict[str, np.ndarray]
) -> Picture:
    """Deletion and insertion curves of all methods, beside a random order."""
    shape = (len(images), *network.image_shape[:2])
    maps = {**maps, "random": np.random.default_rng(subject.options.seed).random(shape)}
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, curve_of, title in zip(
        figure.subplots(1, 2), (deletion_curve, insertion_curve), ("deletion", "insertion"), strict=True
    ):
        for name, values in maps.items():
            curve = curve_of(network, images, labels, values).mean(axis=0)
            style = {"color": "black", "linestyle": ":"} if name == "random" else {}
            axes.plot(np.linspace(0, 1, len(curve)), curve, label=f"{name} {area(curve):.3f}", **style)
        axes.set(title=title, xlabel="share of pixels", ylabel="probability of the label", ylim=(0, 1))
        axes.legend(fontsize=7, title="area", title_fontsize=7)
    caption = (
        "Whether the maps name what matters: pixels are deleted, or inserted, in their order. "
        "Good maps have a small area under deletion and a large one under insertion."
    )
    return Picture("fidelity", plot(figure), caption, LOGITS, subject.command_for("attribution"))


def _svm(subject: Subject, training: Labelled) -> Picture:
    """Accuracy on the images to look at of linear SVMs that learned from training images, for each layer."""
    learned = slice(subject.options.svm_images)
    train, labels = training.images[learned], training.labels[learned]
    names = [name for name in subject.vectors if name != LOGITS]
    vectors = vectors_of.features(subject.network, train, names)
    tested = subject.labels[: len(subject.vectors[LOGITS])]
    scores = [vectors_of.svm_accuracy(vectors[name], labels, subject.vectors[name], tested) for name in names]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, scores)
    axes.bar_label(bars, [f"{score:.2%}" for score in scores], padding=3)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.15), xlabel="accuracy")
    caption = (
        f"A linear SVM on the vectors of each layer: {scores[-1]:.2%} in {names[-1]}. Trained on {len(train)} training "
        f"images, tested on {len(tested)} others."
    )
    return Picture("SVM", plot(figure), caption, names[-1], subject.command_for("embeddings"))
