"""Waiting for a model behind an address: somebody hears of it, and can end it."""

import re
import threading

import pytest
from PIL import Image

from psa_core import PSAError
from psa_core.chat_server import ChatServer
from psa_core.concepts.requests import Request
from psa_core.concepts.scenes import Scene
from psa_core.concepts.writers import ServerWriter
from psa_core.judges.judging import Question
from psa_core.judges.vision_language import VisionLanguageJudge


class EnoughError(Exception):
    """What somebody raises who waits no longer."""


class Patience:
    """Hears what is waited for, and raises once it hears certain words."""

    def __init__(self, words: str) -> None:
        self.heard: list[str] = []
        self._words = words

    def __call__(self, what: str) -> None:
        self.heard.append(what)
        if self._words in what:
            raise EnoughError


@pytest.fixture
def hanging(serve):
    """A server that answers when the test is over."""
    over = threading.Event()
    yield serve(lambda _body, _number: over.wait(300) and "late")
    over.set()


def chat(server, waiting=None, timeout: float = 120.0, wait: float = 15.0) -> ChatServer:
    names = {"what": "test", "whose": "test", "sees": "nothing"}
    return ChatServer(server.address, None, False, timeout, wait, waiting=waiting, **names)


def test_the_wait_for_an_answer_can_be_ended(hanging):
    patience = Patience("waiting for the test server")
    with pytest.raises(EnoughError):
        chat(hanging, patience).post({})
    assert re.fullmatch(r".*: \d+ s of at most 120", patience.heard[-1])
    with pytest.raises(EnoughError):
        chat(hanging, Patience("waiting for the test server")).check({})


def test_the_wait_for_another_attempt_can_be_ended_and_says_how_long_it_is(serve):
    server = serve(lambda _body, _number: (429, {"Retry-After": "60"}))
    patience = Patience("it is asked again")
    with pytest.raises(EnoughError):
        chat(server, patience).post({})
    assert re.fullmatch(r"the test server answered 429; it is asked again in (60|5\d) s", patience.heard[-1])
    assert len(server.bodies) == 1


def test_another_thread_can_end_both(hanging, serve):
    for server, timeout in ((hanging, 300.0), (serve(lambda _body, _number: (503, {"Retry-After": "100"})), 120.0)):
        stopped = threading.Event()
        heard = threading.Event()
        ended: list[Exception] = []

        def ask(server=server, timeout=timeout, heard=heard, stopped=stopped, ended=ended) -> None:
            try:
                chat(server, lambda _what: heard.set(), timeout).post({}, stopped)
            except PSAError as error:
                ended.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert heard.wait(60)
        stopped.set()
        thread.join(60)
        assert not thread.is_alive() and len(ended) == 1 and len(server.bodies) == 1


def test_more_than_two_minutes_are_not_waited_for(serve):
    server = serve(lambda _body, _number: (429, {"Retry-After": "121"}))
    with pytest.raises(PSAError, match="left alone for 121 seconds"):
        chat(server).post({})
    assert len(server.bodies) == 1


def test_an_answer_that_drips_is_late_as_a_whole(serve, monkeypatch):
    """Each byte comes in time."""
    over = threading.Event()
    server = serve(lambda _body, _number: "fine")

    def drip(handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        server.bodies.append({})
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not over.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    monkeypatch.setattr(server.RequestHandlerClass, "do_POST", drip)
    with pytest.raises(PSAError, match="3 times"):
        chat(server, timeout=1.0, wait=0.01).post({})
    over.set()


def test_a_writer_and_a_judge_hand_it_on(hanging):
    request = Request(None, "named", Scene("a sea", "a sea"), 0)
    with pytest.raises(EnoughError):
        ServerWriter(hanging.address, "m", waiting=Patience("waiting for")).answer(request)
    judge = VisionLanguageJudge(hanging.address, "m", waiting=Patience("waiting for"), at_once=2)
    with pytest.raises(EnoughError):
        judge.judge([Image.new("RGB", (8, 8))] * 3, [Question("x")] * 3)
    with pytest.raises(EnoughError):
        VisionLanguageJudge(hanging.address, "m", waiting=Patience("waiting for")).check([])
