"""darknet's .weights files, byte by byte."""

import struct
from functools import partial

import cfgs
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.weights.darknet import Header, count_numbers, load_darknet, read_numbers, save_darknet

CFG = """[net]
height=8
width=8
channels=2
[convolutional]
batch_normalize=1
filters=3
size=3
pad=1
activation=leaky
[convolutional]
filters=2
size=1
activation=linear
"""
# bias, scale, mean, variance, then 3 filters of 2 channels of 3x3; bias, then 2 filters of 3 channels
NUMBERS = np.arange(12 + 54 + 2 + 6, dtype="<f4") / 10 + 1


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "own.cfg"
    path.write_text(CFG)
    return create_model(f"darknet:{path}")


def shapes(model):
    channels = model.network.net.channels if hasattr(model, "network") else 3
    image = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)


def write(path, header, numbers=NUMBERS):
    path.write_bytes(header + numbers.tobytes())
    return path


@pytest.mark.parametrize(
    ("header", "seen"),
    [(struct.pack("<iiiq", 0, 2, 0, 2**40), 2**40), (struct.pack("<iiii", 0, 1, 0, 7), 7), (struct.pack("<iiiq", 1, 0, 5, 3), 3)],
)  # fmt: skip
def test_numbers_go_where_darknet_puts_them(tmp_path, model, header, seen):
    """Headers of 20 and of 16 bytes; filters are out, in, height, width."""
    path = write(tmp_path / "own.weights", header)
    assert read_numbers(path)[0].seen == seen
    loaded = load_darknet(path, model, shapes(model))
    first, second = loaded["params"]["layer0"], loaded["params"]["layer1"]["conv"]
    statistics = loaded["batch_stats"]["layer0"]["norm"]
    parts = [first["norm"]["bias"], first["norm"]["scale"], statistics["mean"], statistics["var"]]
    np.testing.assert_array_equal(jnp.concatenate(parts), NUMBERS[:12])
    filters = NUMBERS[12:66].reshape(3, 2, 3, 3)
    for f in range(3):
        for c in range(2):
            np.testing.assert_array_equal(first["conv"]["kernel"][:, :, c, f], filters[f, c])
    np.testing.assert_array_equal(second["bias"], NUMBERS[66:68])
    np.testing.assert_array_equal(second["kernel"][0, 0].T, NUMBERS[68:].reshape(2, 3))


def test_what_is_written_is_what_was_read(tmp_path, model):
    path = write(tmp_path / "own.weights", struct.pack("<iiiq", 0, 2, 0, 64))
    loaded = load_darknet(path, model, shapes(model))
    save_darknet(tmp_path / "again.weights", model, loaded, seen=64)
    assert (tmp_path / "again.weights").read_bytes() == path.read_bytes()


def test_a_classifier_with_a_connected_layer_there_and_back(tmp_path):
    """darknet53.cfg ends with a 1x1 convolution, the network of the table with a connected layer: the same numbers."""
    cfg = tmp_path / "darknet.cfg"
    cfg.write_text(cfgs.darknet53(4, (1, 1, 1, 1, 1)))
    named, read = create_model("tiny_darknet53"), create_model(f"darknet:{cfg}")
    numbers = np.random.default_rng(0).uniform(-1, 1, count_numbers(named)).astype("<f4")
    path = write(tmp_path / "own.weights", Header().pack(), numbers)
    save_darknet(tmp_path / "named.weights", named, load_darknet(path, named, shapes(named)))
    save_darknet(tmp_path / "read.weights", read, load_darknet(path, read, shapes(read)))
    for name in ("named", "read"):
        assert (tmp_path / f"{name}.weights").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_must_end_with_the_last_number(tmp_path, model, change):
    numbers = NUMBERS[:-1] if change < 0 else np.append(NUMBERS, np.float32(1))
    path = write(tmp_path / "own.weights", Header().pack(), numbers)
    with pytest.raises(
        ConfigError, match=f"holds {74 + change} numbers, the network takes 74: it is of another"
    ):
        load_darknet(path, model, shapes(model))


def test_the_network_that_fits_is_named(tmp_path, model):
    count = count_numbers(create_model("tiny_yolov3_tiny"))
    path = write(tmp_path / "tiny.weights", Header().pack(), np.ones(count, "<f4"))
    (tmp_path / "other.cfg").write_text(cfgs.yolov3_tiny(2))
    with pytest.raises(ConfigError) as error:
        load_darknet(path, model, shapes(model))
    assert str(error.value).endswith(f"it is for darknet:{tmp_path / 'other.cfg'}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are too few"),
        (struct.pack("<iiii", 0, 2, 0, 1), "are no header of 20"),
        (Header().pack() + b"123", "are no header of 20 and whole numbers"),
        (struct.pack("<iiii", 0, 1001, 0, 1) + b"1234", "transposed connected layers"),
        (struct.pack("<iiii", -3, 2, 0, 1) + b"1234", "is none of darknet's"),
    ],
)
def test_damaged_headers(tmp_path, model, content, message):
    path = tmp_path / "own.weights"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_darknet(path, model, shapes(model))


def test_numbers_that_are_not_finite(tmp_path, model):
    numbers = NUMBERS.copy()
    numbers[13] = np.nan
    path = write(tmp_path / "own.weights", Header().pack(), numbers)
    with pytest.raises(ConfigError, match="layer0/conv/kernel holds values that are not finite"):
        load_darknet(path, model, shapes(model))


def test_other_networks_have_no_such_files(tmp_path):
    model = create_model("lenet5")
    image = jnp.zeros((1, 28, 28, 1))
    variables = flax.core.unfreeze(jax.eval_shape(partial(model.init, jax.random.key(0)), image))
    path = write(tmp_path / "own.weights", Header().pack())
    with pytest.raises(ConfigError, match="convolutional and connected layers"):
        load_darknet(path, model, variables)
