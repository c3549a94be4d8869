"""Load the pack by ComfyUI's own loader and print what that imported, as a JSON list of module names."""

import asyncio
import importlib
import json
import logging
import sys
from pathlib import Path

from in_comfyui import start_comfyui

PACK = Path(__file__).parents[3]


async def load() -> list[str]:
    importlib.import_module("utils.install_util")  # first, as in main.py: `nodes` puts another `utils` on the path
    nodes, server = importlib.import_module("nodes"), importlib.import_module("server")
    server.PromptServer(asyncio.get_running_loop())  # a pack registers its routes with the instance
    await nodes.init_builtin_extra_nodes()
    before = set(sys.modules)
    assert await nodes.load_custom_node(str(PACK)), "the pack did not load"
    return sorted(set(sys.modules) - before)


start_comfyui()
logging.disable()
print(json.dumps(asyncio.run(load())))
