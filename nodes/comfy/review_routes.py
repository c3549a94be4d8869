"""The routes behind the review page: the data sets, the next question, its two pictures, and the answer to it.

A data set is one of those that Load PSA Dataset lists, and is known by its path there; in an address a slash in it is
%2F. `?users=` names a users file to read it with, as that node's input does. Of its users the page hears what the
viewer of a question bans, and nothing else.
"""

import asyncio
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from server import PromptServer

from ...psa_core.dataset import read_split, split_file
from ...psa_core.dataset.pair_files import HARMLESS, PAIRS, USERS
from ...psa_core.errors import PSAError
from ...psa_core.pictures import thumbnail
from ...psa_core.review import AnswerBook, OutdatedError, Review
from .data_sets import data_sets, splits_of, users_file
from .folders import stamp
from .routes import answers, read_json

_BODY_LIMIT = 1024  # bytes, as decoded: an answer takes a hundred
_MAX_SIDE = 1024  # pixels of a picture in the page
_KEPT = 2  # reviews whose questions stay in memory
_T = TypeVar("_T")

_reviews: dict[tuple[Path, str, Path | None], tuple[Any, Review]] = {}
_reading: dict[tuple[Path, str], threading.Lock] = {}  # one that is read keeps nobody from another
_threads = ThreadPoolExecutor(4, "psa-review")  # not the server's own, which serve its page


def register() -> None:
    """Add the routes to ComfyUI's server."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    server.routes.get("/psa/datasets")(answers(_list_datasets))
    server.routes.get("/psa/review/{dataset}/{split}")(answers(_state))
    server.routes.post("/psa/review/{dataset}/{split}")(answers(_answer))
    server.routes.get("/psa/review/{dataset}/{split}/{number}/{side}")(answers(_picture))


async def _list_datasets(_request: web.Request) -> dict[str, Any]:
    return {"datasets": await _in_thread(_datasets)}


async def _state(request: web.Request) -> dict[str, Any]:
    return await _in_thread(lambda: _review(request).state())


async def _answer(request: web.Request) -> dict[str, Any] | web.Response:
    data = await read_json(request, "answer", _BODY_LIMIT)
    if not isinstance(data, dict) or not {"number", "token", "answer", "seen"} <= set(data):
        raise PSAError('Send JSON: {"number": 0, "token": "...", "answer": "left", "seen": 0}.')

    def save() -> dict[str, Any]:
        review = _review(request)
        review.answer(data["number"], data["token"], data["answer"], data["seen"])
        return review.state()

    try:
        # Once begun it is finished, also where the page is closed meanwhile.
        return await asyncio.shield(_in_thread(save))
    except OutdatedError as error:
        return web.json_response({"error": str(error)}, status=409)


async def _picture(request: web.Request) -> web.Response:
    number, side = request.match_info["number"], request.match_info["side"]
    token = request.query.get("token", "")
    if not number.isdecimal() or len(number) > 9:
        raise PSAError("There is no such question. Open the review again.")
    shown = await _in_thread(lambda: _png(_review(request).picture(int(number), token, side)))
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=shown, content_type="image/png", headers=headers)


def _in_thread(work: Callable[[], _T]) -> "asyncio.Future[_T]":
    return asyncio.get_running_loop().run_in_executor(_threads, work)


def _datasets() -> list[dict[str, Any]]:
    """The data sets that can be reviewed, and their splits."""
    found = ({"name": name, "splits": _splits(folder)} for name, folder in data_sets().items())
    return [each for each in found if each["splits"]]


def _splits(folder: Path) -> list[str]:
    return [name for name in splits_of(folder) if name != HARMLESS]  # there, nothing is to be chosen


def _review(request: web.Request) -> Review:
    """The review of the data set, split and users file that the request names, read anew where a file has changed."""
    dataset, split = request.match_info["dataset"], request.match_info["split"]
    folder = data_sets().get(dataset)
    if folder is None or split not in _splits(folder):
        raise PSAError("There is no such data set or split in ComfyUI's input folder. Choose one of the list.")
    people = users_file(folder, request.query.get("users"))
    files = (split_file(folder, split), folder / PAIRS, folder / USERS, *([people] if people else []))
    now, place = [stamp(path) for path in files], (folder, split, people)
    with _reading.setdefault((folder, split), threading.Lock()):
        known, review = _reviews.get(place, (None, None))
        if review is None or known != now:
            pairs = read_split(folder, split, skip_bad=True, users=people, answers=False)
            review = Review(pairs, AnswerBook(folder))
            _reviews.pop(place, None)
            _reviews[place] = now, review
            for oldest in list(_reviews)[:-_KEPT]:
                _reviews.pop(oldest, None)
        return review


def _png(path: Path) -> bytes:
    """The picture's pixels alone: a file may hold more, and have any ending."""
    image = thumbnail(path, _MAX_SIDE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
