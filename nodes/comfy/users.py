"""Who is asking: with `--multi-user`, each of ComfyUI's users has their own profile store.

ComfyUI names the user in a header of each request but not in the prompt that runs later, so the
pack remembers it by prompt id. Without `--multi-user` everyone is `default`, as in ComfyUI.
"""

import uuid
from contextvars import ContextVar

from aiohttp import web
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...psa_core.errors import PSAError
from ...psa_core.profile import UserProfile
from ...psa_core.profile_store import ProfileStore
from . import folders

_DEFAULT = "default"
_REMEMBERED = 10_000  # prompts waiting in the queue; the oldest are forgotten

_requesting: ContextVar[str | None] = ContextVar("psa_requesting_user", default=_DEFAULT)
_by_prompt: dict[str, str | None] = {}


def register() -> None:
    """Hook into the server's requests, and add the routes behind the node's "New profile" dialog."""
    server = getattr(PromptServer, "instance", None)
    if server is None:  # a program that uses the nodes without a server has no requests and one user
        return
    server.app.middlewares.append(_remember_requester)
    server.add_on_prompt_handler(_remember_prompt)
    server.routes.get("/psa/profiles")(_answers(_list_profiles))
    server.routes.post("/psa/profiles")(_answers(_save_profile))
    server.routes.delete("/psa/profiles/{name}")(_answers(_delete_profile))


def profile_store() -> ProfileStore:
    """The profile store of whoever sent the request or queued the prompt that is being handled.

    Raises:
        PSAError: if ComfyUI does not know that user.
    """
    context = get_executing_context()
    user = _requesting.get() if context is None else _by_prompt.get(context.prompt_id, _DEFAULT)
    if user is None:
        raise PSAError("ComfyUI does not know this user, so there is no profile store. Log in as one of its users.")
    return ProfileStore(folders.system_folder("psa_profiles") / user)


def profile_names() -> list[str]:
    """The names in that store, for a node's menu; none for a user that ComfyUI does not know."""
    try:
        return profile_store().names()
    except PSAError:
        return []


@web.middleware
async def _remember_requester(request: web.Request, handler):
    try:
        _requesting.set(PromptServer.instance.user_manager.get_request_user_id(request))
    except KeyError:
        _requesting.set(None)
    return await handler(request)


def _remember_prompt(data: dict) -> dict:
    if _requesting.get() != _DEFAULT:
        _by_prompt[data.setdefault("prompt_id", str(uuid.uuid4()))] = _requesting.get()
        if len(_by_prompt) > _REMEMBERED:
            _by_prompt.pop(next(iter(_by_prompt)))
    return data


def _answers(handler):
    """Turn a PSAError into the answer that the dialog shows."""

    async def answer(request: web.Request) -> web.Response:
        try:
            await handler(request)
            return web.json_response({"names": profile_store().names()})
        except PSAError as error:
            return web.json_response({"error": str(error)}, status=400)

    return answer


async def _list_profiles(_request: web.Request) -> None:
    pass


async def _save_profile(request: web.Request) -> None:
    try:
        data = await request.json()
        name, fields, overwrite = data["name"], data["profile"], data.get("overwrite") is True
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PSAError('Send JSON: {"name": ..., "profile": {"Age": ..., ...}}.') from None
    profile_store().save(name, UserProfile.from_dict(fields), overwrite=overwrite)


async def _delete_profile(request: web.Request) -> None:
    profile_store().delete(request.match_info["name"])
