"""Prompt graphs in ComfyUI's API format in a few lines, and what a server draws from them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_safetensors

from psa_core.comfy_server import ComfyServer

Link = list  # [node id, number of its output], as the API format has it
PROFILE_WIDGETS = {
    "preset": "custom",
    "age": 30,
    "gender": "male",
    "religion": "None",
    "physical_condition": "healthy",
    "mental_condition": "healthy",
    "banned": "by the rules",
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
        widgets = {"seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        return self.add(
            "KSampler",
            model=model,
            positive=self.positive,
            negative=self.negative,
            latent_image=latent,
            **widgets | settings,
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
    prompt_id: str
    ran: set[str] = field(default_factory=set)


def draw(server: ComfyServer, graph: Graph, **queueing: Any) -> Drawing:
    """Run a graph to its samples, and save and read back latents and pictures."""
    images = graph.add("VAEDecode", samples=graph.samples, vae=graph.vae)
    graph.add("SaveImage", images=images, filename_prefix="test")
    graph.add("SaveLatent", samples=graph.samples, filename_prefix="test")
    ran: set[str] = set()
    prompt_id = server.run(graph.prompt, on_progress=lambda name, *_: ran.add(name), **queueing)
    outputs = server.history(prompt_id)["outputs"].values()
    files = [server.image(**image) for entry in outputs for image in entry.get("images", ())]
    (latents,) = (load_safetensors(server.image(**file)) for entry in outputs for file in entry.get("latents", ()))
    pictures = np.stack([np.asarray(Image.open(BytesIO(file)).convert("RGB"), dtype=np.float32) / 255 for file in files])
    return Drawing(latents["latent_tensor"], pictures, files, prompt_id, ran)


def draw_all(server: ComfyServer, *graphs: Graph) -> list[Drawing]:
    return [draw(server, graph) for graph in graphs]


def same(a: Drawing, b: Drawing) -> bool:
    """Bit for bit."""
    return torch.equal(a.latents, b.latents) and np.array_equal(a.pictures, b.pictures)


def differ(a: Drawing, b: Drawing) -> bool:
    """Visibly: some pixel by more than 8 of 255 steps."""
    return bool(np.abs(a.pictures - b.pictures).max() > 8 / 255)
