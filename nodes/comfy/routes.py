"""What the pack's own HTTP routes have in common: they answer ComfyUI's own page alone, and in sentences."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ...psa_core.errors import PSAError, bug_sentence
from ...psa_core.json_text import parse_json
from .faults import log_places

_Handler = Callable[[web.Request], Awaitable[dict[str, Any] | web.Response]]
_FOREIGN = (
    "Only ComfyUI's own page may use this. If this is it, open it by the address that the server itself sees; a proxy "
    "in between must hand on the Host header."
)


def answers(handler: _Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Refuse what other pages ask for, and turn what the handler gives, or its PSAError, into the page's answer."""

    async def answer(request: web.Request) -> web.Response:
        try:
            if not is_ours(request):
                raise PSAError(_FOREIGN)
            found = await handler(request)
        except PSAError as error:
            return web.json_response({"error": str(error)}, status=400)
        except OSError as error:
            said = f"A file cannot be used: {error.strerror}. Check the permissions of ComfyUI's folders."
            return web.json_response({"error": said}, status=400)
        except web.HTTPException:
            raise
        except Exception as error:  # else aiohttp logs what it says
            log_places(error)
            return web.json_response({"error": f"{bug_sentence(error)} with what ComfyUI's log says."}, status=500)
        return found if isinstance(found, web.Response) else web.json_response(found)

    return answer


def is_ours(request: web.Request) -> bool:
    """Whether ComfyUI's own page asks, or a program, and no page of another site, which a browser runs beside it.

    Browsers name the page's origin and its relation to ours, and let no page write these headers.
    Programs that are no browser send neither.
    """
    origins = request.headers.getall("Origin", [])
    sites = request.headers.getall("Sec-Fetch-Site", [])
    own = all(origin.partition("://")[2].lower() == request.host.lower() for origin in origins)
    return own and set(sites) <= {"same-origin", "none"}


async def read_json(request: web.Request, what: str, most: int) -> Any:
    """The body, `what` it is to hold: at most so many bytes as decoded, and JSON that says so."""
    _check_type(request, what, "application/json")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise PSAError(f"Send the {what} in UTF-8, as all JSON is.")
    body = b""
    try:
        while chunk := await request.content.read(most + 1 - len(body)):
            body += chunk
    except (HttpProcessingError, web.RequestPayloadError, OSError):
        raise PSAError(f"The request's body cannot be decoded. Send the {what} as plain JSON.") from None
    if len(body) > most:
        raise PSAError(f"The request is longer than the {what} can be. Send at most {most} bytes.")
    try:
        return parse_json(body.decode("utf-8"), once=True)
    except ValueError:
        raise PSAError("The request's body is not JSON in UTF-8, has a name twice, or is too deeply nested.") from None


async def receive(
    request: web.Request, what: str, content_type: str, path: Path, check_size: Callable[[int], None]
) -> None:
    """Write the body, which says that it is of that type, to a new file as it comes.

    Args:
        check_size: told of the bytes so far before they are written; raises PSAError for too many.
    """
    _check_type(request, what, content_type)
    size = 0
    with open(path, "xb") as file:
        try:
            async for chunk in request.content.iter_any():
                size += len(chunk)
                check_size(size)
                await asyncio.to_thread(file.write, chunk)
        except (HttpProcessingError, web.RequestPayloadError, ConnectionError):
            raise PSAError(f"The {what} did not come to its end. Send it again.") from None


def _check_type(request: web.Request, what: str, content_type: str) -> None:
    """Of such types browsers ask first whether a page of another site may send them."""
    if request.content_type != content_type:
        raise PSAError(f"Send the {what} as Content-Type: {content_type}.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":  # a few bytes may unpack to gigabytes
        raise PSAError(f"Send the {what} as it is, without Content-Encoding.")
