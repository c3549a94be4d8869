"""What the page hears of a run over its WebSocket."""

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Any

import aiohttp

from psa_core.comfy_server import ComfyServer

_PATIENCE = 600  # seconds
_LAST = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class Heard:
    """`messages` are the texts as they came; `said` is what each class of nodes says, in order."""

    messages: list[str]
    said: dict[str, list[str]]


def hear(server: ComfyServer, prompt: dict[str, dict[str, Any]]) -> Heard:
    """Run a prompt to its end, whichever that is."""
    return asyncio.run(asyncio.wait_for(_hear(server, prompt), _PATIENCE))


async def _hear(server: ComfyServer, prompt: dict[str, dict[str, Any]]) -> Heard:
    client, heard = uuid.uuid4().hex, Heard([], {})
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as response:
            assert response.status == 200, await response.text()
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            heard.messages.append(message.data)
            event = json.loads(message.data)
            if event["type"] == "psa_text":
                kind = prompt[event["data"]["node"].split(".")[0]]["class_type"]
                heard.said.setdefault(kind, []).append(event["data"]["text"])
            if event["type"] in _LAST:
                return heard
    raise AssertionError("the connection was closed")
