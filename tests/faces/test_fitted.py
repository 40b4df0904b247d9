"""A cascade and a shape model from flags: fitted, judged, and asked about photographs."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

# 68 points in the order of the 300-W scheme on a round face of 60 pixels.
_ANGLES = np.linspace(np.pi, 0, 17)
JAW = np.stack([40 + 30 * np.cos(_ANGLES), 40 + 32 * np.sin(_ANGLES)], 1)


def arc(x, y, wide, high, count, closed):
    angles = np.linspace(np.pi, -np.pi, count + 1)[:count] if closed else np.linspace(np.pi, 0, count)
    return np.stack([x + wide * np.cos(angles), y - high * np.sin(angles)], 1)


FACE = np.concatenate(
    [
        JAW,
        arc(27, 29, 8, 3, 5, False), arc(53, 29, 8, 3, 5, False),
        np.stack([np.full(4, 40.0), np.linspace(34, 48, 4)], 1), arc(40, 51, 5, -2, 5, False),
        arc(27, 35, 5, 3, 6, True), arc(53, 35, 5, 3, 6, True),
        arc(40, 60, 11, 5, 12, True), arc(40, 60, 8, 2, 8, True),
    ]
)  # fmt: skip


def drawn(rng):
    """A grey face in 80x80 pixels that is a little elsewhere and larger, and its points."""
    points = (FACE - 40) * rng.uniform(0.9, 1.1) + 40 + rng.uniform(-3, 3, 2)
    picture = Image.new("L", (80, 80), int(rng.integers(20, 80)))
    draw = ImageDraw.Draw(picture)
    left, top = points[:17].min(0)
    right, bottom = points[:17].max(0)
    draw.ellipse((left, top - 20, right, bottom), fill=200)
    for first, end, tone in ((36, 42, 30), (42, 48, 30), (48, 60, 90)):
        draw.polygon([tuple(p) for p in points[first:end].tolist()], fill=tone)
    for first, end in ((17, 22), (22, 27), (27, 31)):
        draw.line([tuple(p) for p in points[first:end].tolist()], fill=60, width=2)
    noisy = np.asarray(picture) + rng.normal(0, 4, (80, 80))
    return np.clip(noisy, 0, 255).astype(np.uint8), points


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    header = "file," + ",".join(f"x{i},y{i}" for i in range(68))
    for split, count in (("train", 40), ("test", 8)):
        (root / split).mkdir()
        rows = [header]
        for i in range(count):
            image, points = drawn(rng)
            Image.fromarray(image).save(root / split / f"{i}.png")
            rows.append(f"{i}.png," + ",".join(f"{v:.2f}" for v in points.ravel()))
        (root / f"{split}.csv").write_text("\n".join(rows))
    (root / "streets").mkdir()
    for i in range(5):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8))
        coarse.resize((120, 90), Image.Resampling.BICUBIC).save(root / "streets" / f"{i}.png")
    return root


def test_a_shape_model_from_flags(folder, tmp_path, launch):
    flags = ("--experiment=faces_shape_model", f"--data.name=points:{folder}", "--data.image_size=80")
    work = tmp_path / "run"
    result = launch(*flags, "--shape_model.half_length=4", f"--workdir={work}")
    assert result.code == 0, result.err
    metrics = json.loads((work / "metrics.jsonl").read_text())
    assert metrics["nme"] < 0.05 and metrics["nme_jittered"] < 0.05
    assert {path.name for path in (work / "plots").iterdir()} == {
        "points.png", "shape_modes.png", "search_steps.png",
    }  # fmt: skip
    again = launch("--mode=evaluate", f"--workdir={work}")
    assert again.code == 0 and f"{100 * metrics['nme']:.2f} %" in again.out
    output = tmp_path / "records.jsonl"
    recorded = launch("--mode=benchmark", f"--workdir={work}", f"--benchmark.output={output}")
    assert recorded.code == 0, recorded.err
    values = json.loads(output.read_text())["values"]
    assert values["nme"] == [pytest.approx(metrics["nme"])]
    said = launch("--mode=predict", f"--workdir={work}", f"--inputs={folder / 'test'}")
    assert said.code == 0, said.err
    (first, *_) = json.loads((work / "predictions" / "predictions.json").read_text())
    known = np.array((folder / "test.csv").read_text().splitlines()[1].split(",")[1:], float).reshape(-1, 2)
    found = np.array([first["points"][str(i)] for i in range(68)])
    assert np.linalg.norm(found - known, axis=1).mean() < 2
    other = f"--predict.warp={folder / 'train' / '0.png'}"
    for warp, said in ((other, "2 faces warped"), ("--predict.warp=mean", "2 faces warped")):
        inputs = f"--inputs={folder / 'test' / '0.png'},{folder / 'test' / '1.png'}"
        warped = launch("--mode=predict", f"--workdir={work}", inputs, warp, f"--output={tmp_path / 'warps'}")
        assert warped.code == 0 and said in warped.out, warped.err
    assert sorted(path.name for path in (tmp_path / "warps" / "warped").iterdir()) == [
        "001_0.gif", "001_0.png", "002_1.gif", "002_1.png",
    ]  # fmt: skip
    alone = launch(
        "--mode=predict", f"--workdir={work}", f"--inputs={folder / 'test' / '0.png'}", "--predict.warp=mean"
    )
    assert alone.code == 1 and "is the mean of the faces in --inputs, which are 1" in alone.err
    missing = launch(
        "--mode=predict", f"--workdir={work}", f"--inputs={folder / 'test'}", "--predict.warp=none.png"
    )
    assert missing.code == 1 and "no such file or folder: none.png" in missing.err
    exported = launch("--mode=export", f"--workdir={work}", f"--output={tmp_path / 'x'}")
    assert exported.code == 1 and "task=shape_model is fitted in one go" in exported.err
    refused = launch(*flags, "--shape_model.half_length=5", f"--workdir={work}")
    assert refused.code == 1 and "shape_model.half_length: 4 -> 5" in refused.err
    (work / "shape_model.npz").write_bytes(b"PK")
    damaged = launch("--mode=predict", f"--workdir={work}", f"--inputs={folder / 'test'}")
    assert damaged.code == 1 and "shape_model.npz is damaged" in damaged.err


def test_a_cascade_from_flags_and_the_points_of_what_it_finds(folder, tmp_path, launch):
    flags = ("--experiment=faces_cascade", f"--data.name=points:{folder}", "--data.image_size=80")
    few = ("--cascade.features=300", "--cascade.stages=3", "--cascade.stumps=4,8", "--cascade.negatives=300")
    work = tmp_path / "run"
    refused = launch(*flags, f"--workdir={work}")
    assert refused.code == 1 and "task=cascade needs --data.backgrounds" in refused.err
    flags += (f"--data.backgrounds={folder / 'streets'}",)
    result = launch(*flags, *few, f"--workdir={work}")
    assert result.code == 0, result.err
    assert "stage 1:" in result.out
    metrics = json.loads((work / "metrics.jsonl").read_text())
    assert metrics["faces_kept"] == 1 and metrics["windows_kept"] < 0.05
    assert {"chosen_features.png", "stage_rates.png"} <= {path.name for path in (work / "plots").iterdir()}
    assert f"{100 * metrics['windows_kept']:.2f} %" in launch("--mode=evaluate", f"--workdir={work}").out
    Image.new("L", (23, 30)).save(tmp_path / "small.png")
    small = launch("--mode=predict", f"--workdir={work}", f"--inputs={tmp_path / 'small.png'}")
    assert small.code == 1 and "23x30 pixels is smaller than the cascade's window of 24x24" in small.err
    photograph = np.full((200, 260), 60, np.uint8)
    photograph[60:140, 100:180] = np.asarray(Image.open(folder / "test" / "0.png"))
    Image.fromarray(photograph).save(tmp_path / "photograph.png")
    shape = ("--experiment=faces_shape_model", f"--data.name=points:{folder}", "--data.image_size=80")
    both = tmp_path / "both"
    result = launch(*shape, f"--shape_model.cascade={work / 'cascade.xml'}", f"--workdir={both}")
    assert result.code == 0, result.err
    for run in (work, both):
        said = launch("--mode=predict", f"--workdir={run}", f"--inputs={tmp_path / 'photograph.png'}")
        assert said.code == 0, said.err
        (found,) = json.loads((run / "predictions" / "predictions.json").read_text())
        x, y, width, height = found["detections"][0]["bbox"]
        assert np.hypot(x + width / 2 - 140, y + height / 2 - 106) < 12
    assert np.hypot(*np.subtract(found["detections"][0]["points"]["30"], [140, 108])) < 12
    refused = launch(
        "--mode=predict", f"--workdir={work}", f"--inputs={folder / 'test'}", f"--predict.warp={tmp_path / 'photograph.png'}"
    )  # fmt: skip
    assert refused.code == 1 and "photograph.png: no points are placed on it" in refused.err


@pytest.mark.parametrize(
    ("experiment", "flag", "line"),
    [
        ("faces_cascade", "--optimizer.learning_rate=0.5", "has no effect with task=cascade"),
        ("faces_cascade", "--shape_model.iterations=3", "has no effect with task=cascade"),
        ("faces_shape_model", "--data.name=digits", "has no points; task=shape_model"),
        ("faces_shape_model", "--data.name=figures", "known by 68 points here, not by 14"),
        ("faces_shape_model", "--shape_model.cascade=nowhere.xml", "nowhere.xml"),
    ],
)
def test_what_has_no_effect_or_no_points_is_one_line(folder, tmp_path, launch, experiment, flag, line):
    result = launch(
        f"--experiment={experiment}", f"--data.name=points:{folder}", "--data.image_size=80", "--data.limit=8", flag,
        f"--workdir={tmp_path}/run",
    )  # fmt: skip
    assert result.code == 1 and line in result.err and len(result.err.splitlines()) == 1
