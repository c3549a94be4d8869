"""The command `psa`: a module for each subcommand, imported when it is the one.

Little is imported here: what comes before `main` cannot be interrupted without a traceback.
"""

import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import PSAError, bug_sentence

if TYPE_CHECKING:
    from argparse import ArgumentParser

# Each is a module of `commands`, with `add_arguments(parser)` and `run(args) -> exit code`.
_COMMANDS = {
    "demo": "Draw prompts of PSA Mini for six viewers, in ComfyUI or without it.",
    "users": "Draw virtual users, as the Sage dataset's are.",
    "prompts": "Turn a list of concepts into pairs of prompts, with each concept and without it.",
    "encode": "Turn profiles into embeddings.",
    "effect": "Write what an adapter does for a viewer, to be handed out without adapter and profile.",
    "convert": "Write an adapter, published or ours, as .safetensors.",
    "build-dataset": "Draw pairs of pictures, or import them, as a data set for virtual users.",
    "dataset": "Check a data set of preference pairs.",
    "train": "Train an adapter.",
    "generate": "Draw a prompt file's pictures, for its users or for the levels.",
    "evaluate": "Measure what was drawn: what should not be there, and what should.",
    "mini": "Build and measure in PSA Mini, a small world of simple pictures.",
}
_UNFINISHED = "Unfinished: what is written is whole. The same command goes on from there, where there is something to."
_MENDABLE, _OURS = 2, 70  # exit codes: what a person can mend, and what we must


def main(argv: Sequence[str] | None = None) -> int:
    """Run `psa` with `argv`, by default the process's.

    Returns:
        The exit code: 0; 2 for what a person can mend; 70 for a bug of ours; 130 after Ctrl-C, 143 after SIGTERM.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, _terminate)
        import warnings

        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a terminal may lack letters that a file's name has
        argv = sys.argv[1:] if argv is None else list(argv)
        args = _parser(chosen=argv[0] if argv else "").parse_args(argv)
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # libraries' asides to programmers
            return args.run(args)
    except PSAError as error:
        print(f"psa: {error}", file=sys.stderr)
        return _MENDABLE
    except KeyboardInterrupt:
        _let_full_pipes_go()
        print(f"psa: interrupted. {_UNFINISHED}", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:  # a path too long, a folder that may not be entered, a pipe that nobody reads
        from .files import os_sentence

        print(f"psa: {os_sentence(error)}", file=sys.stderr)
        return _MENDABLE
    except Exception as error:
        print(_bug_report(error), file=sys.stderr)
        return _OURS
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: Any) -> None:
    """SIGTERM unwinds as Ctrl-C does: what is half-written is removed, and no server outlives us.

    It may come while a print waits for a pipe that nobody reads. So nothing is printed here, and what such a pipe has
    not taken is let go: it would be waited for once more at the end.
    """
    _let_full_pipes_go()
    with suppress(OSError):
        os.write(2, f"psa: told to stop. {_UNFINISHED}\n".encode())
    sys.exit(128 + signal.SIGTERM)


def _let_full_pipes_go() -> None:
    """Whatever is still to be printed where nobody reads is printed nowhere. On Windows nobody knows where that is."""
    for stream in (1, 2) if os.name != "nt" else ():
        with suppress(OSError, ValueError):
            if not select.select([], [stream], [], 0)[1]:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)


def _bug_report(error: Exception) -> str:
    """What to say of an error that nobody foresaw; where it came from goes into a file, what it said does not."""
    import tempfile
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    places = "\n".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    sentence = f"psa: {bug_sentence(error)}"
    try:
        handle, path = tempfile.mkstemp(prefix="psa-bug-", suffix=".txt", text=True)
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{type(error).__name__}\n{places}\n")
    except OSError:
        return f"{sentence}:\n{places}"
    return f"{sentence} with the file {path}. It tells where it happened, and nothing of what was read."


def _parser(chosen: str) -> "ArgumentParser":
    import argparse

    parser = argparse.ArgumentParser(prog="psa", description="Personalized Safety Alignment for image generators.")
    commands = parser.add_subparsers(metavar="command", required=True)
    for name, summary in _COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            # torch's import takes a Ctrl-C during numpy's for the absence of numpy, and goes on without it.
            import numpy  # noqa: F401

            command = import_module(".commands." + name.replace("-", "_"), __package__)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
