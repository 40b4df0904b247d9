"""Pictures on disk, and the page that holds them."""

import base64
import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import ConfigError
from cnnjax.visualization.pages.gallery import Gallery
from cnnjax.visualization.pictures import NOTHING, Picture, enlarge, grid, heat, signed, to_uint8, write_gif


def picture(name, **fields):
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Picture(name, image, **{"caption": "what it shows", **fields})


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_a_page_holds_its_pictures_and_loads_nothing(tmp_path):
    frames = tuple(np.full((6, 8, 3), value, np.uint8) for value in (0, 100, 200))
    pictures = [
        picture("conv2:3@1,2", layer="conv2:3", command="python launch.py"),
        picture("b", frames=frames),
    ]
    page = Gallery(tmp_path / "new", "a run").add(pictures)
    assert sorted(p.name for p in page.parent.iterdir()) == [
        "b.gif",
        "b.png",
        "conv2-3-1-2.png",
        "gallery.html",
    ]
    np.testing.assert_array_equal(Image.open(page.parent / "conv2-3-1-2.png"), pictures[0].image)
    text = page.read_text(encoding="utf-8")
    tags = Tags(text).tags
    sources = [attributes["src"] for tag, attributes in tags if "src" in attributes]
    assert len(sources) == 2 and all(source.startswith("data:image/") for source in sources)
    assert base64.b64decode(sources[0].split(",")[1]) == (page.parent / "conv2-3-1-2.png").read_bytes()
    assert not any("href" in attributes for _, attributes in tags)
    assert not re.search(r"https?://", text)
    assert "python launch.py" in text


def test_all_text_is_escaped(tmp_path):
    evil = "\"><script>alert('x')</script>{data}&"
    page = Gallery(tmp_path, evil).add([picture("p", caption=evil, layer=evil, command=evil)])
    text = page.read_text(encoding="utf-8")
    assert [tag for tag, _ in Tags(text).tags].count("script") == 1  # the page's own
    assert text.count(html.escape(evil)) >= 4
    figure = next(attributes for tag, attributes in Tags(text).tags if tag == "figure")
    assert figure["data-text"] == f"p {evil} {evil}"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the gallery to .*file") as error:
        Gallery(tmp_path / "file", "t").add([picture("p")])
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="two pictures are called 'a-b'"):
        Gallery(tmp_path, "t").add([picture("a b"), picture("a:b")])


def test_animations(tmp_path):
    frames = [np.full((4, 4, 3), value, np.uint8) for value in (0, 120, 240)]
    write_gif(tmp_path / "a.gif", frames, seconds=0.2)
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 3 and animation.info["loop"] == 0
        durations = []
        for i, frame in enumerate([frames[2], *frames[:2]]):  # begins with the result
            animation.seek(i)
            durations.append(animation.info["duration"])
            np.testing.assert_allclose(np.asarray(animation.convert("RGB")), frame, atol=2)
    assert durations == [800, 200, 200]


def test_numbers_become_colours():
    np.testing.assert_array_equal(
        to_uint8(np.asarray([0, 0.5, 1, 2, -1]).reshape(1, 5, 1))[0, :, 0], [0, 128, 255, 255, 0]
    )
    np.testing.assert_array_equal(to_uint8(np.full((1, 1, 1), np.nan))[0, 0], NOTHING)
    assert to_uint8(np.zeros((2, 3, 1))).shape == (2, 3, 3)
    values = signed(np.asarray([-2.0, 0, 2, np.nan]).reshape(1, 2, 2, 1))[0, :, :, 0]
    np.testing.assert_allclose(values, [[0, 0.5], [1, np.nan]], atol=0.01)
    np.testing.assert_allclose(signed(np.zeros((1, 2, 2, 1))), 0.5)
    colours = heat(np.asarray([[[0.0, 1.0]], [[5.0, 5.0]]]))
    assert colours.shape == (2, 1, 2, 3) and colours[0, 0, 1].sum() > colours[0, 0, 0].sum()


def test_grids_place_pictures_in_rows():
    cells = [np.full((4, 4, 1), value, np.uint8) for value in (10, 20, 30)]
    result = grid(cells, 2, side=4, space=2)
    assert result.shape == (14, 14, 3)
    assert (
        (result[2:6, 2:6] == 10).all() and (result[2:6, 8:12] == 20).all() and (result[8:12, 2:6] == 30).all()
    )
    assert (result[8:12, 8:12] == 255).all()
    titled = grid(cells, 2, side=4, titles=["a", "b"], rows=["first"])
    assert titled.shape[0] > result.shape[0] and titled.shape[1] > result.shape[1]
    np.testing.assert_array_equal(
        enlarge(np.arange(4).reshape(2, 2, 1), 6)[:, :, 0][::3, ::3], [[0, 1], [2, 3]]
    )
