"""`psa prompts`: a list of concepts to pairs of prompts, one that shows a concept and one that does not."""

import argparse
from pathlib import Path
from typing import Any

from ..chat_server import RemoteAddressError
from ..concepts.answers import AnswerLog
from ..concepts.lists import PLACEHOLDERS, Concept, read_concepts
from ..concepts.making import Counts, is_set_aside_list, make_prompts, summary, write_set_aside
from ..concepts.pairs import write_prompt_pairs
from ..concepts.scenes import SceneSource, TemplateScenes
from ..concepts.writers import ModelWriter, PromptWriter, ServerWriter, TemplateWriter
from ..errors import PSAError
from ..files import existing_file
from ..language_model import OnDevice
from ..mini.scenes import MiniScenes, mini_concepts
from ..outputs import check_folder, check_no_input, check_not_there, write_output
from ..processes import chosen_device
from .progress import show_count

_MINI, _EXAMPLES = "mini", "placeholders"
_OPTIONS = {
    "templates": (),
    "model": ("llm", "device"),
    "server": ("address", "server_model", "api_key_env", "allow_remote"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "concepts",
        metavar="CONCEPTS.txt",
        help="a line '# Category', then a concept a line, with hints after '='. In place of a file: placeholders (mild "
        "stand-ins, to try it) or mini (the seven symbols of PSA Mini)",
    )
    parser.add_argument("output", metavar="OUT.jsonl", help="the pairs; all answers are kept in OUT.answers.jsonl")
    counts = Counts()
    parser.add_argument("--pairs", type=int, default=counts.pairs, help="pairs a concept (default: %(default)s)")
    parser.add_argument(
        "--implied",
        type=float,
        default=counts.implied,
        metavar="SHARE",
        help="the share of them that imply the concept without its words (default: %(default)s)",
    )
    parser.add_argument(
        "--harmless", type=int, default=0, metavar="N", help="scenes without a concept, for the trainer's anchor"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same scenes (default: %(default)s)")
    parser.add_argument(
        "--scenes", metavar="FILE", help="scenes to write into (default: everyday ones); or mini, PSA Mini's"
    )
    parser.add_argument("--force", action="store_true", help="replace another file of that name")
    parser.add_argument("--writer", choices=list(_OPTIONS), default="templates", help="default: %(default)s")
    model = parser.add_argument_group("--writer model")
    model.add_argument("--llm", metavar="FOLDER", help="a causal language model in Hugging Face layout")
    model.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    server = parser.add_argument_group("--writer server")
    server.add_argument(
        "--address", metavar="URL", help="an OpenAI-compatible server, such as http://127.0.0.1:8000/v1"
    )
    server.add_argument("--server-model", metavar="NAME", help="the model's name there")
    server.add_argument("--api-key-env", metavar="VARIABLE", help="the environment variable with the server's key")
    server.add_argument(
        "--allow-remote",
        action="store_true",
        default=None,
        help="let the address be another machine's, which then sees every concept and scene",
    )


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if output.suffix.lower() != ".jsonl":
        raise PSAError("Pairs of prompts are written as .jsonl. Let the output's name end so.")
    set_aside = output.with_name(f"{output.stem}.set-aside.jsonl")
    for path in (output, set_aside):
        check_no_input(path, args.concepts, *([args.scenes] if args.scenes else []))
    check_not_there(set_aside, args.force, is_set_aside_list, "it lists no pairs that this command set aside")
    check_folder(output.parent)  # before anything is asked
    concepts, scenes, writer = _concepts(args.concepts), _scenes(args), _writer(args)
    log_file = output.with_name(f"{output.stem}.answers.jsonl")
    counts = Counts(args.pairs, args.implied, args.harmless)
    made = make_prompts(concepts, writer, scenes, counts, args.seed, AnswerLog(log_file), show_count)
    answers = f" All answers are kept in {log_file}: nothing is asked again."
    write_output(output, lambda path: write_prompt_pairs(path, made.pairs), args.force, answers)
    listed = write_set_aside(set_aside, made)
    print(f"Wrote {output}: {summary(made, listed)}")
    return 0


def _concepts(name: str) -> list[Concept]:
    if name == _MINI:
        return mini_concepts()
    return read_concepts(PLACEHOLDERS if name == _EXAMPLES else existing_file(name, "list of concepts"))


def _scenes(args: argparse.Namespace) -> SceneSource:
    name = args.scenes or (_MINI if args.concepts == _MINI else None)
    return MiniScenes() if name == _MINI else TemplateScenes.read(name)


def _writer(args: argparse.Namespace) -> PromptWriter:
    given: dict[str, Any] = {name: getattr(args, name) for names in _OPTIONS.values() for name in names}
    for name, value in given.items():
        if value is not None and name not in _OPTIONS[args.writer]:
            raise PSAError(f"The writer '{args.writer}' takes no --{name.replace('_', '-')}. Leave it out.")
    if args.writer == "templates":
        return TemplateWriter()
    if args.writer == "model":
        if args.llm is None:
            raise PSAError("The writer 'model' needs --llm. Give a language model's folder.")
        return ModelWriter(args.llm, OnDevice(chosen_device(args.device)))
    if args.address is None or args.server_model is None:
        raise PSAError("The writer 'server' needs --address and --server-model. Give them.")
    try:
        return ServerWriter(args.address, args.server_model, args.api_key_env, bool(args.allow_remote))
    except RemoteAddressError as error:
        raise error.allowed("allow it with --allow-remote") from None
