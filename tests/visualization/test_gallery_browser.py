"""The gallery in a real browser: it loads, its search filters, a click enlarges, nothing complains."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from cnnjax.visualization.pages.gallery import Gallery
from cnnjax.visualization.pictures import Picture

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

LISTEN = """<script>
const problems = [];
addEventListener("error", e => problems.push(e.message || "not loaded: " + e.target.outerHTML.slice(0, 60)), true);
addEventListener("securitypolicyviolation", e => problems.push(e.violatedDirective + " " + e.blockedURI));
</script>"""

# What a user does, in order; what they see is left in the page's last element.
USE = """<script>
addEventListener("load", async () => {
  const images = [...document.querySelectorAll("main img")], search = document.getElementById("search");
  await Promise.all(images.map(i => { i.loading = "eager"; return i.decode(); }));
  const shown = () => [...document.querySelectorAll("figure")].filter(f => f.offsetHeight > 0).map(f => f.querySelector("b").textContent);
  const type = text => { search.value = text; search.dispatchEvent(new Event("input")); return shown(); };
  const zoom = document.getElementById("zoom"), seen = {};
  seen.sizes = images.map(i => [i.naturalWidth, i.naturalHeight]);
  seen.all = shown();
  seen.layer = type("CONV2");
  seen.words = type("edges conv1");
  seen.count = document.getElementById("count").textContent;
  seen.nothing = type("conv9");
  type("");
  seen.closed = zoom.open;
  images[1].click();
  seen.open = zoom.open && zoom.firstChild.src === images[1].src;
  seen.width = zoom.firstChild.getBoundingClientRect().width / innerWidth;
  zoom.click();
  seen.closed_again = zoom.open;
  images[0].dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
  seen.key = zoom.open && zoom.firstChild.src === images[0].src;
  seen.problems = problems;
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(seen);
  document.body.append(result);
});
</script>"""


@pytest.fixture
def browse(tmp_path):
    """Opens a page in the browser; returns its DOM after scripts ran, and what the browser logged."""
    if BROWSER is None:
        pytest.skip("needs a Chromium browser")

    def open_page(path, *flags):
        command = [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000",
            "--window-size=1200,900", *flags, path.as_uri(),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    return open_page


def test_search_and_zoom_in_a_browser(tmp_path, browse):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    pictures = [
        Picture("filters", image, "The filters."),
        Picture("conv1", image, "Finds edges.", layer="conv1:0"),
        Picture("conv2", image, 'Curves & "corners" <b>', layer="conv2:3", frames=(image, image[::-1])),
    ]
    page = Gallery(tmp_path, "A run & its <pictures>").add(pictures)
    text = page.read_text(encoding="utf-8")
    used = tmp_path / "used.html"
    used.write_text(
        text.replace("<title>", LISTEN + "<title>", 1).replace("</body>", USE + "</body>"), encoding="utf-8"
    )
    for _ in range(3):  # the browser's virtual time does not wait for its decoders of images
        result = browse(used, "--dump-dom")
        assert "CONSOLE" not in result.stderr, result.stderr
        found = re.search(r'<pre id="result">(.*?)</pre>', result.stdout, re.DOTALL)
        if found:
            break
    assert found, result.stdout[-2000:] + result.stderr
    seen = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen.pop("width") > 0.5
    assert seen == {
        "sizes": [[80, 60]] * 3,
        "all": ["filters", "conv1", "conv2"],
        "layer": ["conv2"],
        "words": ["conv1"],
        "count": "1 of 3",
        "nothing": [],
        "closed": False,
        "open": True,
        "closed_again": False,
        "key": True,
        "problems": [],
    }
    browse(page, f"--screenshot={tmp_path / 'shot.png'}")
    with Image.open(tmp_path / "shot.png") as shot:
        # pictures are drawn
        assert len(np.unique(np.asarray(shot.convert("RGB")).reshape(-1, 3), axis=0)) > 1000
