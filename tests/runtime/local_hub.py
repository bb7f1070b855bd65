"""A stand-in for the Hugging Face hub on this machine: it answers what the client asks to fetch files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@contextmanager
def local_hub(repositories: Path, commit: str) -> Iterator[str]:
    """Serve the folders `repositories/<user>/<name>`, each as one commit; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repository = repositories / parts[2] / parts[3]
                files = [str(f.relative_to(repository)) for f in sorted(repository.rglob("*")) if f.is_file()]
                if "tree" in parts:
                    listed = [
                        {
                            "type": "file",
                            "path": name,
                            "size": (repository / name).stat().st_size,
                            "oid": "0" * 40,
                        }
                        for name in files
                    ]
                    return self._send(200, json.dumps(listed).encode(), body, "application/json")
                about = {
                    "id": "/".join(parts[2:4]),
                    "modelId": "/".join(parts[2:4]),
                    "sha": commit,
                    "siblings": [{"rfilename": name} for name in files],
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                }
                return self._send(200, json.dumps(about).encode(), body, "application/json")
            path = repositories.joinpath(*parts[:2], *parts[4:])
            if parts[2:3] == ["resolve"] and path.is_file():
                return self._send(200, path.read_bytes(), body, "application/octet-stream")
            code = "EntryNotFound" if (repositories / "/".join(parts[:2])).is_dir() else "RepoNotFound"
            return self._send(404, b"", body, "text/plain", {"X-Error-Code": code})

        def _send(
            self, status: int, content: bytes, body: bool, kind: str, more: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            for name, value in (more or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
