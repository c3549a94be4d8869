"""What the page hears of a run over its WebSocket, and what Cancel leaves of one."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from psa_core.comfy_server import ComfyServer

_PATIENCE = 600  # seconds
_LAST = ("execution_success", "execution_error", "execution_interrupted")
Prompt = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Heard:
    """`messages` are the texts as they came; `said` is what each class of nodes says, in order."""

    messages: list[str]
    said: dict[str, list[str]]


def hear(server: ComfyServer, prompt: Prompt) -> Heard:
    """Run a prompt to its end, whichever that is."""
    return asyncio.run(asyncio.wait_for(_hear(server, prompt), _PATIENCE))


def cancel_when_it_says(server: ComfyServer, prompt: Prompt, node: str, words: str) -> str:
    """Run a prompt, press Cancel once `node` says `words`, and return what it said when the run has ended by that."""
    return asyncio.run(asyncio.wait_for(_cancel_when_it_says(server, prompt, node, words), _PATIENCE))


async def _hear(server: ComfyServer, prompt: Prompt) -> Heard:
    heard = Heard([], {})
    async for message, _session in _run(server, prompt):
        heard.messages.append(message)
        event = json.loads(message)
        if event["type"] == "psa_text":
            kind = prompt[event["data"]["node"].split(".")[0]]["class_type"]
            heard.said.setdefault(kind, []).append(event["data"]["text"])
    return heard


async def _cancel_when_it_says(server: ComfyServer, prompt: Prompt, node: str, words: str) -> str:
    said, event = "", {}
    async for message, session in _run(server, prompt):
        event = json.loads(message)
        data = event.get("data", {})
        if event["type"] == "psa_text" and data["node"] == node and words in data["text"] and not said:
            said = data["text"]
            async with session.post("/interrupt", json={}) as response:
                assert response.status == 200
    assert said and event["type"] == "execution_interrupted", event
    return said


async def _run(server: ComfyServer, prompt: Prompt) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """Queue a prompt; its texts as they come, up to the one that says how it ended."""
    client = uuid.uuid4().hex
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as response:
            assert response.status == 200, await response.text()
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            yield message.data, session
            if json.loads(message.data)["type"] in _LAST:
                return
    raise AssertionError("the connection was closed")
