"""The routes behind the dialog that makes and deletes stored profiles. None of them hands a profile out."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from server import PromptServer

from ...psa_core.errors import PSAError
from ...psa_core.profile import UserProfile
from .fingerprints import fingerprint
from .users import follow, profile_store

_BODY_LIMIT = 8192  # bytes, as decoded: a profile takes some hundred, its name at most 1,200

_Handler = Callable[[web.Request], Awaitable[dict[str, Any]]]


def register() -> None:
    """Give each of the server's users a profile store, and add its routes."""
    server = getattr(PromptServer, "instance", None)
    if server is None:  # a program that uses the nodes without a server has no requests and one user
        return
    follow(server)
    server.routes.get("/psa/profiles")(_answers(_list_profiles))
    server.routes.get("/psa/profiles/{name}")(_answers(_describe_profile))
    server.routes.post("/psa/profiles")(_answers(_save_profile))
    server.routes.delete("/psa/profiles/{name}")(_answers(_delete_profile))


def _answers(handler: _Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Refuse what other pages ask for, and turn a PSAError into the answer that the dialog shows."""

    async def answer(request: web.Request) -> web.Response:
        try:
            _check_origin(request)
            return web.json_response(await handler(request))
        except PSAError as error:
            return web.json_response({"error": str(error)}, status=400)

    return answer


def _check_origin(request: web.Request) -> None:
    """A page of another site, which a browser runs beside ComfyUI's, may not act on the store.

    Browsers name the page's origin and its relation to ours, and let no page write these headers.
    Programs that are no browser send neither.
    """
    origins = request.headers.getall("Origin", [])
    sites = request.headers.getall("Sec-Fetch-Site", [])
    own = all(origin.partition("://")[2].lower() == request.host.lower() for origin in origins)
    if not own or not set(sites) <= {"same-origin", "none"}:
        raise PSAError(
            "Only ComfyUI's own page may use the profile store. If this is it, open it by the address that the server "
            "itself sees; a proxy in between must hand on the Host header."
        )


async def _list_profiles(_request: web.Request) -> dict[str, Any]:
    return {"names": profile_store().names()}


async def _describe_profile(request: web.Request) -> dict[str, Any]:
    name = request.match_info["name"]
    return {"name": name, "version": _version(name)}


async def _save_profile(request: web.Request) -> dict[str, Any]:
    data = await _read_json(request)
    if not isinstance(data, dict) or not {"name", "profile"} <= set(data):
        raise PSAError('Send JSON: {"name": ..., "profile": {"Age": ..., ...}}.')
    name, overwrite = data["name"], data.get("overwrite") or None
    if overwrite is not None and overwrite != _version(name):
        raise PSAError(
            f"To replace the stored profile '{name}', send as 'overwrite' the version that GET /psa/profiles/<name> "
            "gives: this is not it, or the profile has changed since."
        )
    profile_store().save(name, UserProfile.from_dict(data["profile"]), overwrite=overwrite is not None)
    return await _list_profiles(request)


async def _delete_profile(request: web.Request) -> dict[str, Any]:
    profile_store().delete(request.match_info["name"])
    return await _list_profiles(request)


def _version(name: str) -> str:
    """Changes with what is stored as `name` and tells nothing of it."""
    store = profile_store()
    if not (stamp := store.stamp(name)):
        raise PSAError(f"No profile is stored as '{name}'. Choose one of the stored names.")
    return fingerprint("version", str(store.folder), name, *stamp)


async def _read_json(request: web.Request) -> Any:
    """The body: short, and JSON that says so, for which browsers ask before a page of another site may send it."""
    if request.content_type != "application/json":
        raise PSAError("Send the profile as Content-Type: application/json.")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise PSAError("Send the profile in UTF-8, as all JSON is.")
    body = b""
    try:
        while chunk := await request.content.read(_BODY_LIMIT + 1 - len(body)):
            body += chunk
    except (HttpProcessingError, web.RequestPayloadError, OSError):
        raise PSAError("The request's body cannot be decoded. Send the profile as plain JSON.") from None
    if len(body) > _BODY_LIMIT:
        raise PSAError(f"The request is longer than a profile can be. Send at most {_BODY_LIMIT} bytes.")
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise PSAError("The request's body is not JSON in UTF-8, or too deeply nested.") from None
