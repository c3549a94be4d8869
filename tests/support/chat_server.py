"""A real HTTP server that answers as a vision-language model behind an OpenAI-compatible address does."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

FINE = {"banned_shown": [], "allowed_kept": True, "quality": 80}
"""A verdict."""


class Server(ThreadingHTTPServer):
    """Answers each request with what `answer(body, number)` returns.

    That is a reply's text (or its list of parts), (status, headers), to which what the server says may be added, or
    bytes for a whole answer.
    """

    daemon_threads = True

    def __init__(self, answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.bodies, self.headers, self.paths = answer, [], [], []
        self.most_at_once, self._at_once, self.lock = 0, 0, threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.paths.append(self.path)
            server._at_once += 1
            server.most_at_once = max(server.most_at_once, server._at_once)
            number = len(server.bodies)
        answer = server.answer(body, number)
        with server.lock:
            server._at_once -= 1
        if answer == "hang up":
            self.connection.close()
            return
        status, headers, *said = answer if isinstance(answer, tuple) else (200, {}, answer)
        content = said[0] if said else f"you sent {json.dumps(body)[:3000]}"
        if isinstance(content, bytes):
            content = content.decode()
        elif status == 200:
            content = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_error(404)

    def log_message(self, *_) -> None:
        pass


def fine(_body: dict, _number: int) -> str:
    return json.dumps(FINE)


def asked(body: dict) -> tuple[str, list[Image.Image]]:
    """The text and the pictures of a request's first message."""
    text, *images = body["messages"][0]["content"]
    shown = []
    for image in images:
        head, _, data = image["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        shown.append(Image.open(io.BytesIO(base64.b64decode(data))))
    return text["text"], shown
