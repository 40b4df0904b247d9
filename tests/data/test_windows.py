"""Random resized crop while files are decoded: windows as torchvision draws them, pixels as Pillow makes them."""

import io

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cnnjax.config import Augment, ConfigError, Data, Experiment, Model, Train
from cnnjax.data import images, stream
from cnnjax.data.examples import Columns, concat, read_ahead
from cnnjax.data.formats import records
from cnnjax.data.formats.records import Raw
from cnnjax.data.stream import EvaluationRows, StreamedImages, TrainRows
from cnnjax.data.windows import Window, smallest_window

SIDE = 16


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


@pytest.mark.parametrize(
    ("height", "width", "smallest", "area", "shape", "place"),
    [  # means and deviations of 20,000 draws of torchvision 0.28's RandomResizedCrop.get_params
        (375, 500, 0.08, (0.4348, 0.2159), (0.0315, 0.1635), (0.2170, 0.1384)),
        (300, 100, 0.08, (0.2261, 0.0930), (-0.0451, 0.1677), (0.1063, 0.3581)),
        (100, 400, 0.50, (0.3325, 0.0), (0.2852, 0.0), (0.3325, 0.0)),  # never fits: the centre
    ],
)
def test_windows_are_drawn_as_torchvision_draws_them(height, width, smallest, area, shape, place):
    found = np.array([Window(smallest, 0, 0, i).draw(height, width) for i in range(4000)])
    left, top, right, bottom = found.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    share = (right - left) * (bottom - top) / (height * width)
    ratio = np.log((right - left) / (bottom - top))
    assert_allclose((share.mean(), share.std()), area, atol=0.01)
    assert_allclose((ratio.mean(), ratio.std()), shape, atol=0.01)
    assert_allclose((left.mean() / width, top.mean() / height), place, atol=0.01)


def test_a_window_is_of_the_example_in_its_epoch_and_seed():
    drawn = {
        Window(0.1, seed, epoch, example).draw(500, 500)
        for seed in range(3) for epoch in range(4) for example in range(5)
    }  # fmt: skip
    assert len(drawn) == 60
    assert Window(0.1, 1, 2, 3).draw(500, 500) == Window(0.1, 1, 2, 3).draw(500, 500)
    whole = TrainRows(7, 0, 4, 10, 6, np.arange(6), 0.3)
    part = TrainRows(7, 2, 4, 10, 6, np.array([4, 5]), 0.3)  # of another process, after two steps
    assert part.windows(1) == whole.windows(3)[4:]
    examples = [(w.epoch, w.example) for k in range(4) for w in whole.windows(k)]
    assert len(set(examples)) == 24 and examples[9][0] == 0 and examples[10][0] == 1
    assert [w.example for w in whole.windows(2)] == whole[2].tolist()
    assert TrainRows(7, 0, 4, 10, 6, np.arange(6)).windows(0) is None
    assert EvaluationRows(10, 4, np.arange(4)).windows(0) is None


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(3, 5, 33, 30), (10, 0, 60, 40), (0, 0, 60, 40)])
def test_a_window_of_a_file_without_scales_is_cut_and_resized_as_pillow_does(box, interpolation):
    image = photograph(40, 60)
    expected = image.crop(box).resize((SIDE, SIDE), Image.Resampling[interpolation.upper()])
    if box != (0, 0, 60, 40):  # at its border, Pillow's box may look at what is beside it
        expected = image.resize((SIDE, SIDE), Image.Resampling[interpolation.upper()], box)
    data = Data(image_size=SIDE, interpolation=interpolation)
    found = images.decode_window(encoded(image, "PNG"), "it", data, 3, lambda height, width: box)
    assert_array_equal(found, expected)
    grey = images.decode_window(encoded(image.convert("L"), "PNG"), "it", data, 1, lambda height, width: box)
    assert grey.shape == (SIDE, SIDE, 1)


@pytest.mark.parametrize("box", [(10, 20, 394, 404), (0, 0, 600, 450), (100, 37, 231, 168), (31, 7, 48, 24)])
def test_a_window_of_a_jpeg_is_decoded_at_a_smaller_scale(box, monkeypatch):
    image = photograph(450, 600)
    content = encoded(image, "JPEG", quality=95)
    expected = Image.open(io.BytesIO(content)).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box)
    decoded = []
    convert = images._convert
    monkeypatch.setattr(images, "_convert", lambda image, c: decoded.append(image.size) or convert(image, c))
    found = images.decode_window(content, "it", Data(image_size=SIDE), 3, lambda height, width: box)
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).mean() < 1.0
    scale = round(600 / decoded[0][0])
    window = min(box[2] - box[0], box[3] - box[1]) / SIDE
    assert scale in (1, 2, 4, 8) and scale <= window and (2 * scale > window or scale == 8)


def test_windows_are_of_the_upright_picture():
    image = photograph(80, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    upright = image.transpose(Image.Transpose.ROTATE_270)
    seen = []

    def draw(height: int, width: int) -> tuple[int, int, int, int]:
        seen.append((height, width))
        return 30, 4, 70, 36

    content = encoded(image, "PNG", exif=exif)
    found = images.decode_window(content, "it", Data(image_size=SIDE), 3, draw)
    large, box = (
        photograph(800, 400),
        (300, 40, 700, 360),
    )  # a JPEG, which is decoded at a smaller scale and then turned
    expected = large.transpose(Image.Transpose.ROTATE_270).resize(
        (SIDE, SIDE), Image.Resampling.BILINEAR, box
    )
    turned = images.decode_window(
        encoded(large, "JPEG", exif=exif), "it", Data(image_size=SIDE), 3, lambda height, width: box
    )
    assert np.abs(turned.astype(int) - np.asarray(expected).astype(int)).mean() < 2
    assert seen == [(40, 80)]
    assert_array_equal(found, upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (30, 4, 70, 36)))


def columns(seeds: range, side: int = SIDE) -> Columns:
    files = [encoded(photograph(40 + seed, 60, seed), "PNG") for seed in seeds]
    data = Data(image_size=side, resize="crop", stream_crop=True)
    streamed = StreamedImages(files, np.arange(len(files)), data, (side, side, 3), "these")
    labels = np.arange(len(files), dtype=np.int32) % 2
    return Columns({"image": streamed, "label": labels}, ("a", "b"))


def test_batches_hold_the_windows_of_their_examples():
    train = columns(range(10))
    rows = TrainRows(5, 0, 4, 10, 6, np.arange(6), 0.2)
    for number, batch in enumerate(read_ahead(train, rows, workers=0)):
        for image, label, index, window in zip(
            batch["image"], batch["label"], rows[number], rows.windows(number), strict=True
        ):
            assert label == index % 2
            box = window.draw(40 + int(index), 60)
            whole = photograph(40 + int(index), 60, int(index))
            assert_array_equal(image, whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box))
    later = TrainRows(5, 3, 4, 10, 6, np.arange(6), 0.2)
    assert_array_equal(next(read_ahead(train, later, workers=0))["image"], batch["image"])


def test_joined_sets_show_the_windows_too():
    parts = [columns(range(4)), columns(range(4, 10))]
    joined, alone = concat(parts), columns(range(10))
    rows = np.array([7, 0, 3, 9])
    windows = [Window(0.3, 0, 0, int(row)) for row in rows]
    assert_array_equal(joined.through(rows, windows)["image"], alone.through(rows, windows)["image"])
    assert_array_equal(joined[rows]["image"], alone[rows]["image"])
    assert isinstance(joined["image"], stream.Joined)


def test_what_the_host_cuts_out_is_not_cut_again_on_the_device():
    from cnnjax.training.recipe import make_recipe

    experiment = Experiment(
        data=Data(name="records:there", stream=True, stream_crop=True, mean=(0.5,) * 3, std=(0.5,) * 3),
        augment=Augment(random_crop=0.92, flip="random"),
        model=Model(name="lenet5"),
        train=Train(steps=1),
    )
    assert smallest_window(experiment) == pytest.approx(0.08)
    assert make_recipe(experiment, ("a", "b"), (32, 32, 3), 1).augment == Augment(flip="random")


@pytest.mark.parametrize(
    ("targets", "size", "reason"),
    [
        ({"label": np.zeros(2, np.int32)}, 0, "set data.image_size"),
        (
            {
                "boxes": np.zeros((2, 1, 4), np.float32),
                "classes": np.zeros((2, 1), np.int32),
                "valid": np.zeros((2, 1), bool),
                "size": np.full((2, 2), 20, np.int32),
            },
            16,
            "images with places in them are read whole",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(tmp_path, targets, size, reason):
    files = [(str(i), encoded(photograph(20, 20, i), "PNG")) for i in range(2)]
    raw = {name: Raw(files, targets, 2) for name in ("train", "test")}
    records.write(tmp_path / "records", ("a",), raw, "")
    data = Data(name="records:it", image_size=size, stream=True, stream_crop=True)
    with pytest.raises(ConfigError, match=f"data.stream_crop of data.name='records:it': {reason}"):
        records.read(data, tmp_path / "records")


def test_a_damaged_file_is_told_by_its_number():
    train = columns(range(3))
    train["image"]._encoded[1] = b"no image"
    with pytest.raises(ConfigError, match="image 1 of these: not an image"):
        train.through(np.array([1]), [Window(0.5, 0, 0, 1)])
