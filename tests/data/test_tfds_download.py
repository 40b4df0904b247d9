import hashlib
import http.server
import os
import threading
from types import SimpleNamespace

import pytest

from cnnjax.config import ConfigError
from cnnjax.data.tfds.download import fetch

FILES = {"one.gz": b"first file", "two.gz": b"second file"}


@pytest.fixture
def server(monkeypatch):
    """Serves `FILES`; yields the address and the list of requests (method, path)."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            requests.append((self.command, self.path))
            content = FILES.get(self.path.strip("/"))
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if content and self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()


def builder(address, files):
    """What `fetch` uses of a tfds builder: sizes and sums of `files` are on record."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    url_infos = {
        f"{address}/{name}": UrlInfo(Size(len(content)), hashlib.sha256(content).hexdigest(), name)
        for name, content in files.items()
    }
    return SimpleNamespace(name="tiny", url_infos=url_infos)


def contents(paths):
    return {name: path.read_bytes() for name, path in paths.items()}


def test_downloads_once(server, tmp_path, capfd):
    address, requests = server
    assert contents(fetch(builder(address, FILES), tmp_path)) == FILES
    assert sorted(path for method, path in requests if method == "GET") == ["/one.gz", "/two.gz"]
    assert capfd.readouterr().err == ""  # no progress bar where there is no terminal
    requests.clear()
    assert contents(fetch(builder(address, FILES), tmp_path)) == FILES
    assert requests == []


def test_a_file_put_there_by_hand_is_found(tmp_path, offline):
    folder = tmp_path / "downloads" / "tiny"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    assert contents(fetch(builder("http://nowhere.example", FILES), tmp_path)) == FILES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILES["one.gz"][:-3], "one.gz is damaged: 7 bytes, not 10; delete it"),
        (FILES["one.gz"][::-1], "one.gz is damaged: wrong SHA-256 sum; delete it"),
    ],
)
def test_present_files_are_verified(content, message, tmp_path):
    path = tmp_path / "downloads" / "tiny" / "one.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        fetch(builder("http://nowhere.example", {"one.gz": FILES["one.gz"]}), tmp_path)


def test_a_wrong_file_from_the_server_is_refused(server, tmp_path):
    with pytest.raises(ConfigError, match="tiny: a server sent another file than the one on record"):
        fetch(builder(server[0], {"one.gz": b"what was recorded"}), tmp_path)


def test_a_file_missing_on_the_server(server, tmp_path):
    with pytest.raises(ConfigError, match="tiny: download failed .*404.*put none.gz into .*downloads/tiny"):
        fetch(builder(server[0], {"none.gz": b"none"}), tmp_path)


def test_without_network_the_error_is_quick_and_says_what_to_do(tmp_path, offline, monkeypatch):
    import tensorflow_datasets as tfds

    def download(*arguments):
        raise AssertionError("tensorflow-datasets was asked, which tries for three minutes")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    with pytest.raises(
        ConfigError, match="nowhere.example cannot be reached: go online, or put one.gz, two.gz"
    ):
        fetch(builder("http://nowhere.example", FILES), tmp_path)
    assert not (tmp_path / "downloads").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(ConfigError, match="cannot be written: give another data_dir"):
        fetch(builder("http://nowhere.example", FILES), tmp_path)
    tmp_path.chmod(0o755)
