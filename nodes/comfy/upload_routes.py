"""The routes behind *Upload a data set*: an archive comes in, and the input folder has one data set more.

What lies there is everyone's, as what ComfyUI's own uploads put there: one user's replaces none of another's.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web
from server import PromptServer

from ...psa_core.dataset.archive import ARCHIVE, folder_name, import_archive
from ...psa_core.errors import PSAError
from ...psa_core.files import check_room, sweep_parts, temporary_folder
from .folders import input_folder
from .routes import answers, receive

_threads = ThreadPoolExecutor(2, "psa-upload")  # not the server's own, which serve its page


def register() -> None:
    """Add the routes to ComfyUI's server, and take away what uploads of a killed one left."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    sweep_parts(input_folder())
    server.routes.get("/psa/upload")(answers(_may_upload))
    server.routes.post("/psa/upload")(answers(_upload))


async def _may_upload(request: web.Request) -> dict[str, Any]:
    """Whether an archive of this `name` and `size` would be taken: a browser that is sending one hears no refusal."""
    size = request.query.get("size", "")
    if not size.isdecimal() or len(size) > 18:
        raise PSAError("Give the archive's name and its size in bytes: ?name=...&size=...")
    _check(request, int(size))
    return {}


async def _upload(request: web.Request) -> dict[str, Any]:
    """The body is the archive itself, whose `name` the query says."""
    _check(request, request.content_length or 0)
    with temporary_folder(input_folder()) as part:
        archive = part / f"archive{ARCHIVE}"
        await receive(request, "archive", "application/zip", archive, lambda size: _check_size(request, size))
        work = asyncio.get_running_loop().run_in_executor(
            _threads, import_archive, archive, input_folder(), request.query["name"]
        )
        imported = await asyncio.shield(work)
    return {"name": imported.folder.name, "said": imported.said}


def _check(request: web.Request, size: int) -> None:
    folder_name(request.query.get("name", ""))
    _check_size(request, size)
    check_room(input_folder(), size)


def _check_size(request: web.Request, size: int) -> None:
    """aiohttp itself holds bodies against the server's limit only where they are read into memory."""
    if size > (most := request.client_max_size) > 0:
        raise PSAError(
            f"The archive is larger than the {most / 1024**2:g} MB that this ComfyUI takes. Start it with a larger "
            "--max-upload-size, or unpack the archive in ComfyUI's input folder by hand."
        )
