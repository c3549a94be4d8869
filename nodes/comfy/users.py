"""Who is asking: with `--multi-user`, each of ComfyUI's users has their own profile store.

ComfyUI names the user in a header of each request, but not in the prompt that runs later. So the pack
binds who asked to the queued item itself when it enters the queue: prompt ids are the clients' choice.
Without `--multi-user` everyone is `default`, as in ComfyUI. A page of another site is nobody: ComfyUI
queues what it sends, and its job is kept from what belongs to a person.
"""

from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

from ...psa_core.encoders.cache import EmbeddingCache
from ...psa_core.errors import PSAError
from ...psa_core.profile_store import ProfileStore
from . import folders
from .fingerprints import always_new, fingerprint
from .routes import is_ours

_DEFAULT = "default"


class _Asker(NamedTuple):
    """Whoever sent the request, or queued what is executed: ComfyUI's user id, and whether another site's page did."""

    user: str | None = None
    is_foreign: bool = False


_NOBODY = _Asker()
_asker: ContextVar[_Asker] = ContextVar("psa_asker", default=_NOBODY)
"""On whose behalf this code runs."""


def follow(server: PromptServer) -> None:
    """Keep track of who sends each of the server's requests, and who queued what it executes."""
    server.app.middlewares.append(_take_asker)
    _bind_askers(server.prompt_queue)


def profile_store() -> ProfileStore:
    """The profile store of whoever sent the request or queued the prompt that is being handled.

    Raises:
        PSAError: if ComfyUI does not know that user, or a page of another site asks.
    """
    return ProfileStore(own_folder("psa_profiles", "profile store"))


def own_folder(name: str, what: str) -> Path:
    """That user's own part of the system folder `name`, which sentences call `what`; made by whoever writes there.

    Raises:
        PSAError: as `profile_store` does.
    """
    return folders.system_folder(name) / _user(what)


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


def embedding_cache() -> EmbeddingCache | None:
    """Where that user's embeddings are kept, and nobody else's: how fast one is there tells whose profiles are.

    None for somebody who has no store.
    """
    try:
        user = _user()
    except PSAError:
        return None
    shared = folders.system_folder("psa_cache")
    return EmbeddingCache(shared if user == _DEFAULT else shared / user)


def user_fingerprint() -> str:
    """Another value for another user, which tells nothing of either."""
    try:
        return fingerprint("user", _user())
    except PSAError:
        return always_new()


def _user(what: str = "profile store") -> str:
    """ComfyUI's id of whoever asks; without one there is no `what`, as a sentence says."""
    asker = _asker.get()
    if asker.is_foreign:
        raise PSAError(
            f"A page of another site queued this, so there is no {what}. If it was ComfyUI's own page, open it "
            "by the address that the server itself sees; a proxy in between must hand on the Host header."
        )
    user = asker.user if args.multi_user else _DEFAULT
    if user is None:
        raise PSAError(f"ComfyUI does not know this user, so there is no {what}. Log in as one of its users.")
    return user


@web.middleware
async def _take_asker(request: web.Request, handler):
    try:
        user = PromptServer.instance.user_manager.get_request_user_id(request)
    except KeyError:
        user = None
    _asker.set(_Asker(user, is_foreign=not is_ours(request)))
    return await handler(request)


class _QueuedItem(tuple):
    """What ComfyUI queues, with who queued it; unlike a part of the item, that is shown to nobody."""

    asker: _Asker

    def __lt__(self, other: tuple) -> bool:
        """By number alone: with one number and id, tuples would compare the graphs, which kills the worker."""
        return self[0] < other[0]


def _bind_askers(queue) -> None:
    put, get = queue.put, queue.get

    def put_bound(item: tuple) -> None:
        for node in item[2].values():
            if isinstance(node, dict):
                node.pop("is_changed", None)  # a client's own fingerprint would be served another user's results
        bound = _QueuedItem(item)
        bound.asker = _asker.get()
        put(bound)

    def get_bound(*arguments, **settings):
        taken = get(*arguments, **settings)
        # The worker executes what it took in this thread, and in tasks that inherit its context.
        _asker.set(getattr(taken[0], "asker", _NOBODY) if taken is not None else _NOBODY)
        return taken

    queue.put, queue.get = put_bound, get_bound
