"""Prompt graphs in ComfyUI's API format in a few lines, and what a server draws from them."""

import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_safetensors

from psa_core.comfy_server import ComfyServer
from psa_core.errors import PSAError

Link = list  # [node id, number of its output], as the API format has it
PROFILE_WIDGETS = {
    "preset": "custom",
    "age": 30,
    "gender": "male",
    "religion": "None",
    "physical_condition": "healthy",
    "mental_condition": "healthy",
    "banned": "protective",
    **{
        f"ban_{category}": False
        for category in ("harassment", "hate", "propaganda", "self_harm", "sexuality", "shocking", "violence")
    },
}


class Graph:
    """A prompt, grown node by node; `prompt` is what the server takes.

    `txt2img` sets the links that further nodes need: `model`, `positive`, `negative`, `samples`, `vae`.
    """

    def __init__(self) -> None:
        self.prompt: dict[str, dict[str, Any]] = {}

    def add(self, class_type: str, **inputs: Any) -> Link:
        """Add a node; returns the link to its first output."""
        node = str(len(self.prompt) + 1)
        self.prompt[node] = {"class_type": class_type, "inputs": inputs}
        return [node, 0]

    def sample(self, model: Link, latent: Link, **settings: Any) -> Link:
        widgets = {"seed": 1, "steps": 2, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        return self.add(
            "KSampler",
            model=model,
            positive=self.positive,
            negative=self.negative,
            latent_image=latent,
            **widgets | settings,
        )

    def sample_steps(self, model: Link, latent: Link, first: int, last: int, steps: int = 3) -> Link:
        """A part of sampling: steps `first` to `last` of the simple scheduler's `steps`."""
        return self.add(
            "KSamplerAdvanced",
            model=model,
            positive=self.positive,
            negative=self.negative,
            latent_image=latent,
            add_noise="enable" if first == 0 else "disable",
            noise_seed=1,
            steps=steps,
            cfg=7.0,
            sampler_name="euler",
            scheduler="simple",
            start_at_step=first,
            end_at_step=last,
            return_with_leftover_noise="enable" if last < steps else "disable",
        )


def output(link: Link, number: int) -> Link:
    """Another output of the same node."""
    return [link[0], number]


Patch = Callable[[Graph, Link], Link]
"""Adds nodes to a graph that take a MODEL and give one."""


def txt2img(
    *patches: Patch,
    checkpoint: str = "sd15.safetensors",
    size: int = 64,
    batch: int = 1,
    latent: Callable[[Graph], Link] | None = None,
    control: Callable[[Graph], None] | None = None,
    **settings: Any,
) -> Graph:
    """A prompt becomes a picture, by the checkpoint's model with `patches` in this order.

    Args:
        size: the picture's width and height in pixels.
        latent: adds the latents to start from, in place of `batch` empty ones.
        control: changes the graph's `positive` and `negative`.
        settings: of the KSampler.
    """
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoint)
    clip, graph.vae = output(loader, 1), output(loader, 2)
    graph.model = loader
    for patch in patches:
        graph.model = patch(graph, graph.model)
    graph.positive = graph.add("CLIPTextEncode", clip=clip, text="a quiet harbour at dawn")
    graph.negative = graph.add("CLIPTextEncode", clip=clip, text="")
    if control is not None:
        control(graph)
    start = latent(graph) if latent else graph.add("EmptyLatentImage", width=size, height=size, batch_size=batch)
    graph.samples = graph.sample(graph.model, start, **settings)
    return graph


def profile_node(graph: Graph, **widgets: Any) -> Link:
    return graph.add("PSAUserProfile", **PROFILE_WIDGETS | widgets)


def encode(graph: Graph, *profiles: Link, **inputs: Any) -> Link:
    more = {f"profile_{number}": profile for number, profile in enumerate(profiles[1:], start=2)}
    return graph.add("PSAEncode", profile=profiles[0], **more, **inputs)


def apply(graph: Graph, model: Link, embedding: Link, adapter: str | Link = "psa.safetensors", **settings) -> Link:
    if isinstance(adapter, str):
        adapter = graph.add("PSALoadAdapter", adapter_name=adapter)
    widgets = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    return graph.add("PSAApply", model=model, adapter=adapter, embedding=embedding, **widgets | settings)


def psa(*levels: str, adapter: str = "psa.safetensors", **settings: Any) -> Patch:
    """PSA Apply for viewers of the given levels."""

    def patch(graph: Graph, model: Link) -> Link:
        profiles = [profile_node(graph, preset=level) for level in levels]
        return apply(graph, model, encode(graph, *profiles), adapter, **settings)

    return patch


def psa_stored(name: str, adapter: str = "psa.safetensors") -> Patch:
    """PSA Apply for the viewer whose profile is stored as `name`."""

    def patch(graph: Graph, model: Link) -> Link:
        return apply(graph, model, encode(graph, graph.add("PSALoadProfile", profile_name=name)), adapter)

    return patch


def psa_embedding(file: str, adapter: str = "psa.safetensors") -> Patch:
    """PSA Apply for the viewers of an embedding file."""

    def patch(graph: Graph, model: Link) -> Link:
        return apply(graph, model, graph.add("PSALoadEmbedding", embedding_name=file), adapter)

    return patch


@dataclass
class Drawing:
    """What one run of a graph gave.

    Args:
        latents: (B, 4, h, w) float32, exactly as sampled.
        pictures: (B, H, W, 3), 0 to 1, as read from the saved files.
        files: the saved PNG files.
        ran: the classes of the nodes that ran; what ComfyUI took from its cache is not among them.
    """

    latents: torch.Tensor
    pictures: np.ndarray
    files: list[bytes]
    ran: set[str]


def draw(server: ComfyServer, graph: Graph, user: str | None = None) -> Drawing:
    """Run a graph to its samples, and save and read back latents and pictures.

    Args:
        user: who queues it, by ComfyUI's user id, with `--multi-user`.

    Raises:
        PSAError: as `ComfyServer.run`.
    """
    save(graph)
    prompt_id = server.run(graph.prompt) if user is None else wait(server, queue_as(server, graph, user))
    return drawing(server, prompt_id)


def save(graph: Graph) -> None:
    """Add the nodes that save a graph's samples, as latents and as pictures."""
    images = graph.add("VAEDecode", samples=graph.samples, vae=graph.vae)
    graph.add("SaveImage", images=images, filename_prefix="test")
    graph.add("SaveLatent", samples=graph.samples, filename_prefix="test")


def drawing(server: ComfyServer, prompt_id: str) -> Drawing:
    """What a finished prompt drew."""
    history = server.history(prompt_id)
    outputs = history["outputs"].values()
    files = [server.image(**image) for entry in outputs for image in entry.get("images", ())]
    (latents,) = (load_safetensors(server.image(**file)) for entry in outputs for file in entry.get("latents", ()))
    pictures = [np.asarray(Image.open(BytesIO(file)).convert("RGB"), dtype=np.float32) / 255 for file in files]
    cached = {
        node for kind, data in history["status"]["messages"] if kind == "execution_cached" for node in data["nodes"]
    }
    ran = {node["class_type"] for number, node in history["prompt"][2].items() if number not in cached}
    return Drawing(latents["latent_tensor"], np.stack(pictures), files, ran)


def add_small_picture(graph: Graph) -> None:
    """A picture that costs nothing: ComfyUI writes the graph, as it is executed, into it."""
    other_each_time = secrets.randbelow(2**24)  # else it comes out of the cache, with an earlier graph in it
    image = graph.add("EmptyImage", width=16, height=16, batch_size=1, color=other_each_time)
    graph.add("SaveImage", images=image, filename_prefix="small")


def forget(server: ComfyServer) -> None:
    """Empty ComfyUI's cache and unload its models, before the next prompt.

    `/free` only leaves a note. The thread that runs prompts reads it after a prompt, so one that is queued at once may
    still be answered from the cache: another one goes before it.
    """
    call(server, "/free", {"free_memory": True, "unload_models": True})
    graph = Graph()
    add_small_picture(graph)
    server.run(graph.prompt)


def in_picture(server: ComfyServer, history: dict[str, Any]) -> dict[str, Any]:
    """The graph in a finished prompt's picture, with the fingerprints (`is_changed`) that ComfyUI keeps there."""
    (image,) = (image for entry in history["outputs"].values() for image in entry.get("images", ()))
    return json.loads(Image.open(BytesIO(server.image(**image))).text["prompt"])


def queue_as(server: ComfyServer, graph: Graph, user: str) -> str:
    """Queue a graph as one of ComfyUI's users; returns the prompt's id at once."""
    status, answer = call(server, "/prompt", {"prompt": graph.prompt}, user)
    report = json.loads(answer)
    if status != 200:
        raise PSAError(f"ComfyUI refused the workflow. {json.dumps(report['node_errors'])}")
    return report["prompt_id"]


def wait(server: ComfyServer, prompt_id: str, timeout: float = 120) -> str:
    """Until a queued prompt is done; returns its id."""
    deadline = time.monotonic() + timeout
    while not (history := server.history(prompt_id)):
        if time.monotonic() > deadline:
            raise PSAError(f"The prompt was not done within {timeout:.0f} s.")
        time.sleep(0.1)
    for kind, data in history["status"]["messages"]:
        if kind == "execution_error":
            raise PSAError(f"{data['node_type']} failed: {data['exception_message'].strip()}")
    return prompt_id


def call(
    server: ComfyServer, path: str, data: object = None, user: str | None = None, method: str | None = None
) -> tuple[int, bytes]:
    """One request to the server, `data` as JSON: the status and the body, whatever the status is."""
    body = None if data is None else json.dumps(data).encode()
    headers = {"Content-Type": "application/json"} | ({"comfy-user": user} if user else {})
    request = urllib.request.Request(server.url + path, body, headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def draw_all(server: ComfyServer, *graphs: Graph) -> list[Drawing]:
    return [draw(server, graph) for graph in graphs]


def same(a: Drawing, b: Drawing) -> bool:
    """Bit for bit."""
    return torch.equal(a.latents, b.latents) and np.array_equal(a.pictures, b.pictures)


def close(a: Drawing, b: Drawing) -> bool:
    """To one step of a saved picture: what another order of summation may change."""
    return bool(np.abs(a.pictures - b.pictures).max() <= 1.001 / 255)


def differ(a: Drawing, b: Drawing) -> bool:
    """Visibly: some pixel by more than 8 of 255 steps."""
    return bool(np.abs(a.pictures - b.pictures).max() > 8 / 255)
