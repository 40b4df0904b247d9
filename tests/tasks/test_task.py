"""The contract of a task: named parts of a loss, auxiliary heads, a seam for what a network is asked."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import config
from cnnjax.config import ConfigError, Data, Experiment, Model, Train
from cnnjax.tasks import Result, Task
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.losses import softmax_cross_entropy
from cnnjax.tasks.result import to_coco
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_state, train_step

SHAPE = (16, 16, 3)


def setup(task=None, model="tiny_googlenet_bn"):
    data = Data(name="synthetic", mean=(0.5,) * 3, std=(0.25,) * 3)
    experiment = Experiment(data=data, model=Model(name=model), train=Train(steps=1))
    recipe = make_recipe(experiment, tuple("abcdefg"), SHAPE, 1)
    recipe = dataclasses.replace(recipe, task=task) if task else recipe
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (4, *SHAPE)), jnp.uint8),
        "label": jnp.arange(4, dtype=jnp.int32), "index": jnp.arange(4, dtype=jnp.int32), "epoch": jnp.zeros(4, jnp.int32),
    }  # fmt: skip
    return recipe, jax.jit(lambda: init_state(recipe, SHAPE, jnp.int32(0)))(), batch


@pytest.mark.full
def test_auxiliary_heads_learn_with_three_tenths_of_their_loss():
    recipe, state, batch = setup()
    after, metrics = jax.jit(lambda s, b: train_step(recipe, s, b))(state, batch)
    parts = {name: float(value) for name, value in metrics.items() if name.startswith("loss/")}
    assert set(parts) == {"loss/logits", "loss/aux1", "loss/aux2"}
    assert float(metrics["loss"]) == pytest.approx(sum(parts.values()), rel=1e-5)
    assert parts["loss/aux1"] == pytest.approx(0.3 * np.log(7), rel=0.5)
    for head in ("aux_head1", "aux_head2"):
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params[head], after.params[head])
        assert max(jax.tree.leaves(moved)) > 0
    task = Classification(tuple("abcdefg"))
    logits = jax.random.normal(jax.random.key(0), (4, 7))
    found = task.loss({"logits": logits, "aux1": 2 * logits}, batch)
    np.testing.assert_allclose(
        found["aux1"], 0.3 * softmax_cross_entropy(2 * logits, batch["label"]), rtol=1e-6
    )


@dataclasses.dataclass(frozen=True)
class Twice(Task):
    """Looks at the image and its mirror image, with noise that the key decides."""

    targets: ClassVar[tuple[str, ...]] = ("label",)

    def forward(self, apply, batch, key=None):
        both = [apply(batch["image"]), apply(batch["image"][:, :, ::-1])]
        noise = 0.0 if key is None else jax.random.normal(key, ())
        return {"first": both[0], "second": both[1] + noise}

    def loss(self, outputs, batch):
        return {name: softmax_cross_entropy(value, batch["label"]) for name, value in outputs.items()}


@pytest.mark.full
def test_a_task_may_ask_the_network_several_times():
    """Running statistics follow both calls, in order; the parts of the loss are summed."""
    recipe, state, batch = setup(Twice(), "tiny_resnet")
    after, metrics = jax.jit(lambda s, b: train_step(recipe, s, b))(state, batch)
    total = float(metrics["loss/first"]) + float(metrics["loss/second"])
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-6)
    once, _ = jax.jit(lambda s, b: train_step(dataclasses.replace(recipe, task=One()), s, b))(state, batch)
    assert jax.tree.leaves(after.model_state)[0].shape == jax.tree.leaves(once.model_state)[0].shape
    mean = after.model_state["batch_stats"]["bn1"]["mean"]
    single = once.model_state["batch_stats"]["bn1"]["mean"]
    np.testing.assert_allclose(mean, 1.9 * single, rtol=0.1, atol=0.02)  # 0.1 m, then 0.9 of it + 0.1 m


@dataclasses.dataclass(frozen=True)
class One(Task):
    def loss(self, outputs, batch):
        return softmax_cross_entropy(outputs, batch["label"])


def test_views_are_refused_of_tasks_without_an_average_only():
    class Numbers(Task):
        def average(self, outputs, weights):
            return jnp.tensordot(weights, outputs, 1)

    Numbers().check_views("shift")
    with pytest.raises(ConfigError, match="evaluate.augment=shift: One averages no views"):
        One().check_views("shift")


def test_results_have_one_form():
    top = Result(4, 6, ("cat", "dog"), top=((1, 0.75), (0, 0.25)))
    assert top.to_json() == {
        "class": "dog", "index": 1,
        "top": [{"class": "dog", "index": 1, "probability": 0.75}, {"class": "cat", "index": 0, "probability": 0.25}],
    }  # fmt: skip
    boxes = np.array([[1.0, 2, 4, 6], [0, 0, 1, 1]])
    found = Result(8, 9, ("cat", "dog"), boxes=boxes, scores=np.array([0.9, 0.5]), labels=np.array([1, 0]))
    coco = to_coco(["a.png"], [found], found.classes)
    assert coco["images"] == [{"id": 1, "file_name": "a.png", "width": 9, "height": 8}]
    assert coco["annotations"][0] == {
        "id": 1, "image_id": 1, "iscrowd": 0, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 4.0], "area": 12.0, "score": 0.9,
    }  # fmt: skip
    assert found.to_json()["detections"][1]["category"] == "cat"


def test_an_experiment_of_an_unknown_task_is_refused():
    with pytest.raises(
        config.ConfigError, match="choose one of classification, localization, grid_detection"
    ):
        make_recipe(config.replace(Experiment(), {"task": "guess"}), ("a", "b"), SHAPE, 1)
