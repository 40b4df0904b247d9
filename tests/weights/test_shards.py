import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.weights.convert import load_weights, preprocessing
from cnnjax.weights.files import read_tensors
from cnnjax.weights.shards import read_shards

FILES = {
    "face_landmarks68": ("full", "face_landmark_68_model", 356_840, 68.79706),
    "face_landmarks68_tiny": ("tiny", "face_landmark_68_tiny_model", 77_224, 65.57655),
}


def manifest(folder, groups, **shards):
    for name, content in shards.items():
        (folder / f"{name}.bin").write_bytes(content)
    path = folder / "weights_manifest.json"
    path.write_text(groups if isinstance(groups, str) else json.dumps(groups))
    return path


def weight(name, shape, dtype="float32", **more):
    return {"name": name, "shape": shape, "dtype": dtype} | more


def quantized(dtype, scale, minimum):
    return {"quantization": {"dtype": dtype, "scale": scale, "min": minimum}}


def test_tensors_of_three_types_over_two_shards(tmp_path):
    plain = np.arange(6, dtype="<f4").reshape(2, 3) / 7
    content = plain.tobytes() + bytes([0, 1, 255]) + np.array([0, 3, 65535], "<u2").tobytes()
    groups = [
        {
            "paths": ["one.bin", "two.bin"],
            "weights": [
                weight("fc/weights", [2, 3]),
                weight("fc/bias", [3], **quantized("uint8", 0.5, -1.0)),
                weight("a/conv/depthwise_filter", [1, 1, 3, 1], **quantized("uint16", 2.0, 1.0)),
            ],
        }
    ]
    path = manifest(tmp_path, groups, one=content[:10], two=content[10:])
    found = read_shards(path)
    assert_allclose(found["fc/weights"], plain)
    assert_allclose(found["fc/bias"], [-1, -0.5, 126.5])
    named = read_tensors(path)
    assert set(named) == {"fc.w", "fc.b", "a/conv_depthwise.w"}
    assert_allclose(named["a/conv_depthwise.w"], np.array([[[[1, 7, 131071]]]]))


ONE = [weight("fc/bias", [3], **quantized("uint8", 0.5, -1.0))]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("not json", "not TensorFlow.js's weights"),
        ([], "the manifest names no weights"),
        ([{"paths": ["one.bin"]}], "the manifest lacks weights"),
        ([{"paths": ["two.bin"], "weights": ONE}], "No such file"),
        (
            [{"paths": ["../one.bin"], "weights": ONE}],
            "the shard '../one.bin' is no file beside the manifest",
        ),
        ([{"paths": ["one.bin"], "weights": ONE * 2}], "the shards end within fc/bias"),
        ([{"paths": ["one.bin"] * 2, "weights": ONE}], "the shards have 6 bytes, the manifest tells of 3"),
        (
            [{"paths": ["one.bin"], "weights": [weight("fc/bias", [3], "int32")]}],
            "fc/bias is stored as 'int32'",
        ),
        ([{"paths": ["one.bin"], "weights": [weight("fc/bias", [-3])]}], "no list of whole numbers"),
        ([{"paths": ["one.bin"], "weights": [ONE[0] | {"name": "fc/gamma"}]}], "fc/gamma is none of filters"),
    ],
)
def test_manifests_that_are_refused(tmp_path, groups, message):
    path = manifest(tmp_path, groups, one=bytes(3))
    with pytest.raises(ConfigError, match=message):
        read_tensors(path)


@pytest.mark.parametrize("name", FILES)
def test_the_networks_of_face_api(shared, name):
    key, stem, parameters, total = FILES[name]
    path = shared(f"data/weights/face_api/{stem}-weights_manifest.json")
    model = create_model(name)
    images = (np.arange(3 * 112 * 112) % 256).reshape(1, 3, 112, 112).transpose(0, 2, 3, 1).astype(np.uint8)
    x = preprocessing(path, name)(images)
    variables = load_weights(path, name, jax.eval_shape(model.init, jax.random.key(0), x))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters
    outputs = np.asarray(jax.jit(model.apply)(variables, x))[0]
    assert_allclose(outputs, np.load(shared("fixtures/faceapi_landmarks.npz"))[key], atol=2e-6)
    assert_allclose(outputs.sum(), total, rtol=1e-6)
