"""`psa generate`: a prompt file's pictures, for its users or for the levels; in one process or `accelerate launch`."""

import argparse
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..adapter.files import adapter_id, load_adapter
from ..adapter.model import PSAAdapter
from ..encoders.everyone import EveryoneEncoder
from ..encoders.language_model import LanguageModelEncoder
from ..encoders.stored import StoredEncoder
from ..encoders.structured import BY_NAME
from ..errors import PSAError
from ..evaluate.measurements import BASE
from ..extras import require
from ..files import safe_file_name
from ..generate import BaseModel, Embed, Painter, Record, Settings, draw_missing, embed_with, plan, prompts_id
from ..generate.painter import PRECISIONS
from ..generate.run import Tell, told_by_embedding, told_by_profile, viewers_id
from ..json_text import digest
from ..language_model import OnDevice
from ..model_folder import fingerprint
from ..own_key import own_key
from ..processes import make_accelerator
from ..profile import LEVELS
from ..prompts import Prompt, read_prompts
from ..users import by_id, read_users
from .progress import Bar

PSA, GLOBAL = "psa", "safetydpo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", metavar="PROMPTS.csv", help="columns file_name and caption; user_id where known")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="SD1.5, SDXL or PSA Mini in diffusers layout")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="pictures go to OUT/{method}/{sd15, sdxl, mini}/[level_N/]"
    )
    parser.add_argument("--adapter", metavar="FILE", help="a PSA adapter; without it the base model draws")
    parser.add_argument(
        "--method", metavar="NAME", help=f"default: {BASE}; with an adapter {PSA}, or {GLOBAL} if it knows no profiles"
    )
    who = parser.add_argument_group("who looks (with --adapter)")
    who.add_argument(
        "--levels", nargs="+", metavar="LEVEL", help="draw each prompt for each of these: L0 ... L5, or all"
    )
    who.add_argument("--users", metavar="FILE.csv", help="draw each prompt for its user, whose profile is in this file")
    who.add_argument("--embeddings", metavar="FOLDER", help="take the users' embeddings from {User_ID}.npy files")
    who.add_argument("--llm", metavar="FOLDER", help="encode profiles with this language model")
    who.add_argument("--templates", metavar="FOLDER", help="with --llm: the prompt templates (default: ours)")
    how = parser.add_argument_group("how")
    how.add_argument("--steps", type=int, default=_default("steps"), help="default: %(default)s")
    how.add_argument("--guidance", type=float, default=_default("guidance"), help="default: %(default)s")
    how.add_argument("--negative-prompt", metavar="TEXT", default="", help="what to lead away from (default: nothing)")
    how.add_argument(
        "--guidance-rescale", type=float, default=0.0, metavar="SHARE", help="0 to 1; against overexposure (default: 0)"
    )
    how.add_argument("--seed", type=int, default=_default("seed"), help="default: %(default)s")
    how.add_argument(
        "--strength", type=float, default=_default("strength"), help="the adapter's (default: %(default)s)"
    )
    how.add_argument("--size", type=int, metavar="PIXELS", help="a picture's sides (default: the model's)")
    how.add_argument("--precision", choices=PRECISIONS, help="default: fp16 on a GPU, fp32 elsewhere")
    how.add_argument("--batch-size", type=int, default=1, help="pictures at a time, for any mix of users (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Draw what is missing. Each process of a launch draws its share, every n-th picture."""
    require("train", "Drawing from a model folder", "diffusers", "tqdm", "transformers")
    accelerator = make_accelerator()
    base = BaseModel.read(args.model)
    adapter = None if args.adapter is None else load_adapter(args.adapter)
    viewers = _viewers(args, adapter, accelerator.device)
    prompts = read_prompts(args.prompts)
    folder = Path(args.out) / _method(args, adapter) / base.kind
    personal = bool(args.users or (args.embeddings and not viewers.levels))
    pictures = plan(prompts, folder, viewers.levels, personal)
    settings = _settings(args, base, accelerator.device)
    if accelerator.is_main_process:
        record = Record(
            kind=base.kind,
            model=fingerprint(base.folder, list(base.parts)),
            adapter=None if adapter is None else adapter_id(adapter),
            encoder=viewers.encoder_id,
            prompts=prompts_id(prompts, personal),
            settings=settings,
            viewers=viewers_id(pictures, viewers.levels, viewers.tell, own_key()) if viewers.tell else {},
        )
        record.claim(folder, pictures, _first_format(args, prompts))
    accelerator.wait_for_everyone()
    share = pictures[accelerator.process_index :: accelerator.num_processes]
    with Bar(accelerator.is_main_process, "picture") as bar:
        drawn = draw_missing(
            share,
            lambda: Painter(base, accelerator.device, settings.precision),
            settings,
            args.batch_size,
            adapter,
            viewers.embed,
            bar.show,
        )
    print(f"{drawn} pictures drawn, {len(share) - drawn} were there{_of_process(accelerator)}: {folder}", flush=True)
    return 0


def _default(setting: str) -> Any:
    return Settings.model_fields[setting].default


def _first_format(args: argparse.Namespace, prompts: list[Prompt]) -> dict[str, str | None]:
    """What `generation.json` once held: a hash of the adapter's file, and of the prompts with their categories."""
    file = None if args.adapter is None else hashlib.blake2b(Path(args.adapter).read_bytes()).hexdigest()[:32]
    return {"adapter": file, "prompts": digest([(p.file_name, p.caption, p.category, p.user_id) for p in prompts])}


def _settings(args: argparse.Namespace, base: BaseModel, device: torch.device) -> Settings:
    return Settings(
        steps=args.steps,
        guidance=args.guidance,
        guidance_rescale=args.guidance_rescale,
        negative_prompt=args.negative_prompt,
        seed=args.seed,
        strength=args.strength,
        size=base.size if args.size is None else args.size,
        precision=args.precision or ("fp16" if device.type == "cuda" else "fp32"),
    )


def _method(args: argparse.Namespace, adapter: PSAAdapter | None) -> str:
    if args.method is not None:
        return safe_file_name(args.method, "method's name")
    if adapter is None:
        return BASE
    return GLOBAL if adapter.encoder_id == EveryoneEncoder.id else PSA


@dataclass(frozen=True)
class _Viewers:
    """Levels to draw for, where users' embeddings come from, their encoder's id, and what stands for them in a record:
    nothing where the levels' own profiles are encoded, which are the pack's."""

    levels: list[str] = field(default_factory=list)
    embed: Embed | None = None
    encoder_id: str | None = None
    tell: Tell | None = None


def _viewers(args: argparse.Namespace, adapter: PSAAdapter | None, device: torch.device) -> _Viewers:
    given = [name for name in ("levels", "users", "embeddings", "llm") if getattr(args, name) is not None]
    if args.templates is not None and args.llm is None:
        raise PSAError("--templates is for language models. Add --llm FOLDER, or leave it out.")
    if adapter is None or adapter.encoder_id == EveryoneEncoder.id:
        if given:
            what = "The base model" if adapter is None else "This adapter"
            raise PSAError(f"{what} draws the same for everyone: leave out --{given[0]}, or give a PSA adapter.")
        if adapter is None:
            return _Viewers()
        return _Viewers(embed=embed_with(EveryoneEncoder(), {None: LEVELS["L0"]}), encoder_id=EveryoneEncoder.id)
    if args.users and (args.levels or args.embeddings):
        raise PSAError("Give --users alone: the levels are users of their own, and embeddings need no profiles.")
    if args.embeddings and args.llm:
        raise PSAError("Give --embeddings or --llm: stored embeddings need no encoder.")
    levels = list(LEVELS) if args.levels == ["all"] else list(args.levels or [])
    if args.embeddings:
        embed = StoredEncoder(args.embeddings).look_up
        return _Viewers(levels, embed, tell=told_by_embedding(embed))
    if not levels and not args.users:
        raise PSAError("Say who looks: --levels all, --users users.csv, or --embeddings with a folder.")
    encoder = _encoder(args, adapter, device)
    profiles = by_id(list(LEVELS.values()) if levels else read_users(args.users))
    return _Viewers(levels, embed_with(encoder, profiles), encoder.id, None if levels else told_by_profile(profiles))


def _encoder(args: argparse.Namespace, adapter: PSAAdapter, device: torch.device) -> Any:
    if args.llm:
        return LanguageModelEncoder(args.llm, args.templates, placement=OnDevice(device), keep_loaded=False)
    for kind in BY_NAME.values():
        if adapter.encoder_id == kind.id:
            return kind()
    raise PSAError(
        "This adapter's embeddings come from a language model. Give its folder with --llm, or stored ones with "
        "--embeddings (psa encode makes them)."
    )


def _of_process(accelerator: Any) -> str:
    if accelerator.num_processes == 1:
        return ""
    return f" (process {accelerator.process_index + 1} of {accelerator.num_processes})"
