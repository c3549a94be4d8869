"""`psa convert`: an adapter in either published format to `.safetensors`."""

import argparse
from pathlib import Path

import torch

from ..adapter.files import load_adapter, save_adapter
from ..adapter.model import PSAAdapter
from ..outputs import check_no_input, check_target

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="an adapter: the published .bin, or .safetensors")
    parser.add_argument("output", help="the .safetensors file to write")
    parser.add_argument("--dtype", choices=_DTYPES, help="precision of the weights (default: as it is)")
    parser.add_argument("--encoder-id", metavar="ID", help="records which profile encoder it was trained with")
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")


def run(args: argparse.Namespace) -> int:
    adapter = load_adapter(args.input)
    output = Path(args.output)
    check_no_input(output, args.input)
    check_target(output, (".safetensors",), args.force)
    if args.encoder_id is not None:
        adapter.encoder_id = args.encoder_id
    save_adapter(adapter, output, _DTYPES[args.dtype] if args.dtype else _dtype(adapter))
    print(
        f"Wrote {output}: {adapter.family}, {len(adapter.layer_widths)} layers, embeddings of {adapter.embedding_dim}"
    )
    return 0


def _dtype(adapter: PSAAdapter) -> torch.dtype:
    dtypes = {parameter.dtype for parameter in adapter.parameters()}
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= set(_DTYPES.values()) else torch.float32
