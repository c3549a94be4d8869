"""The command `psa`: a module for each subcommand, imported when it is the one."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from .errors import PSAError

# Subcommand -> its module, with `add_arguments(parser)` and `run(args) -> exit code`; and what it does.
_COMMANDS = {
    "demo": ("psa_core.commands.demo", "Draw prompts of PSA Mini for six viewers, in ComfyUI or without it."),
    "encode": ("psa_core.commands.encode", "Turn profiles into embeddings."),
    "convert": ("psa_core.commands.convert", "Write an adapter, published or ours, as .safetensors."),
    "train": ("psa_core.commands.train", "Train an adapter."),
    "generate": ("psa_core.commands.generate", "Draw a prompt file's pictures, for its users or for the levels."),
    "evaluate": ("psa_core.commands.evaluate", "Measure what was drawn: what should not be there, and what should."),
    "mini": ("psa_core.commands.mini", "Build and measure in PSA Mini, a small world of simple pictures."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `psa` with `argv`, by default the process's; returns the exit code: 0, or 2 for what a person can mend."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser(chosen=argv[0] if argv else "").parse_args(argv)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # libraries' asides to programmers
            return args.run(args)
    except PSAError as error:
        print(f"psa: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("psa: interrupted", file=sys.stderr)
        return 130


def _parser(chosen: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="psa", description="Personalized Safety Alignment for image generators.")
    commands = parser.add_subparsers(metavar="command", required=True)
    for name, (module, summary) in _COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            command = import_module(module)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
