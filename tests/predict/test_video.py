"""Videos in and out: what is said of each frame is what is said of it alone, and what cannot be read is one line."""

import json
import sys
import wave

import numpy as np
import pytest

from cnnjax import config
from cnnjax.config import ConfigError
from cnnjax.data.dataset import Dataset
from cnnjax.predict import video
from cnnjax.runs import plan, run, train
from cnnjax.runs.workdir import Workdir
from cnnjax.tasks.result import Result

FRAMES, HEIGHT, WIDTH = 20, 47, 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    rng = np.random.default_rng(0)
    split = {
        "image": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), "label": np.arange(20, dtype=np.int32) % 4,
    }  # fmt: skip
    workdir = Workdir(tmp_path_factory.mktemp("run"))
    changes = {
        "model.name": "softmax_regression",
        "data.batch_size": 10,
        "train.epochs": 0.0,
        "train.steps": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "load", lambda *_: Dataset("x", split, split, tuple("abcd")))
        patch.setattr(train.report, "write", lambda *_, **__: None)
        train.train_run(config.replace(config.Experiment(), changes), workdir, None, "")
    return run.restore(workdir)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A square that moves, 10 frames to a second."""
    av = pytest.importorskip("av", reason="videos need the package av")
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)  # without loss
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def moving(number):
    pixels = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    pixels[10:20, 2 * number : 2 * number + 10] = (250, 200, 10)
    return pixels


def test_frames_are_those_that_were_written(clip):
    source = video.Source(str(clip))
    frames = list(source.frames())
    source.close()
    assert len(frames) == FRAMES and source.rate == 10
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(FRAMES) / 10, atol=1e-3)
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.pixels, moving(number))


def test_each_frame_is_answered_for_as_it_is_alone(launch, trained, clip, tmp_path):
    result = launch(
        "--mode=predict", f"--workdir={trained.workdir.path}", f"--inputs={clip}", f"--output={tmp_path}"
    )
    assert result.code == 0, result.err
    assert f"20 frames: {tmp_path / 'predictions.jsonl'} and {tmp_path / 'annotated.mp4'}" in result.out
    entries = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [entry["frame"] for entry in entries] == list(range(FRAMES))
    alone = trained.predict([moving(number) for number in range(FRAMES)])
    for entry, one in zip(entries, alone, strict=True):
        assert entry["class"] == one.to_json()["class"]
        assert entry["top"][0]["probability"] == pytest.approx(one.top[0][1], rel=1e-4)
    source = video.Source(str(tmp_path / "annotated.mp4"))
    shapes = {frame.pixels.shape for frame in source.frames()}
    assert source.count == FRAMES and shapes == {(HEIGHT - 1, WIDTH, 3)}  # even sides
    source.close()


def test_frames_in_memory_are_few(clip, monkeypatch):
    monkeypatch.setattr(video, "_PIXELS", 5 * HEIGHT * WIDTH)
    source = video.Source(str(clip))
    assert [len(batch) for batch in video._batches(source, 64)] == [5, 5, 5, 5]
    source.close()
    source = video.Source(str(clip))
    assert [len(batch) for batch in video._batches(source, 3)] == [3] * 6 + [2]
    source.close()


def test_what_is_found_is_drawn_into_the_frame():
    pixels = np.zeros((400, 600, 3), np.uint8)
    boxes = Result(
        400,
        600,
        ("cat",),
        boxes=np.array([[50.0, 60, 200, 300]]),
        scores=np.array([0.9]),
        labels=np.array([0]),
    )
    drawn = video.annotated(pixels, boxes)
    assert drawn.shape == pixels.shape and (drawn[60:300, 50] == (0, 255, 0)).all()
    named = video.annotated(pixels, Result(400, 600, ("cat", "dog"), top=((1, 0.75), (0, 0.25))))
    rows = np.flatnonzero((named == 255).all(-1).any(1))
    assert rows.min() < 20 and rows[-1] - rows[0] >= 10


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("camera:7", "camera:7: there is no camera /dev/video7"),
        ("none.mp4", "no such file or folder: none.mp4"),
        ("empty.mp4", "empty.mp4: cannot be read as a video: "),
        ("text.avi", "text.avi: cannot be read as a video: "),
        ("empty.mp4,text.avi", "empty.mp4: a video is predicted alone, not beside 1 other inputs"),
        ("no_frame.avi", "no_frame.avi: there is no frame in it"),
        ("sound.mp4", "sound.mp4: there is no picture in it"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(launch, trained, tmp_path, monkeypatch, inputs, message):
    av = pytest.importorskip("av", reason="videos need the package av")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.avi").write_text("no video at all, but a few words")
    with wave.open("sound.mp4", "wb") as sound:
        sound.setparams((1, 2, 8000, 800, "NONE", ""))
        sound.writeframes(bytes(1600))
    with av.open("no_frame.avi", "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        container.start_encoding()
    result = launch(
        "--mode=predict", f"--workdir={trained.workdir.path}", f"--inputs={inputs}", "--output=out"
    )
    assert result.code == 1 and message in result.err and result.err.count("\n") == 1, result.err
    assert not (tmp_path / "out").exists()


def test_without_the_package_one_line_says_what_to_install(launch, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    result = launch(
        "--mode=predict", f"--workdir={trained.workdir.path}", f"--inputs={tmp_path / 'clip.mp4'}"
    )
    assert (
        result.code == 1 and result.err == "error: videos and cameras need the package av: pip install av\n"
    )


def test_a_camera_is_answered_for_until_it_is_interrupted(clip, tmp_path, monkeypatch):
    """Frame by frame; what was written until then is whole. A file stands for the camera."""
    av = pytest.importorskip("av", reason="videos need the package av")
    opened, asked = av.open, []

    def open_camera(name, *args, format=None):
        assert format != "v4l2" or name == str(clip)
        return opened(name, *args)

    monkeypatch.setattr(av, "open", open_camera)

    def answers(frames):
        asked.append(len(frames))
        if len(asked) == 6:
            raise KeyboardInterrupt
        return [Result(HEIGHT, WIDTH, ("a", "b"), top=((0, 1.0), (1, 0.0)))]

    assert video.predict_video(f"camera:{clip}", answers, 64, tmp_path) == 5 and asked == [1] * 6
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 5
    source = video.Source(str(tmp_path / "annotated.mp4"))
    assert len(list(source.frames())) == 5
    source.close()
    with pytest.raises(ConfigError, match="there is no camera"):
        video.Source("camera:/dev/none")
