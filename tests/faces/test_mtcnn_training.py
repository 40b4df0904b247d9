"""The trainer of MT-CNN: windows and what they are, its losses, its stages, and the whole from flags."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageDraw

from cnnjax import config
from cnnjax.config import ConfigError
from cnnjax.faces import mtcnn, mtcnn_training
from cnnjax.faces import mtcnn_samples as sampling
from cnnjax.faces.mtcnn_progress import Progress
from cnnjax.faces.mtcnn_samples import LANDMARK, NEGATIVE, PART, POSITIVE, Samples
from cnnjax.faces.mtcnn_training import batches, hard_mean, losses, train_network

FACES = np.array([[10.0, 10, 30, 30], [100, 100, 110, 110]])


def test_windows_are_sorted_by_their_overlap():
    shifted = np.array([0, 3, 7, 9, 25])  # IoU = (20 - s) / (20 + s): 1, .74, .48, .38, 0
    windows = np.stack([10.0 + shifted, np.full(5, 10.0), 30.0 + shifted, np.full(5, 30.0)], axis=1)
    assert_allclose(sampling.overlaps(windows, FACES)[:4, 0], (20 - shifted[:4]) / (20 + shifted[:4]))
    kind, about = sampling.sort_windows(windows, FACES, np.array([False, True]))
    assert kind.tolist() == [POSITIVE, POSITIVE, PART, -1, NEGATIVE] and about[0] == 0
    kind, _ = sampling.sort_windows(windows, FACES, np.array([True, True]))
    assert kind.tolist() == [-1, -1, -1, -1, NEGATIVE]  # near a face that does not count nothing is known
    assert sampling.sort_windows(windows, FACES[:0], np.zeros(0, bool))[0].tolist() == [NEGATIVE] * 5


def test_offsets_are_what_the_search_adds():
    windows, faces = (
        np.array([[4.0, 6, 24, 26], [50, 50, 62, 62]]),
        np.array([[2.0, 9, 20, 30], [50, 50, 60, 64]]),
    )
    inclusive = windows + [1, 1, 0, 0]  # as the networks count, from 1
    found = mtcnn._corrected(jnp.float32(inclusive), jnp.float32(sampling.offsets(windows, faces)))
    assert_allclose(found, faces + [1, 1, 0, 0], rtol=1e-6)


def test_a_pixel_of_a_window_is_the_mean_of_those_it_covers():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    windows = np.array([[3.0, 4, 27, 28], [-5.5, 30, 14.5, 50], [45, 35, 48, 38]])
    found = sampling.cut_windows(image, windows, 12)
    inside = [(4, 3, 28, 27), (30, 0, 40, 14), (35, 45, 38, 48)]
    for pixels, (top, left, bottom, right) in zip(found, inside, strict=True):
        crop = image[top:bottom, left:right]
        for i, j in np.ndindex(12, 12):  # from the floor of its beginning to the ceiling of its end
            rows, columns = (
                slice(k * length // 12, -(-(k + 1) * length // 12))
                for k, length in zip((i, j), crop.shape, strict=False)
            )
            assert_allclose(pixels[i, j], crop[rows, columns].reshape(-1, 3).mean(axis=0), atol=0.5)


def test_windows_that_are_drawn_lie_in_the_image():
    rng = np.random.default_rng(0)
    elsewhere = sampling.draw_elsewhere((120, 160), FACES, 30, 12, rng)
    about = sampling.draw_about((120, 160), FACES, rng)
    for squares in (elsewhere, about):
        size = squares[:, 2:] - squares[:, :2]
        assert_allclose(size[:, 0], size[:, 1])
        assert squares.min() >= 0 and (squares[:, 2:] <= [160, 120]).all()
    assert 12 <= (elsewhere[:, 2] - elsewhere[:, 0]).min() and len(elsewhere) >= 30
    kind, _ = sampling.sort_windows(about, FACES, np.zeros(2, bool))
    assert np.count_nonzero(kind == POSITIVE) > 5 and NEGATIVE not in kind
    assert sampling.draw_elsewhere((20, 160), FACES, 30, 12, rng).shape == (0, 4)
    assert sampling.draw_about((20, 160), FACES[:0], rng).shape == (0, 4)


def test_a_mirrored_window():
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    boxes = np.float32([[0.1, 0.2, -0.3, 0.4]] * 2)
    points = np.float32([[0.3, 0.7, 0.5, 0.35, 0.65, 0.4, 0.41, 0.6, 0.8, 0.81]] * 2)
    found = Samples(pixels, np.array([POSITIVE, LANDMARK], np.int8), boxes, points).mirrored(
        np.array([False, True])
    )
    assert_array_equal(found.pixels[0], pixels[0])
    assert_array_equal(found.pixels[1], pixels[1, :, ::-1])
    assert_allclose(found.boxes, [[0.1, 0.2, -0.3, 0.4], [0.3, 0.2, -0.1, 0.4]])
    # What was the right eye is the left one, as far from the other side.
    assert_allclose(found.points[1], [0.3, 0.7, 0.5, 0.35, 0.65, 0.41, 0.4, 0.6, 0.81, 0.8], rtol=1e-5)


def test_the_square_of_five_points_is_that_of_the_published_networks():
    points = np.array(
        [(877.447, 486.198), (918.972, 484.588), (895.73, 516.808), (884.364, 533.644), (920.152, 530.224)]
    )
    x0, y0, x1, y1 = 859.193, 436.556, 953.557, 558.579  # facenet-pytorch; squared
    middle, half = np.array([x0 + x1, y0 + y1]) / 2, (y1 - y0) / 2
    expected = np.concatenate([middle - half, middle + half])[None]
    assert sampling.overlaps(sampling.face_box(points)[None], expected)[0, 0] > 0.85
    many = np.zeros((68, 2))
    many[36:42], many[42:48], many[30], many[48], many[54] = points
    assert_allclose(sampling.five_points(many), points)


def test_hard_examples_are_the_largest_losses_of_those_that_are_valid():
    values = jnp.float32([5.0, 1, 9, 3, 100, 2, 0])
    valid = jnp.array([True, True, True, True, False, True, False])
    mean = jax.jit(jax.value_and_grad(hard_mean))
    # 70 % of 5 are 4: all but the least; what is not valid neither counts nor takes a place.
    found, slopes = mean(values, valid, 0.7)
    assert float(found) == pytest.approx((9 + 5 + 3 + 2) / 4)
    assert slopes.tolist() == [0.25, 0, 0.25, 0.25, 0, 0.25, 0]
    assert float(mean(values, valid, 1.0)[0]) == pytest.approx(20 / 5)
    assert float(mean(values, np.zeros(7, bool), 0.7)[0]) == 0
    _, ties = mean(np.ones(7, np.float32), np.ones(7, bool), 0.5)
    assert sorted(ties.tolist()) == [0, 0, 0, 0.25, 0.25, 0.25, 0.25]


def test_each_kind_of_window_teaches_what_it_tells():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(4, 16)).astype(np.float32)
    batch = {
        "kind": np.array([NEGATIVE, POSITIVE, PART, LANDMARK], np.int8),
        "boxes": rng.normal(size=(4, 4)).astype(np.float32),
        "points": rng.normal(size=(4, 10)).astype(np.float32),
    }

    def total(outputs):
        parts = losses(outputs, batch, 1.0)
        return sum(parts), parts

    (_, (faces, boxes, points)), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(outputs)
    logs = outputs[:2, :2] - np.log(np.exp(outputs[:2, :2]).sum(axis=1, keepdims=True))
    assert float(faces) == pytest.approx(-(logs[0, 0] + logs[1, 1]) / 2, rel=1e-5)
    squared = ((outputs[1:3, 2:6] - batch["boxes"][1:3]) ** 2).sum(axis=1)
    assert float(boxes) == pytest.approx(squared.mean(), rel=1e-5)
    assert float(points) == pytest.approx(((outputs[3, 6:] - batch["points"][3]) ** 2).sum(), rel=1e-5)
    learned = [[NEGATIVE, POSITIVE], [POSITIVE, PART], [LANDMARK]]
    for kinds, columns in zip(learned, (slice(0, 2), slice(2, 6), slice(6, 16)), strict=True):
        rest = np.delete(np.asarray(gradient[:, columns]), kinds, axis=0)
        assert not rest.any() and np.asarray(gradient[:, columns])[kinds].all()


def windows(counts):
    kind = np.repeat(np.arange(4, dtype=np.int8), counts)
    pixels = np.arange(len(kind), dtype=np.uint8)[:, None, None, None] * np.ones((1, 12, 12, 3), np.uint8)
    return Samples(pixels, kind, np.zeros((len(kind), 4), np.float32), np.zeros((len(kind), 10), np.float32))


def test_batches_hold_all_kinds_and_in_turn_all_windows():
    stream = batches(windows((9, 3, 5, 2)), 12, np.random.default_rng(0))
    first = next(stream)
    assert np.bincount(first["kind"]).tolist() == [6, 2, 2, 2]
    seen = [first, next(stream), next(stream)]
    assert {0, 1, 2, 3, 4, 5, 6, 7, 8} <= set(
        np.concatenate([one["pixels"][:, 0, 0, 0] for one in seen]).tolist()
    )
    few = next(batches(windows((9, 3, 0, 0)), 12, np.random.default_rng(0)))
    assert np.bincount(few["kind"]).tolist() == [9, 3]
    with pytest.raises(ConfigError, match="no windows with a face"):
        next(batches(windows((9, 0, 5, 2)), 12, np.random.default_rng(0)))
    with pytest.raises(ConfigError, match="no windows without a face"):
        next(batches(windows((0, 9, 5, 2)), 12, np.random.default_rng(0)))


def test_a_network_that_is_killed_goes_on_with_equal_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(mtcnn_training, "_KEPT_EVERY", 4)
    samples, settings = windows((9, 3, 5, 0)), config.Mtcnn(batch_size=12)
    whole, begun = Progress(tmp_path, "whole"), Progress(tmp_path, "begun")

    def trained(progress, say):
        return train_network("pnet", samples, samples, 15, settings, 0, say, progress)[0]

    def killed(line):
        if "step 9 of" in line:
            raise KeyboardInterrupt

    wanted = trained(whole, lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        trained(begun, killed)
    said = []
    found = trained(begun, said.append)
    assert said[0] == "pnet: goes on after step 8 of 15" and "step 9 of" in said[1]
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    # Windows are mined once, and of a finished network nothing is left.
    first = begun.windows(lambda: (samples, samples[:2]))
    second = begun.windows(lambda: pytest.fail("mined again"))
    for one, again in zip(first, second, strict=True):
        jax.tree.map(np.testing.assert_array_equal, dataclasses.asdict(one), dataclasses.asdict(again))
    for name in ("begun_mined.npz", "begun_state.msgpack"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"begun_mined.npz is damaged"):
        begun.windows(lambda: pytest.fail("mined again"))
    with pytest.raises(ConfigError, match=r"begun_state.msgpack is damaged"):
        trained(begun, said.append)
    for progress in (whole, begun):
        progress.forget()
    assert not [*tmp_path.iterdir()]


def test_of_each_kind_no_more_than_asked():
    assert sampling.thinned(windows((9, 3, 5, 2)), 4, np.random.default_rng(0)).counts() == {
        "negative": 4, "positive": 3, "part": 4, "landmark": 2,
    }  # fmt: skip
    assert len(sampling.joined([], 12)) == 0


def drawn_scenes(root):
    """Photographs of a kind with faces, a bright disk with eyes and a mouth, as labelImg writes them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 6)):
        (root / split).mkdir(parents=True)
        for i in range(count):
            noise = Image.fromarray(rng.integers(0, 120, (6, 8, 3), dtype=np.uint8))
            picture = noise.resize((96, 72), Image.Resampling.BICUBIC)
            draw, objects = ImageDraw.Draw(picture), ""
            for column in range(int(rng.integers(1, 3))):
                side = int(rng.integers(26, 36))
                x, y = 48 * column + int(rng.integers(2, 46 - side)), int(rng.integers(2, 70 - side))
                draw.ellipse((x, y, x + side, y + side), fill=(230, 190, 160))
                for place in ((0.3, 0.35), (0.7, 0.35)):
                    cx, cy = x + place[0] * side, y + place[1] * side
                    draw.ellipse((cx - 2, cy - 2, cx + 2, cy + 2), fill=(20, 20, 20))
                draw.line(
                    (x + 0.3 * side, y + 0.75 * side, x + 0.7 * side, y + 0.75 * side),
                    fill=(150, 20, 20),
                    width=2,
                )
                corners = zip(
                    ("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + side, y + side), strict=True
                )
                box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
                objects += f"<object><name>face</name><bndbox>{box}</bndbox></object>"
            picture.save(root / split / f"{i}.png")
            size = "<size><width>96</width><height>72</height><depth>3</depth></size>"
            (root / split / f"{i}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.mark.slow
def test_three_networks_from_flags_judged_resumed_and_asked(folder, tmp_path, launch):
    work = tmp_path / "run"
    few = (
        "--mtcnn.steps=300,150,60",
        "--mtcnn.batch_size=96",
        "--mtcnn.samples=2000,1000,500",
        "--data.image_size=96",
    )
    flags = ("--experiment=faces_mtcnn", f"--data.name=voc:{folder}", *few, f"--workdir={work}")
    result = launch(*flags)
    assert result.code == 0, result.err
    metrics = json.loads((work / "metrics.jsonl").read_text())
    assert metrics["ap50"] > 0.6 and metrics["pnet/accuracy"] > 0.85 and metrics["onet/positive"] > 50
    assert "onet/landmark" not in metrics and f"{metrics['pnet/negative']:,.0f}\n" in result.out
    names = {path.stem for path in (work / "plots").iterdir()}
    assert names == {"found", "precision_recall", "stages", "windows_pnet", "windows_rnet", "windows_onet"}
    said = launch("--mode=predict", f"--workdir={work}", f"--inputs={folder / 'test'}")
    assert said.code == 0, said.err
    (first, *_) = json.loads((work / "predictions" / "predictions.json").read_text())
    assert first["detections"] and "points" not in first["detections"][0]  # none were learned
    # The last network is lost: only it is trained again. Other settings would be another run.
    (work / "config.json").unlink()
    about = json.loads((work / "stages.json").read_text())
    del about["stages"][2]
    (work / "stages.json").write_text(json.dumps(about))
    other = launch(*flags, "--mtcnn.hard=1")
    assert other.code == 1 and "trained with another hard" in other.err
    again = launch(*flags)
    assert again.code == 0 and "there already: pnet, rnet" in again.out and "pnet: step" not in again.out
    assert json.loads((work / "metrics.jsonl").read_text())["ap50"] == pytest.approx(metrics["ap50"])
    given = launch(*flags[:-1], f"--mtcnn.weights={work}", f"--workdir={tmp_path / 'given'}")
    assert given.code == 0, given.err
    found = json.loads((tmp_path / "given" / "metrics.jsonl").read_text())
    assert found["ap50"] == pytest.approx(metrics["ap50"]) and "pnet/accuracy" not in found


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--mtcnn.steps=5,5", "mtcnn.steps: 3 numbers"),
        ("--mtcnn.weights=nowhere", "nowhere"),
        ("--data.name=digits", "has no boxes; task=mtcnn learns them"),
        ("--mtcnn.landmarks=points:nowhere", "nowhere"),
        ("--train.epochs=3", "has no effect with task=mtcnn"),
    ],
)
def test_what_cannot_be_meant_is_one_line(folder, tmp_path, launch, flag, line):
    result = launch(
        "--experiment=faces_mtcnn",
        f"--data.name=voc:{folder}",
        "--data.image_size=64",
        "--data.limit=8",
        flag,
        f"--workdir={tmp_path}/run",
    )
    assert result.code == 1 and line in result.err and len(result.err.splitlines()) == 1
