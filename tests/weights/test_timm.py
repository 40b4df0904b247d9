"""timm itself as the reference: its files read, its preprocessing of photographs, its outputs; and our files read by it."""

import json

import numpy as np
import pytest
from PIL import Image

from cnnjax.runs.run import restore
from cnnjax.runs.workdir import Workdir

torch = pytest.importorskip("torch", reason="needs torch")
timm = pytest.importorskip("timm", reason="needs timm, the reference")


@pytest.fixture
def photograph(tmp_path):
    """A smooth picture that is not square, as a file."""
    rows, columns = np.mgrid[0:141, 0:203].astype(np.float32)
    waves = [127 + 120 * np.sin(rows / a + columns / b) for a, b in ((9, 17), (23, 5), (4, 31))]
    path = tmp_path / "photo.png"
    Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(path)
    return path


def answers_of_timm(model, path):
    """What timm's transform for evaluation makes of a file, [H, W, C], and the probabilities."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    images = transform(Image.open(path))[None]
    with torch.inference_mode():
        return images[0].permute(1, 2, 0).numpy(), model.eval()(images).softmax(-1)[0].numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet18", {"crop_pct": 0.95, "interpolation": "bicubic"}),
        ("resnet26", {"crop_mode": "squash", "crop_pct": 0.9, "interpolation": "bilinear"}),
        pytest.param("vgg11_bn", {}, marks=pytest.mark.slow),
        pytest.param("densenet121", {"crop_pct": 1.0, "crop_mode": "squash"}, marks=pytest.mark.slow),
        pytest.param("legacy_seresnet50", {"interpolation": "bilinear"}, marks=pytest.mark.slow),
    ],
)
def test_a_network_of_timm_answers_here_as_there(launch, tmp_path, photograph, name, changes):
    torch.manual_seed(0)
    side = 224 if name.startswith("vgg") else 96
    model = timm.create_model(name, num_classes=5)
    for module in model.modules():  # statistics as of a trained network
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    model.pretrained_cfg |= {"input_size": (3, side, side), **changes}
    timm.models.save_for_hf(model, tmp_path / "there", model_config={"label_names": list("abcde")}, safe_serialization=True)  # fmt: skip
    images, expected = answers_of_timm(model, photograph)
    result = launch("--mode=import", f"--weights={tmp_path / 'there'}", f"--workdir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    run = restore(Workdir(tmp_path / "run"))
    assert run.classes == tuple("abcde")
    pixels = np.asarray(Image.open(photograph))
    found = run.first.preprocessing(run.first.preprocessing.frame(pixels, run.image_shape))
    np.testing.assert_allclose(found, images, rtol=1e-5, atol=1e-5)
    answer = run.predict([photograph])[0].to_json()
    ours = {row["class"]: row["probability"] for row in answer["top"]}
    np.testing.assert_allclose([ours[c] for c in "abcde"], expected, rtol=1e-3)
    # Out again: timm finds the same tensors, and prepares images in the same way.
    out = tmp_path / "out"
    assert launch("--mode=export_weights", f"--workdir={tmp_path / 'run'}", f"--output={out}").code == 0
    again = timm.create_model(f"local-dir:{out}", pretrained=True)
    known = json.loads((out / "config.json").read_text())
    assert known["architecture"] == name
    images_again, answers_again = answers_of_timm(again, photograph)
    np.testing.assert_array_equal(images_again, images)
    np.testing.assert_allclose(answers_again, expected, rtol=1e-5)
