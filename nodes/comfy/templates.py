"""The pack's workflows in the template browser: by name, and so the one to start with first.

ComfyUI lists them as the disk happens to have them, and its page as it is told.
"""

from pathlib import Path

from aiohttp import web
from server import PromptServer

from ...psa_core.json_text import parse_json

_PACK = Path(__file__).parents[2].name  # what ComfyUI calls the pack: its folder
_ROUTES = ("/workflow_templates", "/api/workflow_templates")


def register() -> None:
    """Have the server answer so."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.app.middlewares.append(_by_name)


@web.middleware
async def _by_name(request: web.Request, handler):
    response = await handler(request)
    if request.path not in _ROUTES or not isinstance(response, web.Response) or response.status != 200:
        return response
    listed = parse_json(response.text or "{}")
    return web.json_response({**listed, _PACK: sorted(listed[_PACK])}) if _PACK in listed else response
