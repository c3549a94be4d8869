"""The routes behind the dialog that makes and deletes stored profiles. None of them hands a profile out."""

from typing import Any

from aiohttp import web
from server import PromptServer

from ...psa_core.errors import PSAError
from ...psa_core.profile import UserProfile
from .fingerprints import fingerprint
from .routes import answers, read_json
from .users import follow, profile_store

_BODY_LIMIT = 8192  # bytes, as decoded: a profile takes some hundred, its name at most 1,200


def register() -> None:
    """Give each of the server's users a profile store, and add its routes."""
    server = getattr(PromptServer, "instance", None)
    if server is None:  # a program that uses the nodes without a server has no requests and one user
        return
    follow(server)
    server.routes.get("/psa/profiles")(answers(_list_profiles))
    server.routes.get("/psa/profiles/{name}")(answers(_describe_profile))
    server.routes.post("/psa/profiles")(answers(_save_profile))
    server.routes.delete("/psa/profiles/{name}")(answers(_delete_profile))


async def _list_profiles(_request: web.Request) -> dict[str, Any]:
    return {"names": profile_store().names()}


async def _describe_profile(request: web.Request) -> dict[str, Any]:
    name = request.match_info["name"]
    return {"name": name, "version": _version(name)}


async def _save_profile(request: web.Request) -> dict[str, Any]:
    data = await read_json(request, "profile", _BODY_LIMIT)
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
