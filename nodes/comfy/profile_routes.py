"""The routes behind the page's list of stored profiles and its forms. One alone hands a profile out."""

import ipaddress
import platform
from typing import Any

from aiohttp import web
from server import PromptServer

from ...psa_core.errors import PSAError
from ...psa_core.profile import LEVELS, UserProfile
from ...psa_core.rules import RULES
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
    server.routes.post("/psa/profiles/{name}/read")(answers(_read_profile))
    server.routes.post("/psa/profiles/{name}/copy")(answers(_copy_profile))
    server.routes.post("/psa/profiles/{name}/rename")(answers(_rename_profile))
    server.routes.post("/psa/banned")(answers(_banned_categories))


def _check_host(request: web.Request) -> None:
    """What hands a profile out is asked for by an address, not by a name that its owner may let lead anywhere.

    A page under such a name counts as ComfyUI's own (DNS rebinding). Over https the certificate has vouched for it.
    """
    host = request.host.lower()
    name = (host.partition("]")[0] if host.startswith("[") else host.partition(":")[0]).strip("[]")
    if any(origin.startswith("https://") for origin in request.headers.getall("Origin", [])):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if name not in ("localhost", platform.node().lower()) and not name.endswith(".localhost"):
            raise PSAError(
                "Stored profiles are shown on a page that was opened by the server's number (such as 127.0.0.1), as "
                "localhost, by this machine's own name, or over https. Open ComfyUI so."
            ) from None


async def _list_profiles(_request: web.Request) -> dict[str, Any]:
    return {"names": profile_store().names()}


async def _describe_profile(request: web.Request) -> dict[str, Any]:
    name = request.match_info["name"]
    return {"name": name, "version": _version(name)}


async def _save_profile(request: web.Request) -> dict[str, Any]:
    """Under a new name; or in the place of the profile whose version, as `_describe_profile` has it, is 'overwrite'."""
    data = await _read(request)
    if not isinstance(data, dict) or not {"name", "profile"} <= set(data):
        raise PSAError('Send JSON: {"name": ..., "profile": {"Age": ..., ...}}.')
    name, overwrite = data["name"], data.get("overwrite") or None
    if overwrite is not None and overwrite != _version(name):
        raise PSAError(f"The stored profile '{name}' has changed since this form was opened. Open Edit again.")
    profile_store().save(name, UserProfile.from_dict(data["profile"]), overwrite=overwrite is not None)
    return await _list_profiles(request)


async def _delete_profile(request: web.Request) -> dict[str, Any]:
    profile_store().delete(request.match_info["name"])
    return await _list_profiles(request)


async def _read_profile(request: web.Request) -> dict[str, Any]:
    """The profile, and the rules that ban the same, if any do. It takes a body of JSON, which no link or form sends."""
    _check_host(request)
    await _read(request)
    name = request.match_info["name"]
    version, profile = _version(name), profile_store().load(name)
    rules = next((each for each in RULES if profile.with_rules(each) == profile), None)
    return {"name": name, "version": version, "profile": profile.to_dict(), "rules": rules}


async def _copy_profile(request: web.Request) -> dict[str, Any]:
    profile_store().copy(request.match_info["name"], await _new_name(request))
    return await _list_profiles(request)


async def _rename_profile(request: web.Request) -> dict[str, Any]:
    profile_store().rename(request.match_info["name"], await _new_name(request))
    return await _list_profiles(request)


async def _new_name(request: web.Request) -> Any:
    data = await _read(request)
    if not isinstance(data, dict) or "to" not in data:
        raise PSAError('Send JSON with the new name: {"to": ...}.')
    return data["to"]


async def _banned_categories(request: web.Request) -> dict[str, Any]:
    """What the profile in the body bans, by its rules or its own list; or the level of the paper that it names."""
    data = await _read(request)
    level = data.get("Level") if isinstance(data, dict) else None
    profile = LEVELS[level] if isinstance(level, str) and level in LEVELS else UserProfile.from_dict(data)
    return {"banned": list(profile.banned_categories)}


def _version(name: str) -> str:
    """Changes with what is stored as `name` and tells nothing of it."""
    store = profile_store()
    if not (stamp := store.stamp(name)):
        raise PSAError(f"No profile is stored as '{name}'. Choose one of the stored names.")
    return fingerprint("version", str(store.folder), name, *stamp)


async def _read(request: web.Request) -> Any:
    return await read_json(request, "profile", _BODY_LIMIT)
