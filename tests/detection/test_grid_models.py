import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import create_model


def shapes_of(name, image, num_outputs, train=False):
    """Number of parameters, and the shape of every stage, without computing anything."""
    model = create_model(name, num_outputs)
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)

    def apply(variables, x):
        return model.apply(
            variables, x, train=train, mutable=["stages", "batch_stats"], rngs={"dropout": jax.random.key(0)}
        )

    _, state = jax.eval_shape(apply, variables, x)
    count = sum(np.prod(p.shape, dtype=int) for p in jax.tree.leaves(variables["params"]))
    return count, {name: value.shape[1:] for name, value in state["stages"].items()}


@pytest.mark.parametrize("train", [False, True])
def test_yolov1_is_that_of_the_paper(train):
    count, stages = shapes_of("yolov1", (448, 448, 3), 30, train)
    assert count == 271_703_550
    expected = {
        "conv1": (224, 224, 64), "pool1": (112, 112, 64), "conv2": (112, 112, 192), "pool2": (56, 56, 192),
        "conv6": (56, 56, 512), "pool3": (28, 28, 512), "conv16": (28, 28, 1024), "pool4": (14, 14, 1024),
        "conv20": (14, 14, 1024), "conv22": (7, 7, 1024), "conv24": (7, 7, 1024), "fc1": (4096,),
        "logits": (7, 7, 30),
    }  # fmt: skip
    assert expected.items() <= stages.items()
    assert sum(name.startswith("conv") and name[4:].isdigit() for name in stages) == 24


@pytest.mark.parametrize(("name", "stride"), [("grid8", 8), ("grid16", 16), ("grid32", 32)])
def test_cells_of_a_grid(name, stride):
    _, stages = shapes_of(name, (4 * stride, 7 * stride, 3), 24)
    assert stages["logits"] == (4, 7, 24) and stages["down1"][:2] == (2 * stride, 7 * stride // 2)


def test_the_lectures_grid():
    assert shapes_of("grid8", (64, 64, 3), 9)[1]["logits"] == (8, 8, 9)


def test_a_cell_sees_what_is_around_it():
    model = create_model("grid8", 9)
    x = jax.random.normal(jax.random.key(0), (1, 32, 64, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    seen = jax.jit(jax.grad(lambda x: jnp.sum(model.apply(variables, x)[0, 2, 4])))(x)
    rows, columns = np.nonzero(np.any(seen[0] != 0, axis=-1))
    assert rows.min() < 16 < 24 < rows.max() and columns.min() < 32 < 40 < columns.max()
