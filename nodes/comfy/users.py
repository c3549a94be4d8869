"""Who is asking: with `--multi-user`, each of ComfyUI's users has their own profile store.

ComfyUI names the user in a header of each request, but not in the prompt that runs later. So the pack
binds the user to the queued item itself when it enters the queue: prompt ids are the clients' choice.
Without `--multi-user` everyone is `default`, as in ComfyUI.
"""

from contextvars import ContextVar
from pathlib import Path

from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

from ...psa_core.errors import PSAError
from ...psa_core.profile_store import ProfileStore
from . import folders
from .fingerprints import always_new, fingerprint

_user: ContextVar[str | None] = ContextVar("psa_user", default=None)
"""On whose behalf this code runs, by ComfyUI's user id: whoever sent the request, or queued what is executed."""


def follow(server: PromptServer) -> None:
    """Keep track of who sends each of the server's requests, and who queued what it executes."""
    server.app.middlewares.append(_take_requester)
    _bind_users(server.prompt_queue)


def profile_store() -> ProfileStore:
    """The profile store of whoever sent the request or queued the prompt that is being handled.

    Raises:
        PSAError: if ComfyUI does not know that user.
    """
    return ProfileStore(own_folder("psa_profiles", "profile store"))


def own_folder(name: str, what: str) -> Path:
    """That user's own part of the system folder `name`, which sentences call `what`; made by whoever writes there.

    Raises:
        PSAError: if ComfyUI does not know that user.
    """
    user = _user.get() if args.multi_user else "default"
    if user is None:
        raise PSAError(f"ComfyUI does not know this user, so there is no {what}. Log in as one of its users.")
    return folders.system_folder(name) / user


def profile_names() -> list[str]:
    """The names in that store, for a node's menu; none for a user that ComfyUI does not know."""
    try:
        return profile_store().names()
    except PSAError:
        return []


def profile_fingerprint(name: str | None) -> str:
    """Changes with the user and with what is stored as `name`, and tells nothing of either.

    A name that comes from another node is `None` here, and any stored profile may be meant.
    """
    try:
        store = profile_store()
        names = store.names() if name is None else [name]
        return fingerprint("profile", str(store.folder), *((each, *store.stamp(each)) for each in names))
    except PSAError:
        return always_new()  # let it run, and say what is wrong


@web.middleware
async def _take_requester(request: web.Request, handler):
    try:
        _user.set(PromptServer.instance.user_manager.get_request_user_id(request))
    except KeyError:
        _user.set(None)
    return await handler(request)


class _QueuedItem(tuple):
    """What ComfyUI queues, with the user who queued it; unlike a part of the item, that is shown to nobody."""

    user: str | None


def _bind_users(queue) -> None:
    put, get = queue.put, queue.get

    def put_bound(item: tuple) -> None:
        for node in item[2].values():
            if isinstance(node, dict):
                node.pop("is_changed", None)  # a client's own fingerprint would be served another user's results
        bound = _QueuedItem(item)
        bound.user = _user.get()
        put(bound)

    def get_bound(*arguments, **settings):
        taken = get(*arguments, **settings)
        # The worker executes what it took in this thread, and in tasks that inherit its context.
        _user.set(getattr(taken[0], "user", None) if taken is not None else None)
        return taken

    queue.put, queue.get = put_bound, get_bound
