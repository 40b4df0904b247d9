"""Images that cannot be read, and those that look as if they could not."""

import json
import zlib

import numpy as np
from case import PATTERN, PREPARE, Case, among_others, colour, encode, png, png_chunk, write
from PIL import Image

from cnnjax.config import Data
from cnnjax.data.sources import load

PREDICT = "--mode=predict --workdir=run --inputs=odd.png --output=out"
TRAIN = "--data.name=folder:in --data.image_size=8 --train.steps=1 --workdir=new"


def alone(content, name="odd.png"):
    return lambda folder: write(folder / name, content() if callable(content) else content)


def reads_as(expected, tolerance=0):
    """The prepared set holds an image that, stretched to 4x4 pixels, is `expected`."""

    def check(folder, result):
        dataset = load(Data(name=f"records:{folder / 'out'}", image_size=4))
        found = np.concatenate([dataset.train["image"], dataset.test["image"]]).astype(int)
        distance = np.abs(found - np.broadcast_to(expected, (4, 4, 3))).max((1, 2, 3))
        assert len(found) == 4 and distance.min() <= tolerance

    return check


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(PATTERN, exif=exif)


def palette():
    return encode(Image.fromarray(PATTERN).quantize(8))


def cmyk():
    return encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)


def deep(format):
    return encode(np.full((4, 4), 200 * 257, np.uint16), format)


def animated(format):
    frames = [Image.new("RGB", (4, 4), name) for name in ("red", "blue")]
    return encode(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)


def with_transparency(mode):
    pixels = np.zeros((4, 4, len(mode)), np.uint8)
    pixels[..., -1] = 51  # a fifth of black over white
    return encode(pixels)


def jpeg():
    return encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), "JPEG")


def flipped(content, position):
    content = bytearray(content)
    content[position] ^= 0xFF
    return bytes(content)


RED, WHITE = (255, 0, 0), (255, 255, 255)
READ = [
    Case(f"{name}_is_read", PREPARE, reads_as(*expected), among_others(*made))
    for name, made, expected in [
        ("grey_with_transparency", (lambda: with_transparency("LA"),), ((204, 204, 204),)),
        ("colour_with_transparency", (lambda: with_transparency("RGBA"),), ((204, 204, 204),)),
        ("palette", (palette,), (PATTERN,)),
        ("cmyk_jpeg", (cmyk, "odd.jpg"), (RED, 3)),
        ("16_bit_png", (lambda: deep("PNG"),), ((200, 200, 200),)),
        ("16_bit_tiff", (lambda: deep("TIFF"), "odd.tiff"), ((200, 200, 200),)),
        ("one_bit", (lambda: encode(Image.new("1", (4, 4), 1)),), (WHITE,)),
        ("animated_gif", (lambda: animated("GIF"), "odd.gif"), (RED,)),
        ("animated_webp", (lambda: animated("WEBP"), "odd.webp"), (RED,)),
        ("animated_png", (lambda: animated("PNG"),), (RED,)),
        ("one_pixel", (lambda: encode(Image.new("RGB", (1, 1), "red")),), (RED,)),
        ("one_row", (lambda: encode(Image.new("RGB", (500, 1), "red")),), (RED,)),
        ("png_called_jpg", (lambda: encode(PATTERN), "odd.jpg"), (PATTERN,)),
        ("gif_called_tiff", (lambda: animated("GIF"), "odd.TIFF"), (RED,)),
        ("line_feed_in_its_name", (lambda: encode(PATTERN), "o\nd.png"), (PATTERN,)),
        ("bytes_behind_its_end", (lambda: encode(PATTERN) + b"<?php x ?>" * 99,), (PATTERN,)),
        ("exif_mirrored", (lambda: turned(2),), (PATTERN[:, ::-1],)),
        ("exif_upside_down", (lambda: turned(3),), (PATTERN[::-1, ::-1],)),
        ("exif_turned_right", (lambda: turned(6),), (np.rot90(PATTERN, -1),)),
        ("exif_turned_left", (lambda: turned(8),), (np.rot90(PATTERN),)),
        ("exif_of_no_meaning", (lambda: turned(77),), (PATTERN,)),
        ("exif_damaged", (lambda: png_with_exif(b"Exif\0\0MM\0*\xff\xff\xff\xff"),), (PATTERN,)),
    ]
]


def png_with_exif(exif):
    content = encode(PATTERN)
    end = content.index(b"IDAT") - 4
    return content[:end] + png_chunk(b"eXIf", exif) + content[end:]


NO_IMAGE = "not an image, or none of PNG, JPEG"
DAMAGED = "cannot be read as an image"
BROKEN = [
    ("no_bytes", b"", NO_IMAGE),
    ("text", b"no image at all", NO_IMAGE),
    ("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch executed) system\n", NO_IMAGE),
    ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>", NO_IMAGE),
    ("magic_number_only", b"\x89PNG\r\n\x1a\n", NO_IMAGE),
    ("png_cut", lambda: encode(PATTERN)[:60], DAMAGED),
    ("png_with_a_flipped_byte", lambda: flipped(encode(PATTERN), 45), DAMAGED),
    ("jpeg_cut", lambda: jpeg()[:900], DAMAGED),
    ("gif_cut", lambda: animated("GIF")[:45], DAMAGED),
    ("webp_cut", lambda: animated("WEBP")[:60], DAMAGED),
    ("tiff_cut", lambda: encode(np.zeros((64, 64, 3), np.uint8), "TIFF", compression="tiff_lzw")[:300], ""),
    ("bmp_cut", lambda: encode(PATTERN, "BMP")[:70], DAMAGED),
    ("ppm_of_letters", b"P6\nwide high\n255\n", ""),
    ("ppm_of_no_pixels", b"P6\n0 0\n255\n", ""),
    ("no_width", png(0, 5), ""),
    ("floating_point", lambda: encode(np.zeros((4, 4), np.float32), "TIFF"), "floating-point values are not"),
    ("bomb_of_90_megapixels", png(9_500, 9_500), "9500x9500 is too large: the limit is 89,478,485 pixels"),
    ("bomb_of_4_gigapixels", png(65_535, 65_535), "decompression bomb"),
    ("bomb_in_one_row", png(2**31 - 1, 1), "decompression bomb"),
    (
        "bomb_in_a_comment",
        png(4, 4, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))),
        "too large",
    ),
]
UNREADABLE = [
    case
    for name, content, message in BROKEN
    for case in (
        Case(f"{name}_prepared", PREPARE, f"in/a/odd.png: ... {message}", among_others(content)),
        Case(f"{name}_predicted", PREDICT, f"odd.png: ... {message}", alone(content), run=True),
    )
]


def one_of_two_predicted(folder, result):
    assert "not read: bad.png: not an image" in result.err and "1 images" in result.out
    assert '"file": "odd.png"' in (folder / "out/predictions.json").read_text()


def prepared(count, classes=("a", "b")):
    """So many images of these classes, and nothing else, are in the prepared set, and not a word was said."""

    def check(folder, result):
        about = json.loads((folder / "out/dataset.json").read_text())
        assert about["classes"] == list(classes) and result.err == ""
        assert sum(split["count"] for split in about["splits"].values()) == count

    return check


def files(*names):
    """Images of these names below `in`."""
    return lambda folder: [write(folder / "in" / name, colour(20 + i)) for i, name in enumerate(names)]


def linked(name, target, *names):
    """Three images of two classes, images of `names` elsewhere, and a link of this name to somewhere."""

    def make(folder):
        files("a/1.png", "a/2.png", "b/1.png")(folder)
        for i, one in enumerate(names):
            write(folder / one, colour(90 + i))
        (folder / "in" / name).symlink_to(target)

    return make


LEFTOVERS = ("a/._1.png", ".ipynb_checkpoints/1.png", "a/.ipynb_checkpoints/1-checkpoint.png", "__MACOSX/a/1.png",
             "a/@eaDir/1.png/thumbnail.jpg", "$RECYCLE.BIN/1.png", "a/Thumbs.db", ".DS_Store", "b/.DS_Store")  # fmt: skip


def with_leftovers(folder):
    files("a/1.png", "a/2.png", "b/1.png")(folder)
    for name in LEFTOVERS:
        write(folder / "in" / name, b"no image")


def three_predicted(folder, result):
    assert "3 images" in result.out and result.err == ""


EACH = [f"{name}/{i}.png" for name in "ab" for i in range(2)]
FOLDERS = [
    Case("leftovers_of_systems_are_passed_over", PREPARE, prepared(3), with_leftovers),
    Case("leftovers_are_not_predicted", PREDICT.replace("odd.png", "in"), three_predicted, with_leftovers, run=True),
    Case("link_to_a_folder_is_followed", PREPARE, prepared(5),
         linked("b/more", "../../elsewhere", "elsewhere/1.png", "elsewhere/deep/2.png")),
    Case("class_that_is_a_link", PREPARE, prepared(4, "abc"), linked("c", "../elsewhere", "elsewhere/1.png")),
    Case("link_to_the_folder_around_it", PREPARE, "in/a/again: a link to ... /in/a, in which it lies", linked("a/again", ".")),
    Case("link_above_the_folder", PREPARE, "in/a/up: a link to ... /above, in which it lies", linked("a/up", "../../..")),
    Case("link_that_leads_back_by_a_detour", PREPARE, "in/a/there/back: a link to ... /in/a, in which it lies", lambda folder: (
        linked("a/there", "../../elsewhere", "elsewhere/1.png")(folder), (folder / "elsewhere/back").symlink_to("../in/a"))),
    Case("link_of_a_class_to_nothing", PREPARE, "in/c: a link that leads nowhere", linked("c", "../gone")),
    Case("link_in_a_class_to_nothing", PREPARE, "in/a/more: a link that leads nowhere", linked("a/more", "../gone")),
    Case("predicted_loop_of_links", PREDICT.replace("odd.png", "in"), "in/a/again: a link to", linked("a/again", ".."), run=True),
    Case("train_is_a_class_among_others", PREPARE, prepared(6, ("a", "b", "train")), files(*EACH, "train/1.png", "train/2.png")),
    Case("splits_of_other_names", PREPARE, "in: fold1, fold2 all hold the folders a, b: they look like splits",
         files(*[f"fold{i}/{name}" for i in (1, 2) for name in EACH])),
    Case("splits_of_other_names_in_training", PREPARE, "in/train: x, y all hold the folders a, b: they look like splits",
         files(*[f"train/{i}/{name}" for i in "xy" for name in EACH])),
    Case("splits_without_classes", PREPARE, "in: test, train are named like splits, not classes", files("train/1.png", "test/1.png")),
    Case("splits_without_training", PREPARE, "in: Testing, val are named like splits, not classes",
         files(*[f"{i}/{name}" for i in ("Testing", "val") for name in EACH])),
    Case("two_folders_for_training", PREPARE, "in: Training and train are the same split",
         files(*[f"{i}/{name}" for i in ("Training", "train") for name in EACH])),
    Case("two_folders_for_the_test", PREPARE, "in: TEST and test are the same split",
         files(*[f"{i}/{name}" for i in ("train", "test", "TEST") for name in EACH])),
    Case("classes_of_one_folder_each", PREPARE, prepared(4), files(*[f"{i}/images/{n}.png" for i in "ab" for n in "12"])),
]  # fmt: skip


def predicted(folder, result):
    assert result.err == "" and (folder / "out/contact_sheet.png").stat().st_size > 1000


OTHERS = [
    Case("no_image_trained_on", TRAIN, "in/a/odd.png: not an image", among_others(b"text")),
    Case("cut_image_trained_on", TRAIN, "in/a/odd.png: cannot", among_others(lambda: jpeg()[:900])),
    Case("bomb_trained_on", TRAIN, "9500x9500 is too large", among_others(png(9_500, 9_500))),
    Case(
        "images_of_several_sizes",
        TRAIN.replace("size=8", "size=0"),
        "images differ in size ( ... 7x5 ... set data.image_size",
        lambda folder: (among_others(colour(9))(folder), [write(folder / f"in/a/{i}.png", colour(i, (5, 7))) for i in range(9)]),
    ),
    Case("folder_called_like_an_image_is_a_folder", PREPARE, prepared(4), among_others(colour(9), "odd.png/inside.png")),
    Case(
        "link_to_nothing",
        PREPARE,
        "in/a/link.png: ",
        lambda folder: (among_others(colour(1))(folder), (folder / "in/a/link.png").symlink_to("gone.png")),
    ),
    Case("one_bad_image_of_two_is_named", PREDICT.replace("odd.png", "odd.png,bad.png"), one_of_two_predicted,
         lambda folder: (alone(colour(5))(folder), alone(b"text", "bad.png")(folder)), run=True),
    Case("predicted_above_the_folder", PREDICT.replace("odd.png", "../above.png"), predicted,
         lambda folder: alone(colour(5), "../above.png")(folder), run=True),
    Case("formula_in_a_file_name", PREDICT.replace("odd.png", "'$\\frac$.png'"), predicted,
         alone(colour(5), "$\\frac$.png"), run=True),
    Case("japanese_file_name", PREDICT.replace("odd.png", "猫.png"), predicted,
         alone(colour(5), "猫.png"), run=True),
]  # fmt: skip

CASES = [*READ, *UNREADABLE, *FOLDERS, *OTHERS]
