"""A run that is cancelled as soon as a node says something."""

import asyncio
import json
import uuid
from collections.abc import Mapping
from typing import Any

import aiohttp

from psa_core.comfy_server import ComfyServer


def cancel_when_it_says(server: ComfyServer, prompt: Mapping[str, Any], node: str, words: str) -> str:
    """Run a graph, press Cancel once `node` says `words`, and return what it said when the run has ended by that."""
    return asyncio.run(_cancel_when_it_says(server, prompt, node, words))


async def _cancel_when_it_says(server: ComfyServer, prompt: Mapping[str, Any], node: str, words: str) -> str:
    client, said = uuid.uuid4().hex, ""
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as response:
            assert response.status == 200, await response.text()
        async for message in socket:
            event = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
            kind, data = event.get("type"), event.get("data", {})
            if kind == "psa_text" and data["node"] == node and words in data["text"] and not said:
                said = data["text"]
                async with session.post("/interrupt", json={}) as response:
                    assert response.status == 200
            if kind == "execution_interrupted":
                return said
            assert kind not in ("execution_error", "execution_success"), event
    raise AssertionError("the server closed the connection")
