import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from zoo import random_variables

from cnnjax.config import ConfigError
from cnnjax.faces import mtcnn
from cnnjax.models import create_model

# facenet-pytorch's networks on arange(3 n n) / (3 n n) - 0.5 as [1, 3, n, n].
PUBLISHED = {
    "pnet": (0.00116176, [-0.00693301, -0.09000352, 0.01126651, 0.12288618], []),
    "rnet": (0.00196212, [-0.09794629, -0.14417642, 0.05442615, 0.24924451], []),
    "onet": (0.00073645, [-0.06584727, -0.10442309, 0.02656318, 0.18304089],
             [.35217, .71275, .53784, .35226, .62390, .27277, .28517, .55305, .78331, .80177]),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks(shared, name):
    pytest.importorskip("torch", reason="the files are torch's")
    side = mtcnn.SIDES[name]
    x = np.arange(3 * side**2, dtype=np.float32).reshape(1, 3, side, side) / (3 * side**2) - np.float32(0.5)
    variables = mtcnn.load_networks(shared("data/weights/mtcnn"))[name]
    outputs = jax.jit(create_model(f"mtcnn_{name}").apply)(variables, x.transpose(0, 2, 3, 1)).reshape(-1)
    score, box, points = PUBLISHED[name]
    assert_allclose(jax.nn.softmax(outputs[:2])[1], score, rtol=1e-4)
    assert_allclose(outputs[2:6], box, atol=1e-6)
    assert_allclose(outputs[6:], points, atol=1e-5)


def test_missing_weights(tmp_path):
    with pytest.raises(ConfigError, match="pnet.pt: no such file of weights"):
        mtcnn.load_networks(tmp_path)


@pytest.mark.parametrize("size", [(12, 12), (15, 22), (20, 17), (21, 24)])
def test_an_image_in_a_larger_frame_is_seen_as_it_is_alone(size):
    model = create_model("mtcnn_pnet")
    image = jax.random.normal(jax.random.key(1), (1, *size, 3))
    variables = random_variables(model, image)
    alone = model.apply(variables, image)
    frame = jnp.full((1, 26, 24, 3), 7.0).at[:, : size[0], : size[1]].set(image)
    framed = model.apply(variables, frame, sizes=jnp.array([size]))
    assert alone.shape[1:3] == ((size[0] - 1) // 2 - 4, (size[1] - 1) // 2 - 4)
    assert_allclose(framed[:, : alone.shape[1], : alone.shape[2]], alone, rtol=1e-4, atol=1e-5)
    assert np.isfinite(framed).all()
