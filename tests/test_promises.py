"""The page of promises names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_promise_names_a_test_that_is_there():
    page = (ROOT / "docs" / "promises.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 15
    for row in rows:
        checked_by = row.split("|")[2]
        file = None
        names = re.findall(r"`([\w/]+\.py)?(?:::)?(test_\w+)?`", checked_by)
        assert names or "--benchmark.name=" in checked_by, row
        for path, name in names:
            file = path or file
            if file:
                text = (ROOT / "tests" / file).read_text()
                assert not name or f"def {name}(" in text, (file, name)
