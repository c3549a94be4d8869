"""Requests to the pack's own routes, whatever is in them."""

import http.client
import json
from contextlib import closing
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json"}


class Client:
    """Sends any method, header and body; each on a connection of its own."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] = JSON):
        """The status, and the answer as JSON; `None` where it is no JSON (ComfyUI's own answers)."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        with closing(connection):
            connection.request(method, path, body, {**headers, "Connection": "close"})
            response = connection.getresponse()
            text = response.read()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, None


def refused(answer, *words: str) -> None:
    status, said = answer
    assert status == 400, answer
    assert said["error"].endswith("."), said
    assert all(word in said["error"] for word in words), said
