import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from cnnjax.data.formats.poses import LSP_NAMES
from cnnjax.models import create_model
from cnnjax.tasks.heatmaps import Heatmaps
from cnnjax.tasks.points import Points

NAMES = tuple(map(str, range(68)))


def test_what_an_image_does_not_say_its_outputs_do_not_learn():
    task = Points(NAMES, 64, 64)
    assert task.num_outputs == 137
    points = jax.random.uniform(jax.random.key(0), (3, 68, 2), maxval=64.0)
    visible = jnp.array([[True] * 68, [False] * 68, [True] * 10 + [False] * 58])
    batch = {"points": points.at[1].set(jnp.nan), "visible": visible}
    outputs = jax.random.normal(jax.random.key(1), (3, 137))
    gradient = jax.grad(lambda x: sum(jnp.sum(part) for part in task.loss(x, batch).values()))(outputs)
    assert np.count_nonzero(gradient[0]) == 137
    assert np.count_nonzero(gradient[1]) == 1  # presence alone
    assert np.count_nonzero(gradient[2, 1:21]) == 20 and not np.any(gradient[2, 21:])


def test_points_as_outputs_and_back():
    task = Points(NAMES, 32, 64)
    points = jax.random.uniform(jax.random.key(0), (2, 68, 2), maxval=32.0)
    shares = points / jnp.array([[[64.0, 32.0]]]) - 0.5
    outputs = jnp.concatenate([jnp.ones((2, 1)), shares.reshape(2, -1)], axis=1)
    assert_allclose(task.predict(outputs)["points"], points, rtol=1e-4, atol=1e-3)


def test_heatmaps_as_outputs_and_back():
    task = Heatmaps(LSP_NAMES, 64, 64)
    points = 4.0 * jnp.round(jax.random.uniform(jax.random.key(0), (2, 14, 2), minval=3.0, maxval=12.0))
    batch = {"points": points, "visible": jnp.ones((2, 14), bool)}
    from cnnjax.detection.heatmaps import encode_heatmaps

    maps, _ = encode_heatmaps(points, batch["visible"], (16, 16), 4.0, 2.0)
    assert_allclose(task.predict(maps)["points"], points, atol=1e-3)
    assert_allclose(task.loss(maps, batch), 0, atol=1e-12)


def test_parameters_and_shapes_of_the_networks():
    def of(name, outputs, shape):
        model = create_model(name, outputs)
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        found, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), x)
        return found.shape, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    assert of("point_net", 137, (2, 64, 64, 1)) == ((2, 137), 745_001)
    assert of("heatmaps_small", 14, (2, 64, 64, 3))[0] == (2, 16, 16, 14)
    # mmpose and the authors: 34.0 M parameters of ResNet-50 with 17 joints.
    shape, parameters = of("heatmaps_resnet50", 17, (1, 256, 192, 3))
    assert shape == (1, 64, 48, 17) and round(parameters / 1e6, 1) == 34.0
