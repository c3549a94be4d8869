"""`psa effect`: what an adapter does for whoever bans some categories, as a file that can be handed out."""

import argparse

from ..adapter.effect import save_effect, viewer_effect
from ..adapter.files import load_adapter
from ..adapter.model import PSAAdapter
from ..encoders.protocol import ProfileEncoder
from ..encoders.structured import BY_NAME
from ..errors import PSAError
from ..files import shown
from ..outputs import check_no_input, check_target
from ..profile import LEVELS
from ..schema import CATEGORIES
from .encode import add_encoder_arguments, given_encoder, given_profiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", help="an adapter, published or ours")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--banned", nargs="*", choices=CATEGORIES, metavar="CATEGORY", help="what the viewer must not see; may be none"
    )
    who.add_argument("--level", choices=LEVELS, help="what one of the paper's six viewers must not")
    who.add_argument("--profile", metavar="FILE.json", help="what this profile's viewer must not; nothing else of it")
    add_encoder_arguments(parser, default=None, told="the one that the adapter names")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.safetensors", help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")


def run(args: argparse.Namespace) -> int:
    output = check_target(args.output, (".safetensors",), args.force)
    check_no_input(output, args.adapter)
    adapter = load_adapter(args.adapter)
    banned = args.banned if args.banned is not None else given_profiles(args)[0].banned_categories
    effect = viewer_effect(adapter, _encoder(args, adapter), banned)
    save_effect(effect, output)
    print(f"Wrote {output}: {adapter.family}, {len(effect.layers)} layers, {output.stat().st_size / 1e6:.2f} MB")
    return 0


def _encoder(args: argparse.Namespace, adapter: PSAAdapter) -> ProfileEncoder:
    if args.encoder is not None or args.llm is not None:
        return given_encoder(args)
    for encoder in BY_NAME.values():
        if adapter.encoder_id == encoder.id:
            return encoder()
    if adapter.encoder_id is None:
        raise PSAError("The adapter's file does not say which encoder it takes. Give --encoder, or --llm FOLDER.")
    raise PSAError(
        f"The adapter takes the encoder '{shown(adapter.encoder_id, 60)}'. Give its language model by --llm FOLDER."
    )
