"""Pages of the gallery that explain decisions: predictions, attribution, deconvnet, embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from cnnjax.visualization import attribution as maps_of
from cnnjax.visualization import embeddings as vectors_of
from cnnjax.visualization.batches import to_float
from cnnjax.visualization.deconvnet import patches, project, strongest_activations
from cnnjax.visualization.fidelity import area, deletion_curve, insertion_curve
from cnnjax.visualization.network import LOGITS, Network, activations
from cnnjax.visualization.pictures import Picture, grid, heat, plot, signed, to_uint8
from cnnjax.visualization.receptive_field import receptive_fields
from cnnjax.visualization.subject import Subject

EMBEDDED = 1000  # images whose vectors are compared
SEARCHED = 2000  # images that are searched for strong activations


def predictions(subject: Subject) -> list[Picture]:
    """A check of the whole chain, preprocessing included: images with what the network says."""
    chosen = subject.examples()
    logits = activations(subject.network, to_float(subject.images[chosen]), LOGITS)
    shares = np.asarray(jax.nn.softmax(logits.astype(jnp.float32)))
    titles, right = [], 0
    for row, label in zip(shares, subject.labels[chosen], strict=True):
        best = np.argsort(-row)[:3]
        right += int(best[0] == label)
        titles.append(", ".join(f"{subject.network.class_name(int(i))} {row[i]:.2f}" for i in best))
    image = grid(subject.images[chosen], min(len(chosen), 3), titles=titles, side=200)
    caption = f"Examples with the three most probable classes; {right} of {len(chosen)} are right."
    return [Picture("predictions", image, caption, LOGITS, subject.command_for("predictions"))]


def attribution(subject: Subject) -> list[Picture]:
    """Maps of what decided for the label, by all methods, and how fast deleting what they name hurts."""
    chosen = subject.examples()
    network, images, labels = subject.network, subject.images[chosen], subject.labels[chosen]
    methods = _attribution_maps(subject, network, images, labels)
    cells, titles = [], []
    for i in range(len(chosen)):
        cells += [to_uint8(images[i])] + [shown[i] for _, shown in methods.values()]
        titles += (
            [network.class_name(int(labels[i])), *methods] if i == 0 else [network.class_name(int(labels[i]))]
        )
        titles += [] if i == 0 else [""] * len(methods)
    caption = "What speaks for the label. Signed maps: grey is 0; heat maps: from their lowest to their highest value."
    image = grid(cells, len(methods) + 1, titles=titles, side=80)
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
        count = min(subject.options.channels, subject.network.layers()[name][-1])
        best = strongest_activations(subject.network, images, name, range(count))
        cells, labels = [], []
        for c in range(count):
            if best.values[c, 0] <= 0:
                continue  # never active: nothing to project
            positions = np.stack([best.y[c], best.x[c]], axis=1)
            pictures = images[best.images[c]]
            projections = project(subject.network, pictures, name, [c] * len(pictures), positions)
            boxes = receptive_fields(subject.network, name, positions)
            cells.append(grid(signed(patches(projections, boxes)), 3, side=48, space=2))
            cells.append(grid(to_uint8(patches(to_float(pictures), boxes)), 3, side=48, space=2))
            labels += [f"{name}:{c}", "patches"]
        if cells:
            caption = (
                f"The nine images of {len(images)} that excite a map of {name} most: the activation projected back "
                "to pixels by a deconvnet, and the patch that the neuron sees. Light blue lies outside the image."
            )
            image = grid(cells, 4, titles=labels, side=1)
            result.append(
                Picture(f"deconvnet {name}", image, caption, name, subject.command_for("deconvnet", name))
            )
    return result


def embeddings(subject: Subject) -> list[Picture]:
    """Images as vectors: the last hidden layer, and the logits."""
    network = subject.network
    images, labels = subject.images[:EMBEDDED], np.asarray(subject.labels[:EMBEDDED])
    name = subject.hidden_layers(1000)[-1]
    vectors = vectors_of.features(network, images, name)
    chosen = subject.examples()
    command = subject.command_for("embeddings", name)
    logits = vectors_of.features(network, images[:1], LOGITS)[0]
    found = vectors_of.nearest(vectors, list(chosen), min(8, len(images) - 1))
    return [
        Picture(
            "vector logits", vectors_of.vector_picture(logits), "The logits of one image.", LOGITS, command
        ),
        Picture(
            f"vector {name}", vectors_of.vector_picture(vectors[0]), f"One image in {name}.", name, command
        ),
        Picture(
            f"neighbours {name}",
            vectors_of.neighbours_picture(images, list(chosen), found),
            f"Images on the left, and those nearest to them in {name} (angle between vectors).",
            name,
            command,
        ),
        Picture(
            f"t-SNE {name}",
            vectors_of.scatter_picture(vectors_of.tsne(vectors), images),
            f"{len(images)} images placed by t-SNE of {name}.",
            name,
            command,
        ),
        Picture(
            f"PCA {name}",
            vectors_of.scatter_picture(vectors_of.pca(vectors), images),
            f"{len(images)} images placed by the two largest principal components of {name}.",
            name,
            command,
        ),
        _svm(subject, images, labels),
    ]


def _attribution_maps(
    subject: Subject, network: Network, images: np.ndarray, labels: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each method its maps and how they are shown, uint8 [N, H, W, 3]."""
    layer = subject.spatial_layers(3)[-1]
    patch = max(2, network.image_shape[0] // 6)
    noise_key, mask_key = jax.random.split(subject.key)
    raw = {"gradient": maps_of.gradient(network, images, labels)}
    if network.relus()[0] and not network.relus()[1]:
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


def _svm(subject: Subject, images: np.ndarray, labels: np.ndarray) -> Picture:
    """Accuracy of a linear SVM on the vectors of each layer, trained on half of the images."""
    half = len(images) // 2
    names = subject.hidden_layers(6)
    scores = []
    for name in names:
        vectors = vectors_of.features(subject.network, images, name)
        scores.append(vectors_of.svm_accuracy(vectors[:half], labels[:half], vectors[half:], labels[half:]))
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, scores)
    axes.bar_label(bars, [f"{score:.1%}" for score in scores], padding=3)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.15), xlabel="accuracy")
    caption = f"A linear SVM on the vectors of each layer: trained on {half} images, tested on {len(images) - half}."
    return Picture("SVM", plot(figure), caption, names[-1], subject.command_for("embeddings"))
