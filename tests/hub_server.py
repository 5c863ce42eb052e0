"""A small Hugging Face hub on 127.0.0.1 that answers what the real one does, and fails in known ways."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Handler(BaseHTTPRequestHandler):
    """
    Small files (in git) are sent at once, large ones by redirect from a storage on another host, `localhost`.
    `server.faults[name]` are answers to give first, to GET alone: a status, "cut" (half of what is asked
    for), "hang" (half, then nothing until `server.let_go` is set), "page" (`server.page`), "wrong" (other
    bytes of the same number), "whole" (Range is not understood). `server.refusals` are statuses to answer
    HEAD with first. `server.sets` are whole repositories, name -> path -> bytes, as `datasets` reads them.
    """
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body: bool):
        server, name = self.server, self.path.rpartition("/")[2]
        stored = "/storage/" in self.path
        server.asked.append((self.command, self.path, dict(self.headers)))
        if server.sets:
            return self.answer_about_sets(with_body)
        body = server.files.get(name)
        if self.path not in (f"/storage/{name}", f"/datasets/some/set/resolve/main/{name}") or body is None:
            return self.reply(404, {"X-Error-Code": "EntryNotFound"})
        if server.token and not stored and self.headers.get("Authorization") != f"Bearer {server.token}":
            return self.reply(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        large, faults = len(body) > server.small, server.faults.get(name, [])
        sha, git = hashlib.sha256(body).hexdigest(), hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git}"'}
        if server.refusals and not with_body:
            return self.reply(server.refusals.pop(0), server.told)
        if large and not stored:
            storage = f"http://localhost:{server.server_port}/storage/{name}"
            linked = {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(body)), "Location": storage}
            return self.reply(302, headers | linked)
        fault = faults.pop(0) if faults and with_body else None
        if isinstance(fault, int):
            return self.reply(fault, server.told)
        if fault == "page":
            return self.reply(200, {}, server.page)
        if fault == "wrong":
            body = bytes(255 - byte for byte in body)
        start = 0
        if with_body and "Range" in self.headers and fault != "whole":
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        part = body[start:]
        cut = len(part) // 2 if fault in ("cut", "hang") else len(part)
        self.reply(206 if start else 200, headers, part, cut=cut, with_body=with_body)
        if fault == "hang":
            server.let_go.wait()

    def answer_about_sets(self, with_body: bool):
        """The card, the tree of files and the files of a repository, all small enough for git."""
        path = self.path.partition("?")[0].removeprefix("/api").removeprefix("/datasets/")
        name = "/".join(path.split("/")[:2])
        what, _, rest = path.removeprefix(f"{name}/").partition("/")
        files, inner = self.server.sets.get(name), rest.partition("/")[2]
        if path == "/":
            return self.reply(200, {}, b"a hub", with_body=with_body)
        if files is None:
            return self.reply(404, {"X-Error-Code": "RepoNotFound"})
        if what == "revision":
            return self.reply(200, {}, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
        if what == "tree" and (found := self.listing(files, f"{inner}/".lstrip("/"))):
            return self.reply(200, {}, json.dumps(found).encode())
        if what == "resolve" and inner in files:
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(files[inner]).hexdigest()}"'}
            return self.reply(200, headers, files[inner], with_body=with_body)
        self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    def listing(self, files: dict[str, bytes], folder: str) -> list[dict]:
        below = {path.removeprefix(folder): body for path, body in files.items() if path.startswith(folder)}
        folders = {path.partition("/")[0] for path in below if "/" in path}
        found = [{"type": "directory", "path": folder + name, "size": 0, "oid": COMMIT} for name in folders]
        return found + [{"type": "file", "path": folder + name, "size": len(body), "oid": COMMIT}
                        for name, body in below.items() if "/" not in name]

    def reply(self, status, headers, body=b"", cut=None, with_body=True):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        warning = f"{self.server.server_port}; set a token"
        self.send_header("X-HF-Warning", warning)           # the library would print it
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
        self.close_connection = cut is not None and cut < len(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(monkeypatch):
    """The server, with HF_ENDPOINT set to it. `asked` is what came: (command, path, headers)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.let_go = threading.Event()
    server.handle_error = lambda *_: None               # a client that leaves
    server.files, server.faults, server.refusals, server.asked, server.sets = {}, {}, [], [], {}
    server.page = b"<html>log in first</html>"
    server.told = {}                                    # headers of an answer that is a fault
    server.token, server.small = None, 0                # files of up to so many bytes are in git
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
