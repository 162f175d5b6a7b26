"""A server that answers what a test tells it to, for what a real one does not do on demand."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


class Asked:
    """A request, as it came."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        self.method, self.path, self.query = handler.command, url.path, parse_qs(url.query)
        self.headers = dict(handler.headers.items())
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FakeServer:
    """Answers `(method, path)` by a function of the request, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[tuple[str, str], Callable[[Asked], Any]] = {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                asked = Asked(self)
                fake.asked.append(asked)
                found = fake.answers.get((asked.method, asked.path))
                answer = found(asked) if found else Status(404, {"detail": "Not Found"})
                if isinstance(answer, Stream):
                    answer.send(self)
                    return
                if isinstance(answer, Silence):
                    self.close_connection = True
                    return
                status = answer if isinstance(answer, Status) else Status(200, answer)
                self.send_response(status.code)
                body = status.body if isinstance(status.body, bytes) else json.dumps(status.body).encode()
                self.send_header("Content-Type", status.kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that http.server looks for

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def on(self, method: str, path: str, answer: Any) -> None:
        """Answer with this JSON, `Status` or `Stream`, or with what a function of the request gives."""
        self.answers[method, path] = answer if callable(answer) else lambda _: answer

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Status:
    def __init__(self, code: int, body: Any, kind: str = "application/json") -> None:
        self.code, self.body, self.kind = code, body, kind


class Silence:
    """The connection is closed without a word, as by a server that dies."""


class Stream:
    """Server-sent events; `breaks` cuts the connection after them."""

    def __init__(self, *lines: str, breaks: bool = False) -> None:
        self.lines, self.breaks = lines, breaks

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for line in self.lines:
            event = json.loads(line)
            frame = f"id: {event['event_index']}\nevent: {event['event']}\ndata: {line}\n\n: keepalive\n\n".encode()
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        handler.close_connection = True
        if self.breaks:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            handler.wfile.write(b"0\r\n\r\n")
