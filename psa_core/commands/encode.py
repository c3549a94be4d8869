"""`psa encode`: profiles to embeddings, in our format or the published one."""

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from ..encoders.cache import EmbeddingCache
from ..encoders.embedding import UserEmbedding, load_embedding, save_embedding
from ..encoders.language_model import BANNED_BY, BY_PROFILE, LanguageModelEncoder
from ..encoders.protocol import ProfileEncoder
from ..encoders.structured import BY_NAME
from ..errors import PSAError
from ..files import atomic_path, existing_file
from ..json_text import parse_json
from ..language_model import OnDevice
from ..outputs import check_folder, check_not_there
from ..processes import chosen_device
from ..profile import LEVELS, UserProfile
from ..users import read_users
from .progress import show_count

_LONGEST_PROFILE = 1 << 16  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--level", choices=LEVELS, help="one of the paper's six viewers")
    who.add_argument("--profile", metavar="FILE.json", help="a profile in Sage's spelling")
    who.add_argument("--users", metavar="FILE.csv", help="many, in the format of Sage's users.csv")
    add_encoder_arguments(parser, default="structured")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="out.safetensors: all profiles, a row each; out.npy: one profile, the published kind; a folder: one "
        "{User_ID}.npy a profile",
    )
    parser.add_argument("--force", action="store_true", help="replace files of those names that hold no embeddings")


def add_encoder_arguments(parser: argparse.ArgumentParser, default: str | None, told: str = "") -> None:
    """The options that say which encoder; `told` says in words what is meant where `default` is `None`."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--encoder",
        choices=list(BY_NAME),
        default=default,
        help="no model: structured, or structured-inferred, which does not see what is banned (default: "
        f"{default or told})",
    )
    how.add_argument("--llm", metavar="FOLDER", help="a causal language model in Hugging Face layout")
    llm = parser.add_argument_group("with --llm")
    llm.add_argument("--templates", metavar="FOLDER", help="holds get_embeds.txt and get_banned.txt (default: ours)")
    llm.add_argument(
        "--banned-by",
        choices=[_hyphenated(choice) for choice in BANNED_BY],
        help=f"who says what is banned (default: {BY_PROFILE})",
    )
    llm.add_argument("--cache", metavar="FOLDER", help="keeps embeddings from one run to the next")
    llm.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")


def run(args: argparse.Namespace) -> int:
    profiles = given_profiles(args)
    write = _embedding_writer(args.output, profiles, args.force)  # to fail before the work
    encoder = given_encoder(args)
    embedding = UserEmbedding(torch.cat(_rows(encoder, profiles)), encoder.id)
    write(embedding)
    print(f"Wrote {args.output}: {len(embedding)} x {embedding.dim}, by {encoder.id}")
    return 0


def given_profiles(args: argparse.Namespace) -> list[UserProfile]:
    """What --level, --users or --profile name."""
    if args.level:
        return [LEVELS[args.level]]
    if getattr(args, "users", None) is not None:  # also one that is called ""
        return read_users(args.users)
    path = existing_file(args.profile, "profile")
    try:
        with open(path, "rb") as file:
            data = parse_json(file.read(_LONGEST_PROFILE).decode("utf-8-sig"), once=True)
    except (OSError, ValueError):
        raise PSAError(
            f"{path.name} is not a JSON file in UTF-8, or has a name twice. Write the profile as one JSON object."
        ) from None
    return [UserProfile.from_dict(data)]


def given_encoder(args: argparse.Namespace) -> ProfileEncoder:
    """What the options of `add_encoder_arguments` name."""
    options = {"--templates": args.templates, "--banned-by": args.banned_by, "--cache": args.cache}
    if args.llm is None:
        for option, value in (options | {"--device": args.device}).items():
            if value is not None:
                raise PSAError(f"{option} is for language models. Add --llm FOLDER, or leave it out.")
        return BY_NAME[args.encoder]()
    return LanguageModelEncoder(
        args.llm,
        templates=args.templates,
        banned_by=next(choice for choice in BANNED_BY if _hyphenated(choice) == (args.banned_by or BY_PROFILE)),
        cache=None if args.cache is None else EmbeddingCache(args.cache),
        placement=OnDevice(chosen_device(args.device)),
    )


def _hyphenated(choice: str) -> str:
    return choice.replace(" ", "-")


def _rows(encoder: ProfileEncoder, profiles: list[UserProfile]) -> list[torch.Tensor]:
    rows = []
    for number, profile in enumerate(profiles, start=1):
        rows.append(encoder.encode([profile]).vectors)
        if len(profiles) > 1:
            show_count(number, len(profiles))
    return rows


def _embedding_writer(output: str, profiles: list[UserProfile], force: bool) -> Callable[[UserEmbedding], None]:
    """What writes the embedding; raises PSAError where that cannot be, before there is one."""
    if "\0" in output:
        raise PSAError("The path after -o holds a NUL character. Give another one.")
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)) or not path.suffix:
        names = [profile.user_id for profile in profiles]
        if None in names or len(set(names)) < len(names):
            raise PSAError("A folder gets one file a user, named by User_ID: each profile needs one of its own.")
        paths = [path / f"{name}.npy" for name in names]
    elif path.suffix == ".npy" and len(profiles) > 1:
        raise PSAError("A .npy file holds one profile. For more, give a folder or a .safetensors file.")
    elif path.suffix in (".npy", ".safetensors"):
        paths = [path]
    else:
        raise PSAError("Embeddings are written as .safetensors or .npy, or into a folder. Change the name after -o.")
    for each in paths:
        check_not_there(each, force, _holds_embeddings, "it holds no embeddings")
    check_folder(paths[0].parent)
    if path.suffix == ".safetensors":
        return lambda embedding: save_embedding(embedding, path)
    return lambda embedding: _write_npy_files(embedding, paths)


def _holds_embeddings(path: Path) -> bool:
    try:
        load_embedding(path)
    except PSAError:
        return False
    return True


def _write_npy_files(embedding: UserEmbedding, paths: list[Path]) -> None:
    """The published kind: a file a profile, float32 (D,). Not one takes its place before all are on the disk."""
    with ExitStack() as parts:
        for row, path in zip(embedding.vectors, paths, strict=True):
            with open(parts.enter_context(atomic_path(path, mode=0o600)), "wb") as file:
                np.save(file, row.numpy())
                file.flush()
                os.fsync(file.fileno())
