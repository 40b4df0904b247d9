"""What of the Hugging Face hub's HTTP interface a download needs, for tests: repositories from memory on localhost."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT, OLD = "c0ffee" + "0" * 34, "01d" + "0" * 37


class Hub:
    """Repositories by name: their files by revision. `asked` are the paths of all requests."""

    def __init__(self):
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def put(self, repository, files, revision="main"):
        self.repositories.setdefault(repository, {})[revision] = files

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request, body):
        self.asked.append(request.path)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        if not match:
            return self._send(request, 200, {}, b"")
        repository, revision, name = match.groups()
        commits = {"main": COMMIT, "v1": OLD, COMMIT: COMMIT, OLD: OLD}
        if repository not in self.repositories:
            return self._send(request, 401, {"X-Error-Code": "RepoNotFound"}, b"")
        files = {commits[key]: value for key, value in self.repositories[repository].items()}
        if commits.get(revision) not in files:
            return self._send(request, 404, {"X-Error-Code": "RevisionNotFound"}, b"")
        commit = commits[revision]
        if name not in files[commit]:
            return self._send(request, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"")
        content = files[commit][name]
        tag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        return self._send(request, 200, headers, content, body)

    def _send(self, request, status, headers, content, body=True):
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            request.wfile.write(content)
