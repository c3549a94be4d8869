"""ComfyUI's door to the pack: the nodes, the web folder and the model folders; nothing else."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES
from .nodes.comfy import folders, profile_routes, review_routes, templates, upload_routes

WEB_DIRECTORY = "./web"

folders.register()
profile_routes.register()
review_routes.register()
upload_routes.register()
templates.register()


class PSAExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    return PSAExtension()
