"""The tutorials: the Python of each page runs as it stands, from top to bottom, in one namespace and an empty folder."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
SLOW = (  # minutes of training, or many programs to compile
    "3-cifar-10-on-a-laptop",
    "4-fine-tune-on-your-photographs",
    "6-what-a-network-sees",
)
_CELL = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=pytest.mark.slow if page.stem in SLOW else pytest.mark.full)
        for page in PAGES
    ],
)
def test_the_python_of_a_tutorial_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))  # as for one who has nothing yet
    text = page.read_text()
    cells, namespace = list(_CELL.finditer(text)), {"__name__": "tutorial"}
    assert cells
    for cell in cells:
        above = text[: cell.start(1)].count("\n")  # so that a traceback names lines of the page
        exec(compile("\n" * above + cell[1], str(page), "exec"), namespace)


def test_each_page_leads_to_the_next_and_says_how_long_it_takes():
    for page, following in zip(PAGES, PAGES[1:], strict=False):
        text = page.read_text()
        assert "Next: [" in text and f"]({following.name})" in text.rpartition("Next: ")[2], page.name
    for page in PAGES:
        assert re.search(r"^\*[^*]*two cores[^*]*\*$", page.read_text(), re.MULTILINE), page.name
