"""Weights and datasets behind URLs: fetched once, by shard, verified; what never answers ends in time."""

import hashlib
import http.server
import json
import shutil
import threading
import time

import numpy as np
import pytest
import safetensors.numpy

from cnnjax.config import ConfigError, Data
from cnnjax.data import sources
from cnnjax.data.tfds import fetched
from cnnjax.remote import fetch
from cnnjax.remote import store as stores
from cnnjax.remote.store import Store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def web(tmp_path):
    """Serves tmp_path/web; `asked` are the paths that were."""
    root, asked = tmp_path / "web", []
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(root))

        def do_GET(self):
            asked.append(self.path)
            if "forbidden" in self.path:
                self.send_error(403)
            elif "cut" in self.path:
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"x" * 10)
            elif "trickle" in self.path:
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    time.sleep(0.05)
                    try:
                        self.wfile.write(b"x")
                    except OSError:
                        return
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.root, server.asked, server.url = root, asked, f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_of_the_web_is_fetched_once_and_compared_with_its_sums(web):
    content = b"weights" * 30_000
    checksum = hashlib.sha256(content).hexdigest()
    named = f"net-{checksum[:8]}.pth" if any(c in "abcdef" for c in checksum[:8]) else "net.pth"
    for name in (named, "plain.pth"):
        (web.root / name).write_bytes(content)
        path = fetch.file(f"{web.url}/{name}")
        assert path.name == name and path.read_bytes() == content
        assert fetch.file(f"{web.url}/{name}") == path
        assert web.asked.count(f"/{name}") == 1
    path.write_bytes(b"another")  # changed in the cache: fetched again
    assert fetch.file(f"{web.url}/plain.pth").read_bytes() == content
    fetch.file(f"{web.url}/plain.pth#sha256={checksum}")
    with pytest.raises(ConfigError, match="not 00ff"):  # of what is in the cache, too
        fetch.file(f"{web.url}/plain.pth#sha256=00ff")
    shutil.copy(web.root / "plain.pth", web.root / "other.pth")
    with pytest.raises(
        ConfigError, match=f"other.pth: SHA-256 is {checksum}, not 00ff...: not the file that is"
    ):
        fetch.file(f"{web.url}/other.pth#sha256=00ff")
    shutil.copy(web.root / "plain.pth", web.root / "net-0123abcd.pth")
    with pytest.raises(ConfigError, match="not 0123abcd"):
        fetch.file(f"{web.url}/net-0123abcd.pth")
    shutil.copy(web.root / "plain.pth", web.root / "net-20261129.pth")  # a date
    assert fetch.file(f"{web.url}/net-20261129.pth").read_bytes() == content


def test_what_cannot_be_fetched_is_one_line(web, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", 1.0)
    for name, text in {
        "gone.pth": "gone.pth: there is no such file",
        "forbidden.pth": "403 Forbidden",
        "cut.pth": "the connection ended after 10 of 100 bytes",
        "trickle.pth": "only .* bytes within 1 seconds",
        "": "names no file",
    }.items():
        with pytest.raises(ConfigError, match=text) as found:
            fetch.file(f"{web.url}/{name}")
        assert "\n" not in str(found.value)
    with pytest.raises(ConfigError, match="cannot be reached"):
        fetch.file("http://127.0.0.1:1/x.pth")


def test_a_server_that_never_answers_ends_in_time(silent, monkeypatch, launch, tmp_path):
    monkeypatch.setattr(stores, "PATIENCE", 0.5)
    began = time.monotonic()
    for url in (f"http://{silent}/x.pth", f"http://{silent}/folder/x.safetensors"):
        with pytest.raises(ConfigError, match=f"{url}: no answer within"):
            fetch.file(url)
    with pytest.raises(ConfigError, match="no answer within"):
        fetched.local(f"http://{silent}/data", "cifar10:3.0.2")
    flags = ("--experiment=digits_lenet", f"--workdir={tmp_path / 'new'}")
    found = launch("--mode=import", *flags, f"--weights=http://{silent}/x.safetensors")
    assert found.code == 1 and "no answer within" in found.err and not (tmp_path / "new").exists()
    assert time.monotonic() - began < 60


def test_shards_of_a_manifest_come_along(web):
    manifest = [{"paths": ["a-shard1", "a-shard2", "../out"], "weights": []}]
    (web.root / "a-weights_manifest.json").write_text(json.dumps(manifest))
    for name in ("a-shard1", "a-shard2"):
        (web.root / name).write_text(name)
    path = fetch.file(f"{web.url}/a-weights_manifest.json")
    assert (path.parent / "a-shard2").read_text() == "a-shard2" and "/out" not in web.asked


def test_a_file_in_a_store(url, tmp_path):
    store = Store(url)
    store.write("net.safetensors", b"content")
    assert fetch.file(f"{url}/net.safetensors").read_bytes() == b"content"
    store.remove("net.safetensors")
    assert fetch.file(f"{url}/net.safetensors").read_bytes() == b"content"  # from the cache
    with pytest.raises(ConfigError, match="gone.safetensors: there is no such file"):
        fetch.file(f"{url}/gone.safetensors")


def dataset(folder, **files):
    """As tensorflow-datasets lays one out, of two shards."""
    folder.mkdir(parents=True)
    about = {
        "name": "tiny", "version": folder.name, "fileFormat": "array_record",
        "splits": [{"name": "train", "shardLengths": ["1", "1"]}, {"name": "test", "shardLengths": ["1"]}],
    }  # fmt: skip
    features = {"featuresDict": {"features": {"image": {"image": {}}, "label": {"classLabel": {}}}}}
    shards = ("tiny-train.array_record-00000-of-00002", "tiny-train.array_record-00001-of-00002",
              "tiny-test.array_record-00000-of-00001")  # fmt: skip
    content = {
        "dataset_info.json": json.dumps(about), "features.json": json.dumps(features), "label.labels.txt": "a\nb\n",
        **{name: name for name in shards}, **files,
    }  # fmt: skip
    for name, text in content.items():
        (folder / name).write_text(text)
    return set(content)


def upload(store, folder, under):
    for path in folder.iterdir():
        store.write(f"{under}/{path.name}", path.read_bytes())


def visible(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_dataset_comes_by_shard_and_goes_on_where_it_was_cut(url, tmp_path, monkeypatch):
    names = dataset(tmp_path / "tiny/1.0.0")
    dataset(tmp_path / "tiny/1.10.0")
    store = Store(url)
    for version in ("1.0.0", "1.10.0"):
        upload(store, tmp_path / "tiny" / version, f"tiny/{version}")
    got, get = [], Store.get

    def failing(self, files, size):
        if len(got) == 3:
            raise stores.StoreError("cut")
        got.extend(files)
        get(self, files, size)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", failing)
        with pytest.raises(ConfigError, match="cut"):
            fetched.local(url, "tiny")
    first = list(got)
    monkeypatch.setattr(Store, "get", lambda self, files, size: (got.extend(files), get(self, files, size)))
    there = fetched.local(url, "tiny")
    assert visible(there / "tiny/1.10.0") == names and not (there / "tiny/1.0.0").exists()
    assert len(got) == len(set(got)) == len(names) and got[:3] == first
    assert fetched.local(url, "tiny") == there and len(got) == len(names)
    assert visible(fetched.local(url, "tiny:1.0.0") / "tiny/1.0.0") == names
    with pytest.raises(ConfigError, match="holds no prepared other"):
        fetched.local(url, "other")


def test_a_dataset_of_the_web_is_what_its_description_says(web):
    names = dataset(web.root / "tiny/1.0.0")
    there = fetched.local(web.url, "tiny:1.0.0")
    assert visible(there / "tiny/1.0.0") == names
    with pytest.raises(ConfigError, match="cannot be listed: say the version"):
        fetched.local(f"{web.url}/", "other")
    with pytest.raises(ConfigError, match="holds no prepared tiny:2.0.0"):
        fetched.local(web.url, "tiny:2.0.0")


def test_a_shard_that_is_not_what_its_sums_say_is_refused_by_name(tmp_path):
    shard = "tiny-test.array_record-00000-of-00001"
    sums = f"{hashlib.sha256(shard.encode()).hexdigest()}  {shard}\n"
    dataset(tmp_path / "data/tiny/1.0.0", SHA256SUMS=sums)
    there = fetched.local(f"file://{tmp_path}/data", "tiny")
    assert (there / "tiny/1.0.0" / shard).read_text() == shard
    shutil.copytree(tmp_path / "data", tmp_path / "bad")
    (tmp_path / "bad/tiny/1.0.0" / shard).write_text("flipped")
    with pytest.raises(ConfigError, match=f"tiny/1.0.0/{shard}: SHA-256 is"):
        fetched.local(f"file://{tmp_path}/bad", "tiny")


def test_cifar_10_is_read_from_a_url(shared):
    folder = shared("data/tfds/cifar10").parent
    data = Data(name="cifar10", limit=50)
    there, here = (sources.load(data, place) for place in (f"file://{folder}", str(folder)))
    np.testing.assert_array_equal(there.train["image"], here.train["image"])
    assert there.classes == here.classes


def test_weights_may_be_a_url(web, launch, tmp_path):
    safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, web.root / "net.safetensors")
    flags = ("--mode=import", "--experiment=digits_lenet", f"--workdir={tmp_path / 'new'}")
    found = launch(*flags, f"--weights={web.url}/net.safetensors")
    assert web.asked == ["/net.safetensors"]
    assert found.code == 1 and "lenet5" in found.err  # such a file is none of it
    grey = ("--data.mean=0.5", "--data.std=0.5")
    begun = launch(*flags[1:], *grey, f"--train.init_from={web.url}/net.safetensors")
    assert begun.code == 1 and "lenet5" in begun.err
