"""Pages of HTML that need no other file."""

import base64
import html

from cnnjax.drawing.figures import Picture


def page(title: str, body: str) -> str:
    """A whole page with `title` as its heading; `body` is HTML."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222 }}
img {{ max-width: 100%; height: auto }}
table {{ border-collapse: collapse }} td, th {{ padding: .25rem 1rem; border-bottom: 1px solid #ddd; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
dt {{ font-weight: 600 }} dd {{ margin: 0 0 .5rem 0; overflow-wrap: anywhere }} pre {{ background: #f6f6f6; padding: 1rem; overflow: auto }}
</style></head><body>
<h1>{html.escape(title)}</h1>
{body}
</body></html>
"""


def section(picture: Picture, png: bytes) -> str:
    """A picture with its title and caption."""
    data, title = base64.b64encode(png).decode(), html.escape(picture.title)
    return (
        f'<section><h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">'
        f"<p>{html.escape(picture.caption)}</p></section>"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Cells of plain text."""

    def row(cells: list[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def folded(title: str, text: str) -> str:
    """Plain text that is shown when one asks for it."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"


def facts(about: dict[str, str]) -> str:
    """A list of what is said about something."""
    entries = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in about.items())
    return f"<dl>{''.join(entries)}</dl>"
