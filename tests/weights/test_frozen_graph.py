"""inception5h from TensorFlow's frozen graph: files written here, byte for byte after the format's description."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.weights.convert import load_weights, preprocessing
from cnnjax.weights.files import read_tensors
from cnnjax.weights.frozen_graph import read_constants

# Filters of table 1 of the paper with Google's changes, written down once more: 1x1, 3x3 reduce, 3x3, 5x5 reduce,
# 5x5, pool. Names are those of the graph.
MODULES = {
    "3a": (192, 64, 96, 128, 16, 32, 32), "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 204, 16, 48, 64), "4b": (508, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64), "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128), "5a": (832, 256, 160, 320, 48, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip


def graph_shapes():
    shapes = {"conv2d0": (7, 7, 3, 64), "conv2d1": (1, 1, 64, 64), "conv2d2": (3, 3, 64, 192)}
    for name, (inputs, one, three_in, three, five_in, five, pool) in MODULES.items():
        shapes |= {
            f"mixed{name}_1x1": (1, 1, inputs, one),
            f"mixed{name}_3x3_bottleneck": (1, 1, inputs, three_in),
            f"mixed{name}_3x3": (3, 3, three_in, three),
            f"mixed{name}_5x5_bottleneck": (1, 1, inputs, five_in),
            f"mixed{name}_5x5": (5, 5, five_in, five),
            f"mixed{name}_pool_reduce": (1, 1, inputs, pool),
        }
    for head, inputs in ((0, 508), (1, 528)):
        shapes |= {
            f"head{head}_bottleneck": (1, 1, inputs, 128),
            f"nn{head}": (2048, 1024),
            f"softmax{head}": (1024, 1008),
        }
    return shapes | {"softmax2": (1024, 1008)}


def varint(number):
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def field(number, value):
    """A field of a message: bytes with their length, an int as varint."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def const(name, array, dtype=1, value=None):
    dims = b"".join(field(2, field(1, size)) for size in array.shape)
    tensor = field(1, dtype) + field(2, dims) + (field(4, array.tobytes()) if value is None else value)
    entry = field(1, b"dtype") + field(2, field(6, dtype))
    return field(1, field(1, name.encode()) + field(2, b"Const") + field(5, entry) + field(
        5, field(1, b"value") + field(2, field(8, tensor))
    ))  # fmt: skip


def graph(tensors):
    """Nodes as in the file: a placeholder, weights, an integer constant, operations, versions."""
    placeholder = field(1, field(1, b"input") + field(2, b"Placeholder"))
    nodes = [const(name, value) for name, value in tensors.items()]
    axis = const("mixed3a/concat_dim", np.array(3, np.int32), dtype=3)
    conv = field(1, field(1, b"conv2d0_pre_relu/conv") + field(2, b"Conv2D") + field(3, b"input"))
    return placeholder + b"".join(nodes) + axis + conv + field(4, field(1, 5))


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in graph_shapes().items():
        found[f"{name}_w"] = rng.standard_normal(shape, np.float32)
        found[f"{name}_b"] = rng.standard_normal(shape[-1:], np.float32)
    return found


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "tensorflow_inception_graph.pb"
    path.write_bytes(graph(tensors))
    return path


def shapes_of(name):
    return jax.eval_shape(create_model(name).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))


def test_weights_go_where_the_graph_has_them(file, tensors):
    params = load_weights(file, "inception5h", shapes_of("inception5h"))["params"]
    places = {
        "conv2d0": params["conv2d0"], "mixed3a_5x5_bottleneck": params["inception3a"]["b5x5_bottleneck"],
        "mixed4a_3x3": params["inception4a"]["b3x3"], "mixed5b_1x1": params["inception5b"]["b1x1"],
        "mixed4e_pool_reduce": params["inception4e"]["pool_reduce"], "softmax2": params["output"],
    }  # fmt: skip
    for name, leaves in places.items():
        np.testing.assert_array_equal(leaves["kernel"], tensors[f"{name}_w"])
        np.testing.assert_array_equal(leaves["bias"], tensors[f"{name}_b"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 7_066_380
    assert preprocessing(file, "inception5h").mean == pytest.approx([117 / 255] * 3)


def test_auxiliary_heads(file, tensors):
    params = load_weights(file, "inception5h_aux", shapes_of("inception5h_aux"))["params"]
    np.testing.assert_array_equal(params["aux_head1"]["conv"]["kernel"], tensors["head0_bottleneck_w"])
    np.testing.assert_array_equal(params["aux_head2"]["fc"]["kernel"], tensors["nn1_w"])
    np.testing.assert_array_equal(params["aux_head2"]["output"]["bias"], tensors["softmax1_b"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 13_461_996


def test_values_as_floats_instead_of_bytes():
    array = np.array([[1.5, -2.0]], np.float32)
    packed = const("a_w", array, value=field(5, array.tobytes()))
    single = b"".join(varint(5 << 3 | 5) + value.tobytes() for value in array.ravel())
    for content in (packed, const("a_w", array, value=single), const("a_w", array)):
        np.testing.assert_array_equal(read_constants(content)["a_w"], array)


def test_what_does_not_fit_is_named(file, tensors, tmp_path):
    shapes = shapes_of("inception5h")
    path = tmp_path / "other.pb"
    path.write_bytes(graph({k: v for k, v in tensors.items() if k != "mixed4d_3x3_b"}))
    with pytest.raises(ConfigError, match=r"no tensor mixed4d_3x3\.b"):
        load_weights(path, "inception5h", shapes)
    path.write_bytes(graph(tensors | {"conv2d0_w": np.zeros((7, 7, 3, 63), np.float32)}))
    with pytest.raises(ConfigError, match=r"conv2d0\.w has shape \(7, 7, 3, 63\)"):
        load_weights(path, "inception5h", shapes)
    with pytest.raises(ConfigError, match="no tensorflow weights of resnet50"):
        load_weights(file, "resnet50", shapes)


ONE = const("a_w", np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    "content",
    [
        *(ONE[:end] for end in (1, 5, 12, len(ONE) - 30, len(ONE) - 1)),
        b"",
        b"\x00\x01 not weights" * 9,
        b"PK\x03\x04 a zip archive",
        b"\xff" * 20,
        const("a_w", np.ones((2, 3), np.float32), value=field(4, b"1234")),
        const("a_w", np.ones((2, 3), np.float32)[..., None], value=b""),
        field(1, field(2, b"Const")),
        field(1, field(1, b"\xff\xfe") + field(2, b"Const")),
        const("softmax", np.ones(3, np.float32)),
    ],
)
def test_damaged_files_get_one_line(content, tmp_path):
    path = tmp_path / "damaged.pb"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"damaged\.pb: (not a frozen TensorFlow graph|a TensorFlow graph)"
    ) as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


def forward(tensors, x):
    """Google's graph in torch: pixels less 117, [N, 3, H, W], to logits, with its padding and normalization."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def same(x, size, stride, fill=0.0):
        """TensorFlow's SAME: the odd row of padding goes below, the odd column to the right."""
        pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[:1:-1]]
        return functional.pad(x, [side for pad in pads for side in (pad // 2, pad - pad // 2)], value=fill)

    def conv(x, name, stride=1):
        kernel, bias = (torch.tensor(tensors[f"{name}_{leaf}"]) for leaf in "wb")
        padded = same(x, kernel.shape[0], stride)
        return functional.relu(functional.conv2d(padded, kernel.permute(3, 2, 0, 1), bias, stride))

    def pool(x, stride):
        return functional.max_pool2d(same(x, 3, stride, -np.inf), 3, stride)

    def normalized(x):
        """tf.nn.lrn with depth_radius 5, bias 2, alpha 1e-4, beta 0.5: the sum over 11 channels, not their mean."""
        channels = x.shape[1]
        near = [(x[:, max(c - 5, 0) : c + 6] ** 2).sum(1) for c in range(channels)]
        return x / (2 + 1e-4 * torch.stack(near, 1)) ** 0.5

    x = normalized(pool(conv(x, "conv2d0", 2), 2))
    x = pool(normalized(conv(conv(x, "conv2d1"), "conv2d2")), 2)
    for name in MODULES:
        if name in ("4a", "5a"):
            x = pool(x, 2)
        layer = f"mixed{name}_"
        branches = [
            conv(x, layer + "1x1"),
            conv(conv(x, layer + "3x3_bottleneck"), layer + "3x3"),
            conv(conv(x, layer + "5x5_bottleneck"), layer + "5x5"),
            conv(pool(x, 1), layer + "pool_reduce"),
        ]
        x = torch.cat(branches, 1)
    return (
        x.mean((2, 3)) @ torch.tensor(tensors["softmax2_w"]) + torch.tensor(tensors["softmax2_b"])
    ).numpy()


def test_the_graph_computes_what_it_computes_in_torch(tensors, tmp_path):
    """At a size whose strided layers pad evenly on one axis and unevenly on the other."""
    torch = pytest.importorskip("torch")
    scaled = {
        name: value * np.float32((2 / np.prod(value.shape[:-1])) ** 0.5) if name.endswith("_w") else value / 4
        for name, value in tensors.items()
    }
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(scaled))
    model = create_model("inception5h")
    variables = load_weights(path, "inception5h", shapes_of("inception5h"))
    images = np.random.default_rng(1).integers(0, 256, (2, 96, 75, 3), dtype=np.uint8)
    images[1] //= 4
    expected = forward(scaled, torch.tensor(images.transpose(0, 3, 1, 2) - np.float32(117)))
    result = jax.jit(model.apply)(variables, preprocessing(path, "inception5h")(images))
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()
