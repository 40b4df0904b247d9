"""Networks by name from a hub on localhost, folders of its layout in and out, and what is wrong with them."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_server import COMMIT, OLD, Hub

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.network import Preprocessing
from cnnjax.runs.run import restore
from cnnjax.runs.workdir import Workdir
from cnnjax.weights import hub
from cnnjax.weights.convert import save_torchvision

NAMES = ["cat", "dog", "bird"]
# As timm writes it, of a network that is small here.
CONFIG = {
    "architecture": "tiny_resnet18",
    "num_classes": 3,
    "num_features": 8,
    "label_names": NAMES,
    "pretrained_cfg": {
        "tag": "a1_in1k", "custom_load": False, "input_size": [3, 64, 64], "test_input_size": [3, 72, 72],
        "fixed_input_size": False, "interpolation": "bicubic", "crop_pct": 0.95, "test_crop_pct": 1.0,
        "crop_mode": "center", "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3], "num_classes": 3,
        "pool_size": [7, 7], "first_conv": "conv1", "classifier": "fc",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of model.safetensors, of random numbers, and the tensors in it."""
    from safetensors.numpy import load

    model = create_model("tiny_resnet18", 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: draw.uniform(0.5, 1.5, a.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_torchvision(path, "tiny_resnet18", variables)
    return path.read_bytes(), load(path.read_bytes())


def files(content, **changes):
    return {"config.json": json.dumps({**CONFIG, **changes}).encode(), "model.safetensors": content[0]}


@pytest.fixture
def served(tmp_path, monkeypatch, content):
    """A hub on localhost, as huggingface_hub is told by HF_ENDPOINT when it is imported, with a cache of its own."""
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="needs huggingface_hub: pip install '.[hub]'"
    )
    server = Hub()
    at(monkeypatch, server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.put("timm/small.a1_in1k", files(content))
    yield server
    server.close()


def at(monkeypatch, endpoint):
    from huggingface_hub import constants

    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def folder(path, known, weights=b""):
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(known if isinstance(known, str) else json.dumps(known))
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_the_config_says_what_timm_does_with_images(tmp_path):
    """resnet50.a1_in1k: scaled to floor(224 / 0.95) = 235; and other forms of the file."""
    found = hub.find(str(folder(tmp_path / "a", {
        "architecture": "resnet50", "num_classes": 1000, "num_features": 2048,
        "pretrained_cfg": {
            "tag": "a1_in1k", "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "interpolation": "bicubic",
            "crop_pct": 0.95, "test_crop_pct": 1.0, "crop_mode": "center", "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225], "num_classes": 1000,
        },
    })))  # fmt: skip
    assert (found.model, found.options, found.num_classes, found.classes) == ("resnet50", (), 1000, ())
    assert found.channels == 3 and found.data == {
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "channel_order": "rgb", "image_size": 224,
        "resize": "crop", "resize_short": 235, "interpolation": "bicubic",
    }  # fmt: skip
    # Before 2023 everything stood at the top; what is not said is as timm has it.
    old = {
        "architecture": "legacy_seresnet50",
        "num_classes": 2,
        "labels": ["a", "b"],
        "input_size": [3, 96, 96],
    }
    found = hub.find(str(folder(tmp_path / "b", old)))
    assert (found.model, found.classes) == ("se_resnet50", ("a", "b"))
    expected = {"image_size": 96, "resize": "crop", "resize_short": 109, "interpolation": "bicubic"}
    assert found.data.items() >= expected.items()
    squash = {
        "architecture": "resnet26",
        "num_classes": 2,
        "label_names": {"1": "b", "0": "a"},
        "crop_mode": "squash",
    }
    for share, resize, short in ((0.875, "stretch_crop", 256), (1.0, "stretch", 0)):
        found = hub.find(
            str(folder(tmp_path / "c", {**squash, "crop_pct": share, "interpolation": "bilinear"}))
        )
        assert (found.model, found.options) == ("resnet50", ("stage_sizes=2/2/2/2",))
        assert found.classes == ("a", "b")
        assert (found.data["resize"], found.data.get("resize_short")) == (resize, short)
        assert found.data["interpolation"] == "bilinear"


def test_what_is_written_of_images_is_read_again(tmp_path):
    for side, short in (
        (32, 32),
        (224, 256),
        (224, 235),
        (227, 256),
        (192, 219),
        *((224, n) for n in range(224, 460, 7)),
    ):
        data = Preprocessing((0.5,), (0.25,), "rgb", side, short, 0, "crop")
        known = hub.describe(data, (side, side, 3))
        assert int(np.floor(side / known["crop_pct"])) == short
        found = hub.find(str(folder(tmp_path, {**CONFIG, "pretrained_cfg": known})))
        assert (found.data["resize_short"], found.data["image_size"], found.data["mean"]) == (
            short,
            side,
            (0.5,),
        )


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"channel_order": "bgr"}, "data.channel_order=bgr"),
        ({"resize": "letterbox"}, "data.resize=letterbox"),
        ({"digit_width": 20}, "data.digit_width=20"),
    ],
)
def test_images_that_timm_has_no_words_for_are_refused(changes, name):
    data = dataclasses.replace(Preprocessing(image_size=32), **changes)
    with pytest.raises(ConfigError, match=f"{name} is not known to timm's config.json: export to FILE"):
        hub.describe(data, (32, 32, 3))


def test_a_network_is_imported_by_its_name_and_from_the_cache(launch, tmp_path, content, served, monkeypatch):
    def get(place, workdir, *more):
        return launch("--mode=import", f"--weights={place}", f"--workdir={tmp_path / workdir}", *more)

    result = get("hf:timm/small.a1_in1k", "a")
    assert result.code == 0, result.err
    run = restore(Workdir(tmp_path / "a"))
    assert run.classes == tuple(NAMES) and run.image_shape == (64, 64, 3)
    data = run.experiment.data
    assert (data.image_size, data.resize, data.resize_short) == (64, "crop", 67)
    assert (data.mean, data.std, data.interpolation) == ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3), "bicubic")
    conv, dense = (np.asarray(run.first.variables["params"][name]["kernel"]) for name in ("conv1", "output"))
    np.testing.assert_array_equal(conv, content[1]["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(dense, content[1]["fc.weight"].T)
    assert json.loads((tmp_path / "a/config.json").read_text())["name"] == "imported_tiny_resnet18"
    # What is said stays; a revision; another model than that of the experiment.
    served.put("timm/small.a1_in1k", files(content, label_names=["x", "y", "z"]), "v1")
    result = get("hf:timm/small.a1_in1k@v1", "b", "--data.resize_short=70")
    assert result.code == 0, result.err
    run = restore(Workdir(tmp_path / "b"))
    assert run.classes == ("x", "y", "z") and run.experiment.data.resize_short == 70
    result = get("hf:timm/small.a1_in1k", "c", "--experiment=imagenet_resnet50")
    assert (
        result.code == 1 and "holds tiny_resnet18, the experiment asks for model.name=resnet50" in result.err
    )
    # Without the hub: what is in the cache is there, by name and by revision; nothing else.
    at(monkeypatch, "http://127.0.0.1:1")
    assert get("hf:timm/small.a1_in1k", "d").code == 0
    assert get(f"hf:timm/small.a1_in1k@{OLD}", "e").code == 0
    result = get("hf:timm/other", "f")
    assert result.code == 1 and len(result.err.strip().splitlines()) == 1
    assert (
        "config.json is not in the cache of huggingface_hub, and http://127.0.0.1:1 cannot be asked: "
        in result.err
    )


@pytest.mark.full
def test_a_run_begins_from_a_network_of_the_hub(launch, tmp_path, content, served):
    flags = ("--data.name=synthetic", "--data.batch_size=4", "--data.limit=8", "--train.steps=1")
    begin = (*flags, "--optimizer.learning_rate=1e-30", "--train.init_from=hf:timm/small.a1_in1k")
    result = launch(
        *begin, "--model.name=tiny_resnet18", f"--workdir={tmp_path / 'a'}", "--data.image_size=32"
    )
    assert result.code == 0, result.err
    assert f"taken from hf:timm/small.a1_in1k@{COMMIT[:12]}: " in result.out
    assert "made anew: 2 arrays: output\n" in result.out
    run = restore(Workdir(tmp_path / "a"))
    conv = np.asarray(run.first.variables["params"]["conv1"]["kernel"])
    np.testing.assert_allclose(conv, content[1]["conv1.weight"].transpose(2, 3, 1, 0), rtol=1e-6)
    data = run.experiment.data
    assert data.mean == (0.5, 0.4, 0.3) and (data.image_size, data.interpolation) == (32, "bicubic")
    asked = len(served.asked)
    assert (
        launch(
            *begin[:-1],
            *begin[-1:],
            "--model.name=tiny_resnet18",
            f"--workdir={tmp_path / 'a'}",
            "--data.image_size=32",
        ).code
        == 0
    )
    assert len(served.asked) == asked  # a run that goes on asks nobody
    result = launch(*begin, "--model.name=tiny_densenet", f"--workdir={tmp_path / 'b'}")
    assert result.code == 1 and "another architecture; give --model.name=tiny_resnet18" in result.err


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        ("hf:timm/nothing", {}, "no such repository at http://127.0.0.1:"),
        ("hf:timm/odd@v9", {}, "the repository has no revision 'v9'"),
        ("hf:timm", {}, "expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
        ("hf:timm/odd", {"model.safetensors": None, "pytorch_model.bin": b"x"}, "the repository has no model.safetensors; of the hub, safetensors"),
        ("hf:timm/odd", {"config.json": None}, "the repository has no config.json"),
        ("hf:timm/odd", {"config.json": b"{"}, "its config.json cannot be read"),
        ("hf:timm/odd", {"architecture": "vit_base_patch16_224"}, "its architecture 'vit_base_patch16_224' is not known here"),
        ("hf:timm/odd", {"model.safetensors": 0.5}, "not a safetensors file"),
        ("gs:timm/odd", {}, "nothing is known of gs:"),
    ],
)  # fmt: skip
def test_mistakes_at_the_hub_are_one_line(launch, tmp_path, content, served, place, changes, message):
    repository = files(content, **{k: v for k, v in changes.items() if "." not in k})
    for name, value in changes.items():
        if value is None:
            del repository[name]
        elif "." in name:
            repository[name] = (
                content[0][: int(value * len(content[0]))] if isinstance(value, float) else value
            )
    served.put("timm/odd", repository)
    result = launch("--mode=import", f"--weights={place}", f"--workdir={tmp_path / 'new'}")
    assert result.code == 1 and message in result.err, result.err
    assert len(result.err.strip().splitlines()) == 1 and not (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ([], "its config.json is no object"),
        ({"architectures": ["ResNetForImageClassification"]}, "names no architecture, as those of timm do"),
        ({"architecture": "resnet51"}, "its architecture 'resnet51' is not known here: did you mean "),
        ({"architecture": "senet154"}, "its architecture 'senet154' is not known here"),
        ({"architecture": "resnet18", "model_args": {"block_args": 1}}, "its model_args change the network: block_args=1"),
        ({"architecture": "resnet18", "input_size": [3, 224, 192]}, "is not square"),
        ({"architecture": "resnet18", "input_size": "224"}, "is no [channels, height, width]"),
        ({"architecture": "resnet18", "crop_pct": 2}, "its crop_pct=2 is no share"),
        ({"architecture": "resnet18", "crop_mode": "border"}, "its crop_mode='border' is not known here"),
        ({"architecture": "resnet18", "interpolation": "hamming"}, "its interpolation='hamming'"),
        ({"architecture": "resnet18", "mean": [0.5, 0.5]}, "its mean=[0.5, 0.5] are no numbers for 3 channels"),
        ({"architecture": "resnet18", "std": ["a"]}, "are no numbers for 3 channels"),
        ({"architecture": "resnet18", "num_classes": 3, "label_names": ["a"]}, "it has 1 label_names for num_classes=3"),
        ({"architecture": "resnet18", "num_classes": -1}, "its num_classes=-1 is no number of classes"),
        ({"architecture": "resnet18", "num_classes": 2, "label_names": {"0": "a", "2": "b"}}, "no list of texts"),
        ({"architecture": "resnet18", "pretrained_cfg": 3}, "its pretrained_cfg is no object"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_meant_is_one_line(tmp_path, known, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        hub.find(str(folder(tmp_path, known)))


def test_a_folder_without_safetensors_and_a_package_that_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="a folder without model.safetensors"):
        hub.find(str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="needs huggingface_hub: pip install huggingface_hub"):
        hub.find("hf:timm/resnet50.a1_in1k")


@pytest.mark.full
def test_the_environment_says_where_the_hub_is(tmp_path, content, served):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, which huggingface_hub reads when it is imported."""
    program = "import sys; from cnnjax.weights import hub; [print(hub.find(name).name, flush=True) for name in sys.argv[1:]]"

    def ask(*names, **environment):
        command = [sys.executable, "-c", program, *names]
        home = {"HF_ENDPOINT": served.endpoint, "HF_HOME": str(tmp_path / "home")}
        return subprocess.run(
            command, env={**os.environ, **home, **environment}, capture_output=True, text=True
        )

    found = ask("hf:timm/small.a1_in1k")
    assert found.stdout.strip() == f"hf:timm/small.a1_in1k@{COMMIT[:12]}", found.stderr
    asked = len(served.asked)
    offline = ask("hf:timm/small.a1_in1k", "hf:timm/other", HF_HUB_OFFLINE="1")
    assert offline.stdout == found.stdout and "cannot be asked: HF_HUB_OFFLINE is set" in offline.stderr
    assert len(served.asked) == asked
    assert (tmp_path / "home" / "hub").is_dir()


@pytest.mark.full
def test_a_trained_network_is_written_as_a_folder_and_read_again(launch, tmp_path):
    from safetensors.numpy import load_file

    run, out = tmp_path / "run", tmp_path / "published"
    flags = (
        "--model.name=tiny_resnet18",
        "--model.options=width=6",
        "--data.limit=20",
        "--data.batch_size=10",
    )
    more = ("--data.name=synthetic", "--data.image_size=32", "--train.steps=2", "--train.log_every=1")
    assert launch(*flags, *more, f"--workdir={run}").code == 0
    export = ("--mode=export_weights", f"--workdir={run}", f"--output={out}")
    result = launch(*export)
    assert result.code == 0, result.err
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    known = json.loads((out / "config.json").read_text())
    trained = restore(Workdir(run))
    assert known["architecture"] == "tiny_resnet18" and known["model_options"] == ["width=6"]
    assert known["num_classes"] == len(trained.classes) == len(known["label_names"])
    kernel = np.asarray(trained.first.variables["params"]["conv1"]["kernel"])
    np.testing.assert_array_equal(
        load_file(out / "model.safetensors")["conv1.weight"], kernel.transpose(3, 2, 0, 1)
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [line for line in lines if line["split"] == "test"]
    card = (out / "README.md").read_text()
    import yaml

    head = yaml.safe_load(card.split("---")[1])
    (result,) = head["model-index"][0]["results"]
    numbers = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert numbers == {name: measured[name] for name in ("accuracy", "loss", "top5")}
    assert f"| accuracy | {100 * measured['accuracy']:.2f} % |" in card and head["library_name"] == "cnnjax"
    # What mode=evaluate finds of the checkpoint is on the card instead.
    assert launch("--mode=evaluate", f"--workdir={run}", "--evaluate.augment=flip").code == 0
    assert launch(*export[:-1], f"--output={out}-2").code == 0
    found = json.loads((run / "evaluation" / "metrics.json").read_text())["metrics"]["mean"]
    second = (tmp_path / "published-2" / "README.md").read_text()
    (result,) = yaml.safe_load(second.split("---")[1])["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == found != numbers
    assert "by mode=evaluate: data=synthetic, " in second and "evaluate.augment=flip" in second
    again = launch(*export)
    assert again.code == 1 and "exists already" in again.err
    result = launch("--mode=import", f"--weights={out}", f"--workdir={tmp_path / 'again'}")
    assert result.code == 0, result.err
    back = restore(Workdir(tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, back.first.variables, trained.first.variables)
    assert back.classes == trained.classes and back.image_shape == trained.image_shape
    assert back.experiment.data.mean == trained.experiment.data.mean
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    one, other = (np.asarray(r.first.outputs(image)) for r in (trained, back))
    np.testing.assert_array_equal(one, other)
