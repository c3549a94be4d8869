"""What the pack's own HTTP routes have in common: they answer ComfyUI's own page alone, and in sentences."""

from collections.abc import Awaitable, Callable
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
    """The body, `what` it is to hold: at most so many bytes as decoded, and JSON that says so.

    Browsers ask before a page of another site may send that.
    """
    if request.content_type != "application/json":
        raise PSAError(f"Send the {what} as Content-Type: application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":  # a few bytes may unpack to gigabytes
        raise PSAError(f"Send the {what} as it is, without Content-Encoding.")
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
        return parse_json(body.decode("utf-8"))
    except ValueError:
        raise PSAError("The request's body is not JSON in UTF-8, or too deeply nested.") from None
