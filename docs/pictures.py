"""The drawings of the tutorials, as SVG: `python docs/pictures.py` writes them anew beside the pages."""

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "tutorials"
INK, PALE, BLUE, RED = "#333333", "#bbbbbb", "#2b6cb0", "#c53030"


def svg(width: int, height: int, *parts: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = f'font-family="sans-serif" font-size="12" text-anchor="middle" fill="{INK}"'
    body = "\n".join(parts)
    return f'{head} {style}>\n<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n'


def text(x: float, y: float, words: str, colour: str = INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}">{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, line: str = PALE, thick: int = 1) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{line}" stroke-width="{thick}"/>'


def arrow(x: float, y: float, length: float = 26) -> str:
    tip = x + length
    return f'<path d="M{x:g} {y:g}H{tip:g}m-6 -5l6 5l-6 5" fill="none" stroke="{INK}"/>'


def grey(share: float) -> str:
    return f"#{round(255 * share):02x}" + f"{round(255 * share):02x}" * 2


def matrix(x: float, y: float, rows: Sequence[Sequence[float]], side: int, largest: float = 0) -> str:
    """Numbers in squares, grey from 0 to `largest` or white; without the numbers where a square is small."""
    parts, height, width = [], len(rows), len(rows[0])
    for i, row in enumerate(rows):
        start = 0
        for j in range(1, width + 1):
            if j == width or row[j] != row[start]:
                fill = grey(row[start] / largest if largest else 1)
                parts.append(box(x + side * start, y + side * i, side * (j - start), side, fill, "none"))
                start = j
    across = "".join(f"M{x:g} {y + side * i:g}h{side * width}" for i in range(height + 1))
    down = "".join(f"M{x + side * j:g} {y:g}v{side * height}" for j in range(width + 1))
    parts.append(f'<path d="{across}{down}" stroke="{PALE}"/>')
    for i, row in enumerate(rows):
        for j, value in enumerate(row if side >= 20 else ()):
            ink = "white" if largest and value / largest < 0.5 else INK
            parts.append(text(x + side * (j + 0.5), y + side * (i + 0.5) + 4, f"{value:g}", ink))
    return "\n".join(parts)


def filtered() -> str:
    """12x12 pixels, dark and bright, a 5x5 filter for vertical edges, and its answers where it fits."""
    picture = [[0] * 6 + [1] * 6 for _ in range(12)]
    kernel = [[-1, -1, 0, 1, 1]] * 5
    answers = [
        [sum(kernel[i][j] * picture[y + i][x + j] for i in range(5) for j in range(5)) for x in range(8)]
        for y in range(8)
    ]
    return svg(
        640, 250,
        matrix(10, 30, picture, 17, 1), box(10 + 17 * 3, 30 + 17 * 2, 85, 85, "none", RED, 3),
        text(112, 20, "picture, 12x12"), text(240, 138, "*"),
        matrix(262, 80, kernel, 24), box(262, 80, 120, 120, "none", RED, 3), text(322, 70, "filter, 5x5"),
        arrow(394, 138),
        matrix(430, 36, answers, 25, 10), box(430 + 25 * 3, 36 + 25 * 2, 25, 25, "none", RED, 3),
        text(530, 26, "answers, 8x8"),
    )  # fmt: skip


def pooled() -> str:
    square = [[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]
    small = [[max(square[y + i][x + j] for i in (0, 1) for j in (0, 1)) for x in (0, 2)] for y in (0, 2)]
    quarters = [box(10 + 64 * x, 10 + 64 * y, 64, 64, "none", BLUE, 3) for x in (0, 1) for y in (0, 1)]
    ends = [box(190 + 32 * x, 42 + 32 * y, 32, 32, "none", BLUE, 3) for x in (0, 1) for y in (0, 1)]
    return svg(
        270, 150, matrix(10, 10, square, 32), *quarters, arrow(148, 74), matrix(190, 42, small, 32), *ends
    )


def lenet() -> str:
    """LeNet-5 as blocks: width and height of the maps, and how many there are."""
    layers = (
        ("image", 28, 1), ("conv1", 28, 6), ("pool1", 14, 6), ("conv2", 10, 16), ("pool2", 5, 16),
        ("fc1", 1, 120), ("fc2", 1, 84), ("logits", 1, 10),
    )  # fmt: skip
    parts, x = [], 14.0
    for name, side, channels in layers:
        if side > 1:
            sheets, size = min(channels, 8), 2.6 * side
            depth = 3 * (sheets - 1)
            for sheet in range(sheets):
                parts.append(
                    box(x + 3 * sheet, 70 - size / 2 + 3 * sheet - depth / 2, size, size, "#dbeafe", BLUE)
                )
            size += depth
            label = f"{side}x{side}x{channels}"
        else:
            size, label = 16, f"{channels}"
            height = 20 + 0.7 * channels
            parts.append(box(x, 70 - height / 2, size, height, "#fde8e8", RED))
        centre = x + max(size, 40) / 2 if side > 1 else x + 8
        parts += [text(centre, 136, name), text(centre, 152, label, "#777777")]
        x += max(size, 40) + 24
    return svg(round(x), 164, *parts)


def grid() -> str:
    """The object of the lecture's example: its centre lies in the fourth cell of the fourth row."""
    side, left, top = 30, 16, 16
    lines = "".join(
        f"M{left} {top + side * i}h{8 * side}M{left + side * i} {top}v{8 * side}" for i in range(9)
    )
    x, y = left + 3.8 * side, top + 3.9 * side
    about = (
        "[P, bx, by, bw, bh, C1, C2, C3, C4]",
        "[1, 0.8, 0.9, 2.0, 1.8, 0, 1, 0, 0]",
        "all other cells: P = 0",
    )
    return svg(
        520, 272,
        box(left + 3 * side, top + 3 * side, side, side, "#fde8e8", "none"),
        f'<path d="{lines}" stroke="{PALE}"/>',
        box(x - side, y - 0.9 * side, 2 * side, 1.8 * side, "none", BLUE, 3),
        f'<circle cx="{x:g}" cy="{y:g}" r="4" fill="{BLUE}"/>',
        *(text(390, 116 + 22 * i, line) for i, line in enumerate(about)),
    )  # fmt: skip


def devices() -> str:
    """A batch in four parts, a device for each, one average."""
    parts = [box(10, 20, 50, 160, "#dbeafe", BLUE), text(35, 200, "64 images")]
    for i in range(4):
        y = 20 + 40 * i
        parts += [
            box(10, y, 50, 40, "none", BLUE), text(35, y + 24, "16"), arrow(66, y + 20, 40),
            box(112, y + 4, 96, 32, "#fde8e8", RED), text(160, y + 24, f"device {i}"), arrow(214, y + 20, 40),
        ]  # fmt: skip
    parts += [box(262, 80, 130, 40, "white", INK), text(327, 104, "mean of gradients"), arrow(398, 100)]
    parts += [box(430, 80, 110, 40, "white", INK), text(485, 104, "one step for all")]
    return svg(552, 212, *parts)


def frozen() -> str:
    """A network that was trained on something else: its trunk is kept, its head is new."""
    parts, x = [text(16 + 155, 20, "trunk: as published"), text(404, 20, "head: new")], 16.0
    for i, (width, height) in enumerate(((60, 110), (60, 90), (60, 70), (60, 50))):
        parts += [box(x, 85 - height / 2, width, height, "#dbeafe", BLUE), text(x + 30, 89, f"stage {i + 1}")]
        x += width + 22
    parts += [arrow(x - 18, 85), box(x + 16, 60, 110, 50, "#fde8e8", RED), text(x + 71, 89, "your classes")]
    return svg(500, 156, *parts)


PICTURES = {
    "filter.svg": filtered,
    "pooling.svg": pooled,
    "lenet.svg": lenet,
    "grid.svg": grid,
    "devices.svg": devices,
    "frozen.svg": frozen,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw())
