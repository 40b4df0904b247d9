import dataclasses

import numpy as np
import pytest
import tiny
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data import images

AS_IS = Data()
COLOUR = tiny.random_images(6, 9, 3)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tiff", "ppm"])
def test_lossless_formats_are_exact(suffix, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"image.{suffix}", Image.fromarray(COLOUR), **options)
    np.testing.assert_array_equal(images.read_image(path, AS_IS), COLOUR)


def test_jpeg_of_one_colour(tmp_path):
    path = save(tmp_path / "i.jpg", Image.new("RGB", (16, 8), (200, 30, 60)), quality=95)
    image = images.read_image(path, AS_IS)
    assert image.shape == (8, 16, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - [200, 30, 60]).max() <= 3


def test_the_content_decides_the_format_not_the_name(tmp_path):
    path = save(tmp_path / "png.jpg", Image.fromarray(COLOUR), format="PNG")
    np.testing.assert_array_equal(images.read_image(path, AS_IS), COLOUR)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels(channels, tmp_path):
    grey = COLOUR[..., 0]
    path = save(tmp_path / "grey.png", Image.fromarray(grey))
    expected = np.repeat(grey[..., None], channels, axis=-1)
    np.testing.assert_array_equal(images.read_image(path, AS_IS, channels), expected)


def test_colour_to_grey_is_luma(tmp_path):
    path = save(tmp_path / "i.png", Image.fromarray(COLOUR))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(images.read_image(path, AS_IS, 1)[..., 0] - luma).max() <= 0.51


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 255
    pixels[0, :, 3] = [255, 0, 51]  # opaque, transparent, one fifth opaque red
    expected = [[[255, 0, 0], [255, 255, 255], [255, 204, 204]]]
    path = save(tmp_path / "rgba.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(images.read_image(path, AS_IS), expected)
    grey = save(tmp_path / "la.png", Image.fromarray(pixels[..., [1, 3]]))
    np.testing.assert_array_equal(images.read_image(grey, AS_IS, 1)[..., 0], [[0, 255, 204]])


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    plain = save(tmp_path / "p.png", image)
    np.testing.assert_array_equal(images.read_image(plain, AS_IS), [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    holed = save(tmp_path / "t.gif", image, transparency=1)
    np.testing.assert_array_equal(
        images.read_image(holed, AS_IS), [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    )


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert images.read_image(tmp_path / "a.gif", AS_IS)[0, 0].tolist() == [255, 0, 0]


def test_cmyk(tmp_path):
    path = save(tmp_path / "c.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95)
    assert np.abs(images.read_image(path, AS_IS).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_scaled(suffix, tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535, 200]], np.uint16)
    path = save(tmp_path / f"deep.{suffix}", Image.fromarray(values))
    np.testing.assert_array_equal(images.read_image(path, AS_IS, 1)[..., 0], [[0, 1, 128, 255, 1]])


def test_floating_point_images_are_refused(tmp_path):
    path = save(tmp_path / "f.tiff", Image.fromarray(np.zeros((2, 2), np.float32)))
    with pytest.raises(ConfigError, match="f.tiff: images of floating-point values are not supported"):
        images.read_image(path, AS_IS)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, lambda x: np.rot90(x, -1)),
        (8, np.rot90),
    ],
)
def test_exif_rotation_is_applied(orientation, turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", Image.fromarray(COLOUR), exif=exif)
    np.testing.assert_array_equal(images.read_image(path, AS_IS), turn(COLOUR))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ConfigError, match="none.png: no such file"):
        images.read_image(tmp_path / "none.png", AS_IS)
    with pytest.raises(ConfigError, match="directory"):
        images.read_image(tmp_path, AS_IS)


@pytest.mark.parametrize(("height", "width", "size"), [(40, 60, 16), (61, 33, 24), (5, 7, 20)])
def test_stretching_agrees_with_torch(height, width, size):
    torch = pytest.importorskip("torch")
    image = tiny.random_images(height, width, 3)
    resized = images.resize_all(image[None], Data(image_size=size))[0]
    reference = torch.nn.functional.interpolate(
        torch.tensor(image).permute(2, 0, 1)[None].float(), (size, size), mode="bilinear", antialias=True
    )[0]
    assert np.abs(resized - reference.permute(1, 2, 0).numpy()).max() < 1.01  # Pillow rounds after each axis


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 33), (30, 30)])
def test_cropping_keeps_the_aspect_ratio_and_the_centre(height, width):
    torch = pytest.importorskip("torch")
    image, short, size = tiny.random_images(height, width, 1), 20, 15
    scaled_size = (short * height // min(height, width), short * width // min(height, width))
    scaled = torch.nn.functional.interpolate(
        torch.tensor(image).permute(2, 0, 1)[None].float(), scaled_size, mode="bilinear", antialias=True
    )[0, 0].numpy()
    top, left = (round((side - size) / 2) for side in scaled_size)
    data = Data(image_size=size, resize="crop", resize_short=short)
    cropped = images.resize_all(image[None], data)[0, ..., 0]
    assert np.abs(cropped - scaled[top : top + size, left : left + size]).max() < 1.01


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 33)])
def test_caffes_way_stretches_and_crops_the_centre_by_any_filter(height, width):
    torch = pytest.importorskip("torch")
    image, short, size = tiny.random_images(height, width, 3), 20, 15
    scaled = torch.nn.functional.interpolate(
        torch.tensor(image).permute(2, 0, 1)[None].float(), (short, short), mode="bicubic", antialias=True
    )[0].permute(1, 2, 0)
    wanted = scaled.clamp(0, 255).numpy()[2:17, 2:17]  # half of 5, to even
    data = Data(image_size=size, resize="stretch_crop", resize_short=short, interpolation="bicubic")
    found = images.resize_all(image[None], data)[0]
    assert found.shape == (size, size, 3) and np.abs(found - wanted).max() < 2.01  # rounded after each axis
    nearest = images.resize_all(image[None], Data(image_size=1, interpolation="nearest"))[0, 0, 0]
    np.testing.assert_array_equal(nearest, image[height // 2, width // 2])


def test_resize_all_leaves_images_of_the_right_size_alone():
    batch = tiny.random_images(2, 8, 8, 3)
    assert images.resize_all(batch, Data()) is batch
    assert images.resize_all(batch, Data(image_size=8)) is batch
    assert images.resize_all(batch, Data(image_size=8, resize="crop")) is batch
    assert images.resize_all(batch, Data(image_size=8, resize_short=12)) is batch  # of no use to stretch
    zoomed = images.resize_all(batch, Data(image_size=8, resize="crop", resize_short=12))
    assert zoomed.shape == batch.shape and (zoomed != batch).any()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            Data(image_size=8, resize="crop", resize_short=7),
            "resize_short=7 is smaller than data.image_size=8",
        ),
        (Data(image_size=20_000), "20000x20000 is too large"),
        (Data(image_size=2_000, resize="crop"), "an image of 2000x2000000 is too large"),
    ],
)
def test_sizes_that_cannot_be_meant(data, message, tmp_path):
    path = save(tmp_path / "thin.png", Image.new("L", (2, 2000)))
    with pytest.raises(ConfigError, match=f"thin.png: .*{message}"):
        images.read_image(path, data)


def test_stack_wants_one_size():
    def read(index):
        return np.zeros((4, 4 + index // 70, 1), np.uint8)

    assert images.stack(read, 70, "reading").shape == (70, 4, 4, 1)
    with pytest.raises(
        ConfigError, match="differ in size .4x4 and 4x5, height x width.: set data.image_size"
    ):
        images.stack(read, 200, "reading")


def test_stack_refuses_what_does_not_fit_into_memory():
    with pytest.raises(ConfigError, match="1,000,000,000 images of 100x100 need 9313.2 GiB of memory"):
        images.stack(lambda index: np.zeros((100, 100, 1), np.uint8), 10**9, "reading")


def test_stack_keeps_the_order_in_threads():
    def read(index):
        return np.full((1, 1, 1), index % 251, np.uint8)

    np.testing.assert_array_equal(images.stack(read, 1000, "r", workers=4).ravel(), np.arange(1000) % 251)


def test_bytes_and_files_are_read_alike(tmp_path):
    path = save(tmp_path / "i.png", Image.fromarray(COLOUR))
    data = dataclasses.replace(AS_IS, image_size=5)
    np.testing.assert_array_equal(
        images.decode(path.read_bytes(), "i", data, 3), images.read_image(str(path), data)
    )


def test_real_photographs(shared):
    folder = shared("data/imagenet_sample")
    data = Data(image_size=224, resize="crop", resize_short=256)
    for path in sorted(folder.glob("*.jpg"))[:5]:
        image = images.read_image(path, data)
        with Image.open(path) as original:
            width, height = original.size
            assert min(width, height) == 256  # so the protocol is a crop alone
            pixels = np.asarray(original.convert("RGB"))
        top, left = round((height - 224) / 2), round((width - 224) / 2)
        np.testing.assert_array_equal(image, pixels[top : top + 224, left : left + 224])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", ["stretch", "crop", "letterbox"])
def test_files_are_read_to_train_as_they_are_to_predict(tmp_path, how, channels):
    """Also where all of an image is fitted in, and padded with grey."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)).convert(
        "RGB" if channels == 3 else "L"
    )
    photo.save(tmp_path / "a.png")
    data = Data(image_size=20, resize=how)
    learned = images.read_image(tmp_path / "a.png", data, channels)
    predicted = images.resize(
        images.read_image(tmp_path / "a.png", Data(), channels), data, (20, 20, channels)
    )
    np.testing.assert_array_equal(learned, predicted)
    if how == "letterbox":
        inner = np.asarray(photo.resize((20, 12), Image.Resampling.BILINEAR)).reshape(12, 20, channels)
        expected = np.full((20, 20, channels), 128, np.uint8)
        expected[4:16] = inner
        np.testing.assert_array_equal(learned, expected)


def test_images_in_the_size_of_a_network_that_is_not_square():
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    assert images.resize(image, Data(), (20, 40, 3)).shape == (20, 40, 3)
    np.testing.assert_array_equal(images.resize(image, Data(), (40, 80, 3)), image)
