import os
import stat

import numpy as np
import pytest

from cnnjax.data import cache


def arrays():
    return {
        "image": np.arange(20_000, dtype=np.uint8).reshape(2, 100, 100),
        "label": np.array([1, 2], np.int32),
    }


class Build:
    """Counts how often it is called."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return arrays()


def same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        np.testing.assert_array_equal(value, right[key])
        assert value.dtype == right[key].dtype


def test_builds_once_per_key(tmp_path):
    build = Build()
    for _ in range(2):
        same(cache.load_or_build(tmp_path / "new", "set/config", {"size": 8}, build), arrays())
    assert build.calls == 1
    cache.load_or_build(tmp_path / "new", "set/config", {"size": 9}, build)
    cache.load_or_build(tmp_path / "new", "other", {"size": 8}, build)
    assert build.calls == 3
    assert len(list((tmp_path / "new").iterdir())) == 3  # and no unfinished file


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "another"])
def test_a_damaged_file_is_built_anew(damage, tmp_path):
    build = Build()
    cache.load_or_build(tmp_path, "set", {}, build)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    middle = len(content) // 2  # inside the images
    if damage == "another":
        np.savez(path, image=np.zeros(3))
    else:
        path.write_bytes(
            {
                "truncated": content[:middle],
                "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "empty": b"",
            }[damage]
        )
    same(cache.load_or_build(tmp_path, "set", {}, build), arrays())
    assert build.calls == 2
    assert path.read_bytes() == content
    cache.load_or_build(tmp_path, "set", {}, build)
    assert build.calls == 2


def test_nothing_is_unpickled(tmp_path):
    build = Build()
    cache.load_or_build(tmp_path, "set", {}, build)
    (path,) = tmp_path.iterdir()

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    np.savez(path, image=np.array([Trap()], dtype=object))
    same(cache.load_or_build(tmp_path, "set", {}, build), arrays())
    assert not (tmp_path / "trapped").exists()


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    same(cache.load_or_build(tmp_path / "file", "set", {}, Build()), arrays())


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    same(cache.load_or_build(tmp_path, "set", {}, Build()), arrays())
    assert list(tmp_path.iterdir()) == []


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "named"))
    assert cache.cache_folder(tmp_path) == tmp_path / "named" / "data"
    monkeypatch.delenv("CNNJAX_CACHE")
    assert cache.cache_folder(tmp_path) == tmp_path / "cnnjax_cache"
    monkeypatch.setenv("HOME", "/somewhere")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert str(cache.cache_folder(tmp_path)) == "/somewhere/.cache/cnnjax/data"
    tmp_path.chmod(0o755)
