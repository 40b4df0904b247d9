"""The default gallery of a trained classifier."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import PAGE_NAMES, ConfigError, Visualize
from cnnjax.models.rows import RowReader
from cnnjax.network import Network, Preprocessing
from cnnjax.visualization.pages.explanations import _shares_after_rows
from cnnjax.visualization.parameterizations import Fourier, Maco, Pixels
from cnnjax.visualization.subject import Labelled, Subject
from cnnjax.visualization.visualize import PAGES, visualize

QUICK = Visualize(steps=(0, 2), channels=2, images=2)


def test_the_options_name_all_pages():
    assert tuple(PAGES) == PAGE_NAMES


@pytest.mark.full
def test_a_gallery_of_everything(lenet, digits, tmp_path):
    images, labels = digits[0][1400:1500], digits[1][1400:1500]
    training = Labelled(digits[0][:100], digits[1][:100])
    untrained = dataclasses.replace(lenet, variables=jax.tree.map(lambda a: 0.5 * a, lenet.variables))
    history = [(0, untrained), (150, lenet)]
    lines = []
    subject = Subject(
        lenet, images, labels, QUICK, "python launch.py --mode=visualize", training, lambda: history
    )
    pictures = visualize(subject, tmp_path, lines.append)
    assert [line.split(":")[0] for line in lines] == [
        *PAGE_NAMES[:-1],
        "no states",
    ]  # nothing is read row by row
    names = {picture.name for picture in pictures}
    assert {
        "predictions", "filters", "edges", "maps conv1", "channels conv1", "channels conv2", "channels fc2",
        "objectives", "classes", "deepdream conv2", "toward", "attribution", "fidelity", "deconvnet conv2", "evolution conv1",
        "vector logits", "neighbours fc2", "t-SNE fc2", "PCA fc2", "SVM",
    } <= names  # fmt: skip
    for picture in pictures:
        assert picture.image.dtype == np.uint8 and picture.image.shape[2] == 3
        assert picture.image.std() > 1, picture.name
        assert picture.command.startswith("python launch.py --mode=visualize --visualize.pages=")
        assert picture.caption
    text = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert text.count("<figure") == len(pictures)
    assert (tmp_path / "projector" / "vectors.tsv").exists()
    saved = np.load(tmp_path / "features.npz")
    np.testing.assert_array_equal(saved["labels"], labels)
    np.testing.assert_array_equal(saved["fc2"], subject.vectors["fc2"])
    assert (tmp_path / "channels-conv2.gif").exists()


@pytest.mark.full
def test_only_what_is_asked_for(lenet, digits, tmp_path):
    options = dataclasses.replace(QUICK, pages=("channels", "classes"), layer=("conv2:3", "logits:7"))
    pictures = visualize(Subject(lenet, digits[0][:20], digits[1][:20], options, "run"), tmp_path)
    assert [(p.name, p.layer) for p in pictures] == [("conv2:3", "conv2:3"), ("logits:7", "logits:7")]
    assert pictures[0].command == "run --visualize.pages=channels --visualize.layer=conv2:3"
    assert not (tmp_path / "projector").exists()


@pytest.mark.full
def test_pictures_are_made_of_what_was_chosen(lenet, digits, tmp_path):
    made = {}
    for name in ("fourier", "pixels", "maco"):
        options = dataclasses.replace(QUICK, pages=("channels",), layer=("conv2:3",), parameterization=name)
        (picture,) = visualize(Subject(lenet, digits[0][:20], digits[1][:20], options), tmp_path / name)
        made[name] = picture.image
    assert (made["fourier"] != made["pixels"]).any() and (made["fourier"] != made["maco"]).any()
    kinds = [
        type(
            Subject(
                lenet, digits[0][:20], digits[1][:20], Visualize(parameterization=name)
            ).parameterization()
        )
        for name in made
    ]
    assert kinds == [Fourier, Pixels, Maco]


def test_a_dream_is_guided_by_another_image(lenet, digits, tmp_path):
    options = dataclasses.replace(QUICK, pages=("deepdream",), layer=("conv2",))
    subject = Subject(lenet, digits[0][:5], digits[1][:5], options, guide=digits[0][7])
    (guided,) = visualize(subject, tmp_path / "guided")
    (free,) = visualize(dataclasses.replace(subject, guide=None), tmp_path / "free")
    assert "is drawn to what conv2 sees in another" in guided.caption
    assert guided.image.shape[1] > free.image.shape[1]  # the guide is shown too
    assert (guided.image[:, -80:] != free.image[:, -80:]).any()


def test_mistakes_are_told_before_any_work(lenet, digits, tmp_path):
    def look(images=5, **options):
        visualize(Subject(lenet, digits[0][:images], digits[1][:images], Visualize(**options)), tmp_path)

    with pytest.raises(ConfigError, match="unknown page 'filter': choose of predictions, filters"):
        look(pages=("filter",))
    with pytest.raises(ConfigError, match="did you mean conv2"):
        look(layer=("convv2",))
    with pytest.raises(ConfigError, match="channels 0 to 15"):
        look(layer=("conv2:16",))
    with pytest.raises(ConfigError, match="classes 0 to 9"):
        look(classes=("3", "10"))
    with pytest.raises(ConfigError, match="classes 0 to 9"):
        look(toward="11")
    with pytest.raises(ConfigError, match="no images"):
        look(images=0)
    with pytest.raises(ConfigError, match="LeNet5 cannot be run on 64x64 images"):
        look(pages=("channels",), size=64)
    assert not list(tmp_path.iterdir())


def test_a_page_that_a_network_cannot_have_is_an_error_only_if_asked_for(
    lenet, digits, tmp_path, monkeypatch
):
    tanh = dataclasses.replace(lenet, model=lenet.model.clone(act=nn.tanh))
    images, labels = digits[0][:5], digits[1][:5]
    for page, message in [
        ("deconvnet", "0 ReLUs replaced"),
        ("evolution", "several checkpoints, there is 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            visualize(Subject(tanh, images, labels, Visualize(pages=(page,))), tmp_path)
    lines = []
    monkeypatch.setattr(
        "cnnjax.visualization.visualize.PAGES", {name: PAGES[name] for name in ("filters", "evolution")}
    )
    pictures = visualize(Subject(tanh, images, labels, Visualize()), tmp_path, lines.append)
    assert [picture.name for picture in pictures] == ["filters"]
    assert lines[0].startswith("filters: ") and lines[1].startswith("no evolution: ")


def test_examples_come_from_different_classes(lenet):
    labels = np.asarray([4, 4, 4, 1, 4, 2, 1])
    subject = Subject(lenet, np.zeros((7, 28, 28, 1), np.uint8), labels, Visualize(images=5))
    np.testing.assert_array_equal(subject.examples(), [0, 3, 5, 1, 6])


def test_layers_are_chosen_from_first_to_last(lenet):
    def subject(**options):
        return Subject(lenet, np.zeros((1, 28, 28, 1), np.uint8), np.zeros(1, int), Visualize(**options))

    assert subject().spatial_layers(5) == ["conv1", "conv2"]
    assert subject().hidden_layers(3) == ["conv1", "fc1", "fc2"]
    assert subject(layer=("conv2:1", "fc1", "logits:3")).hidden_layers(9) == ["conv2", "fc1"]
    assert subject(layer=("pool2:1", "fc1")).spatial_layers(9) == ["pool2"]
    assert subject(layer=("conv2:7", "conv2:3@1,1", "conv1")).channels("conv2") == [7, 3]
    assert subject(channels=9).channels("conv1") == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="needs a layer with height and width"):
        subject(layer=("fc1",)).spatial_layers(9)


@pytest.mark.full
def test_states_after_each_row_end_with_what_the_network_says(digits, tmp_path):
    images, labels = digits[0][:30], digits[1][:30]
    model = RowReader(hidden=5)
    pixels = jnp.zeros((1, *images.shape[1:]))
    network = Network(
        model, model.init(jax.random.key(0), pixels), images.shape[1:], Preprocessing((0.3,), (0.35,))
    )
    shares = _shares_after_rows(network, images[:3])
    assert shares.shape == (3, images.shape[1], 10)
    logits = model.apply(network.variables, network.preprocessing(images[:3]))
    np.testing.assert_allclose(shares[:, -1], jax.nn.softmax(logits), rtol=1e-5)
    cut = images[:3].copy()
    cut[:, 4:] = 255  # what comes later is not seen yet
    np.testing.assert_allclose(shares[:, 3], _shares_after_rows(network, cut)[:, 3], rtol=1e-5)
    options = dataclasses.replace(QUICK, pages=("states", "embeddings"), embedded=30)
    pictures = visualize(Subject(network, images, labels, options), tmp_path)
    assert {"states", "PCA state"} <= {picture.name for picture in pictures}
    assert np.load(tmp_path / "features.npz")["rows1"].shape == (30, 5)
