"""Talking to a model behind an OpenAI-compatible address (`POST {address}/chat/completions`)."""

import http.client
import ipaddress
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent import futures
from email.utils import parsedate_to_datetime
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

from .errors import PSAError
from .json_text import parse_json
from .replies import CutOffError

ATTEMPTS = 3
_LONGEST_WAIT = 120.0  # seconds that a server may ask for; one that asks for more is not waited for
_SLICE = 0.2  # seconds between two looks at whether to wait on
_GRACE = 1.0  # seconds; a server that says nothing at all is the socket's to notice
_MOST_BYTES = 1 << 20  # of an answer
_BUSY = (408, 425, 429)  # beside all from 500 on
_NOT_SO = (400, 422)  # what was sent is not taken
_MOST_OF_A_REFUSAL = 1 << 16  # bytes

Waiting = Callable[[str], None]
"""Hears a few times a second, in the thread that asked, what is waited for; what it raises ends the wait."""


class RemoteAddressError(PSAError):
    """The address is another machine's, and that was not allowed. `allowed(how)` is the same; it says how."""

    def __init__(self, whose: str, sees: str, how: str = "allow it with allow_remote") -> None:
        self._parts = whose, sees
        super().__init__(
            f"The {whose}'s address is not this machine's. Whoever runs it would see {sees}. Run the model on this "
            f"machine, or {how}."
        )

    def allowed(self, how: str) -> "RemoteAddressError":
        return RemoteAddressError(*self._parts, how)


class TooLongAnswerError(PSAError):
    """The server sent more than any answer has; `text` is its beginning."""

    def __init__(self, sentence: str, text: str) -> None:
        super().__init__(sentence)
        self.text = text


class RefusedError(PSAError):
    """The server does not take what was sent. `said` is its reason, which may repeat that: show it to nobody."""

    def __init__(self, sentence: str, said: str) -> None:
        super().__init__(sentence)
        self.said = said


class ChatServer:
    """A server of vLLM, Ollama, llama.cpp and others, asked with patience.

    One that is busy (408, 425, 429) or failing (5xx, or an error in place of an answer) is tried again after
    what it asks for (`Retry-After`), three times in all. Redirects are not followed, and no proxy gets what is
    meant for this machine.

    Args:
        address: such as http://127.0.0.1:8000/v1.
        key_name: the NAME of the environment variable that holds the server's key; `None` sends none.
        allow_remote: whether the address may be another machine's.
        timeout: seconds to wait for an answer, for all of it.
        wait: seconds before the second attempt, doubled for each further one.
        what: how sentences call the server: "the {what} server".
        whose: and who asks, such as "vision-language judge".
        sees: what the server's owner sees of what is sent.
        waiting: hears what is waited for; `None` waits in silence.

    Raises:
        PSAError: for what is no http(s) address, or a variable that is not set.
        RemoteAddressError: for another machine's address without `allow_remote`.
    """

    def __init__(
        self,
        address: str,
        key_name: str | None,
        allow_remote: bool,
        timeout: float,
        wait: float,
        *,
        what: str,
        whose: str,
        sees: str,
        waiting: Waiting | None = None,
    ) -> None:
        is_local = _is_local(address, whose)
        if not is_local and not allow_remote:
            raise RemoteAddressError(whose, sees)
        if key_name is not None and not _key(key_name):
            raise PSAError(f"The environment variable {key_name} does not hold a key for the server. Set it.")
        self.url = address.rstrip("/") + "/chat/completions"
        self._key_name, self._timeout, self._wait, self._what = key_name, timeout, wait, what
        self._waiting = waiting or _in_silence
        proxies = [urllib.request.ProxyHandler({})] if is_local else []
        self._opener = urllib.request.build_opener(_NoRedirects, *proxies)

    def post(
        self, body: Mapping[str, Any], stopped: Event | None = None, left: Event | None = None, whole: bool = False
    ) -> str:
        """The text of the model's answer.

        Args:
            stopped: set, by another thread, where no further attempt is to be waited for.
            left: set, by another thread, where the answer itself is no longer waited for.
            whole: whether an answer that was cut off at its longest is an error.

        Raises:
            RefusedError: where the server does not take the request as it is.
            CutOffError: with `whole`.
            PSAError: where the server cannot be reached, refuses, or gives no answer in all attempts.
        """
        stopped, what = stopped or Event(), ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._answer(body, left or Event(), whole)
            except TryAgainError as trouble:
                what, asked_for = trouble.what, trouble.wait
            if asked_for > _LONGEST_WAIT:
                raise PSAError(
                    f"The {self._what} server {what}, and asks to be left alone for {asked_for:.0f} seconds. Start "
                    "again then."
                )
            if attempt < ATTEMPTS and self._rest(what, max(self._wait * 2 ** (attempt - 1), asked_for), stopped):
                break
        raise PSAError(f"The {self._what} server {what}, {ATTEMPTS} times. Check that it runs, and start again.")

    def check(self, body: Mapping[str, Any]) -> None:
        """Ask once, whatever the answer; a server that is busy is there.

        Raises:
            PSAError: where the server cannot be reached or refuses.
        """
        try:
            self._answer(body, Event())
        except TryAgainError as trouble:
            if trouble.status not in (*_BUSY, 503):
                raise PSAError(
                    f"The {self._what} server {trouble.what}. Check that it runs, and start again."
                ) from None

    def _answer(self, body: Mapping[str, Any], left: Event, whole: bool = False) -> str:
        """What `_post_once` gives, in `timeout` seconds as a whole: a server that sends a byte now and then is not
        waited for. That waits in a thread of its own: nothing else would end before the server does.
        """
        answer: futures.Future[str] = futures.Future()
        Thread(target=_fulfil, args=(answer, lambda: self._post_once(body, whole)), daemon=True).start()
        began = time.monotonic()
        while not futures.wait([answer], _SLICE).done:
            if left.is_set():
                raise PSAError(f"The {self._what} server's answer is no longer waited for.")
            if (gone := time.monotonic() - began) > self._timeout + _GRACE:
                raise TryAgainError(f"gave no whole answer in {self._timeout:g} seconds")
            self._waiting(f"waiting for the {self._what} server: {gone:.0f} s of at most {self._timeout:.0f}")
        return answer.result()

    def _rest(self, what: str, seconds: float, stopped: Event) -> bool:
        """Wait before the next attempt; whether the answer is no longer wanted meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._waiting(f"the {self._what} server {what}; it is asked again in {left:.0f} s")
            if stopped.wait(min(left, _SLICE)):
                return True
        return stopped.is_set()

    def _post_once(self, body: Mapping[str, Any], whole: bool = False) -> str:
        headers = {"Content-Type": "application/json"}
        if self._key_name is not None:
            headers["Authorization"] = f"Bearer {_key(self._key_name)}"
        sent = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with self._opener.open(sent, timeout=self._timeout) as response:
                answer = response.read(_MOST_BYTES + 1)
        except urllib.error.HTTPError as error:  # its body may repeat what was sent: it is not shown
            said = _refusal(error)
            raise _trouble(self._what, error.code, _seconds(error.headers.get("Retry-After")), said) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise TryAgainError(f"could not be reached ({type(error).__name__})") from None
        if len(answer) > _MOST_BYTES:
            sentence = f"The {self._what} server's answer is larger than 1 MiB. Check the address."
            raise TooLongAnswerError(sentence, answer.decode(errors="replace"))
        return read_completion(answer, self._what, whole)


def _in_silence(_what: str) -> None:
    """The usual `Waiting`."""


def _fulfil(answer: futures.Future, work: Callable[[], Any]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:
        answer.set_exception(error)


class TryAgainError(Exception):
    """The server is busy, failing or away: what it did, in words for a sentence."""

    def __init__(self, what: str, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.status, self.wait = what, status, wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another address is not the one that was allowed, and it would get the key."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _refusal(error: urllib.error.HTTPError) -> str:
    """The beginning of what a server says where it does not take a request."""
    try:
        return error.read(_MOST_OF_A_REFUSAL).decode(errors="replace") if error.code in _NOT_SO else ""
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        error.close()


def _trouble(what: str, status: int, wait: float = 0.0, said: str = "") -> Exception:
    if status in _BUSY or status >= 500:
        return TryAgainError(f"answered {status}", status, wait)
    sentence = f"The {what} server answered {status}. Check the address, the model's name and the key."
    return RefusedError(sentence, said) if status in _NOT_SO else PSAError(sentence)


def read_completion(answer: bytes, what: str, whole: bool = False) -> str:
    """The text in a chat completion; `content` may be a list of parts, and a model may say nothing.

    Raises:
        CutOffError: with `whole`, for one that reached its longest before its end.
        PSAError: for anything else.
        TryAgainError: for an error that may pass.
    """
    try:
        data = parse_json(answer)
    except ValueError:
        data = None
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    for part in (data, choice):
        if isinstance(part, dict) and part.get("error"):
            error = part["error"]
            code = error.get("code", error.get("status")) if isinstance(error, dict) else None
            status = int(str(code)) if re.fullmatch("[45][0-9]{2}", str(code)) else 0
            raise _trouble(what, status) if status else TryAgainError("answered with an error")
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or "content" not in message:
        raise PSAError(
            f"The {what} server's answer is not that of an OpenAI-compatible chat. Check the address: it "
            "often ends in /v1."
        )
    content = message["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [
        part.get("text") for part in parts if isinstance(part, dict) and part.get("type") in ("text", "output_text")
    ]
    text = "".join(text for text in texts if isinstance(text, str))
    if whole and isinstance(choice, dict) and choice.get("finish_reason") == "length":
        raise CutOffError(text)
    return text


def _seconds(retry_after: str | None) -> float:
    """What `Retry-After` asks for: seconds, or a date as HTTP has it."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return 0.0


def _is_local(address: str, whose: str) -> bool:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    is_plain = address.isascii() and address.isprintable() and not {" ", "?", "#"} & set(address)  # we add to the path
    if not is_plain or not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise PSAError(f"The {whose}'s address must look like http://127.0.0.1:8000/v1.")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(variable: str) -> str:
    """What the environment variable holds, where it can be sent; a header with anything else fails and shows it."""
    key = os.environ.get(variable, "").strip()
    return key if key.isascii() and key.isprintable() else ""
