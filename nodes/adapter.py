"""Adapters: from a file, and into one."""

from functools import partial

import torch
from comfy_api.latest import io

from ..psa_core.adapter.files import load_adapter, save_adapter
from ..psa_core.adapter.model import PSAAdapter
from ..psa_core.files import safe_file_name, shown
from . import sockets
from .comfy import folders
from .comfy.fingerprints import always_new
from .comfy.say import say

_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class LoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALoadAdapter",
            display_name="Load PSA Adapter (safety)",
            category=sockets.DRAWING,
            description="An adapter from models/psa_adapters: published (.bin or .safetensors), or trained here.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=folders.menu(folders.ADAPTERS),
                    tooltip="A .safetensors or .bin file in models/psa_adapters. No code in a .bin file is ever run.",
                )
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter", tooltip="For PSA Apply to Model.")],
            **sockets.aliases("psa_adapter.bin", "safety adapter loader", "nsfw", "filter"),
        )

    @classmethod
    def validate_inputs(cls, adapter_name=None) -> bool | str:
        return adapter_name is None or folders.check_file(folders.ADAPTERS, adapter_name)

    @classmethod
    def fingerprint_inputs(cls, adapter_name=None) -> str:
        return folders.file_fingerprint(folders.ADAPTERS, adapter_name)

    @classmethod
    def execute(cls, adapter_name) -> io.NodeOutput:
        adapter = load_adapter(folders.find_file(folders.ADAPTERS, adapter_name))
        say(_described(adapter))
        return io.NodeOutput(adapter)


def _described(adapter: PSAAdapter) -> str:
    tokens = "1 token" if adapter.num_tokens == 1 else f"{adapter.num_tokens} tokens"
    reads = f"profiles by {shown(adapter.encoder_id, 60)}" if adapter.encoder_id else "embeddings of its own encoder"
    return f"for {adapter.family}: {len(adapter.layer_widths)} layers, {tokens} a profile; reads {reads}"


class SaveAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSASaveAdapter",
            display_name="Save PSA Adapter",
            category=sockets.DRAWING,
            description="Writes an adapter as .safetensors into models/psa_adapters. Never replaces a file: a taken "
            "name gets a number.",
            inputs=[
                sockets.Adapter.Input("adapter", tooltip="The adapter to keep."),
                io.String.Input("name", default="adapter", tooltip="The file's name, without a folder or an ending."),
                io.Combo.Input(
                    "precision",
                    options=list(_PRECISIONS),
                    default="float32",
                    tooltip="float32 keeps every bit; the others halve the file.",
                ),
            ],
            is_output_node=True,
            **sockets.aliases("export adapter", "convert adapter"),
        )

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        return name is None or folders.check_name(name, "adapter name")

    @classmethod
    def fingerprint_inputs(cls, **_inputs) -> str:
        return always_new()  # a file that was deleted is written again

    @classmethod
    def execute(cls, adapter, name, precision) -> io.NodeOutput:
        name = safe_file_name(name, "adapter name").removesuffix(".safetensors")
        write = partial(save_adapter, adapter, dtype=_PRECISIONS[precision])
        path = folders.save_new(folders.ADAPTERS, name, ".safetensors", write)
        return io.NodeOutput(ui={"text": (f"Saved {path.name}. Load PSA Adapter has it in its list.",)})
