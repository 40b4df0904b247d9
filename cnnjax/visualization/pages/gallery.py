"""All pictures of a run on one page that needs nothing but itself."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from cnnjax.config import ConfigError
from cnnjax.visualization.pictures import Picture, png, write_gif


class Gallery:
    """A folder with NAME.png (and NAME.gif) for each picture, and gallery.html with all of them.

    The page holds its pictures and loads nothing; a click enlarges, a search keeps the pictures of a layer.
    """

    def __init__(self, folder: Path | str, title: str):
        self.folder = Path(folder)
        self.pictures: list[Picture] = []
        self._title = title
        self._cards: dict[str, str] = {}  # by file name

    def add(self, pictures: Sequence[Picture]) -> Path:
        """Writes more pictures, and the page anew. Returns the page.

        Raises ConfigError if the folder cannot be written or two pictures have one name.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for picture in pictures:
                name = _file_name(picture.name)
                if name in self._cards:
                    raise ConfigError(f"two pictures are called {name!r}")
                self._cards[name] = _write(self.folder, name, picture)
                self.pictures.append(picture)
            page = self.folder / "gallery.html"
            cards = "\n".join(self._cards.values())
            text = _PAGE.format(title=html.escape(self._title), count=len(self._cards), cards=cards)
            page.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot write the gallery to {self.folder}: {error.strerror or error}"
            ) from error
        return page


def _write(folder: Path, name: str, picture: Picture) -> str:
    data = png(picture.image)
    (folder / f"{name}.png").write_bytes(data)
    kind = "png"
    if len(picture.frames) > 1:
        path = folder / f"{name}.gif"
        write_gif(path, picture.frames)
        data, kind = path.read_bytes(), "gif"
    text = {
        "kind": kind,
        "data": base64.b64encode(data).decode(),
        "height": str(picture.image.shape[0]),
        "width": str(picture.image.shape[1]),
        "name": html.escape(picture.name),
        "caption": html.escape(picture.caption),
        "layer": html.escape(picture.layer),
        "command": html.escape(picture.command),
    }
    return _CARD.format(**text)


def _file_name(name: str) -> str:
    """A name that is a file name everywhere: "conv2:3@1,2" -> "conv2-3-1-2"."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "picture"


_CARD = """<figure data-text="{name} {layer} {caption}">
<img src="data:image/{kind};base64,{data}" alt="{name}" width="{width}" height="{height}" tabindex="0" loading="lazy">
<figcaption><b>{name}</b> <span class="layer">{layer}</span><p>{caption}</p><code>{command}</code></figcaption>
</figure>"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 0; color: #222; background: #f4f4f2; }}
header {{ position: sticky; top: 0; padding: 10px 20px; background: #fff; border-bottom: 1px solid #ddd; }}
h1 {{ font-size: 18px; display: inline; margin-right: 20px; }}
input {{ font: inherit; padding: 4px 8px; width: 18em; }}
main {{ display: flex; flex-wrap: wrap; gap: 16px; padding: 20px; align-items: flex-start; }}
figure {{ margin: 0; padding: 12px; background: #fff; border: 1px solid #ddd; border-radius: 6px; max-width: 520px; }}
figure[hidden] {{ display: none; }}
img {{ max-width: 100%; height: auto; cursor: zoom-in; }}
figcaption p {{ margin: 4px 0; }}
.layer {{ color: #666; }}
code {{ font-size: 12px; word-break: break-all; color: #555; }}
code:empty {{ display: none; }}
dialog {{ max-width: 96vw; max-height: 96vh; padding: 0; border: 0; }}
dialog img {{ display: block; max-width: none; min-width: 60vw; cursor: zoom-out; image-rendering: pixelated; }}
dialog::backdrop {{ background: #000c; }}
</style>
</head>
<body>
<header><h1>{title}</h1><input id="search" type="search" placeholder="layer or word" aria-label="Search">
<span id="count">{count} of {count}</span></header>
<main>
{cards}
</main>
<dialog id="zoom"><img alt=""></dialog>
<script>
const figures = [...document.querySelectorAll("figure")];
const search = document.getElementById("search"), zoom = document.getElementById("zoom");
search.addEventListener("input", () => {{
  const words = search.value.toLowerCase().split(" ");
  for (const f of figures) f.hidden = !words.every(w => f.dataset.text.toLowerCase().includes(w));
  document.getElementById("count").textContent = figures.filter(f => !f.hidden).length + " of " + figures.length;
}});
function show(event) {{
  if (event.type === "keydown" && event.key !== "Enter") return;
  zoom.firstChild.src = event.target.src;
  zoom.firstChild.alt = event.target.alt;
  zoom.showModal();
}}
for (const f of figures) for (const type of ["click", "keydown"]) f.querySelector("img").addEventListener(type, show);
zoom.addEventListener("click", () => zoom.close());
</script>
</body>
</html>
"""
