"""The command `psa`: a module for each subcommand, imported when it is the one.

Little is imported here: what comes before `main` cannot be interrupted without a traceback.
"""

import errno
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import PSAError, bug_sentence
from .signals import stop_signals

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
_UNREAD = 128 + 13  # and of what SIGPIPE ends, as it ends most programs whose reader has gone


def main(argv: Sequence[str] | None = None) -> int:
    """Run `psa` with `argv`, by default the process's.

    Returns:
        The exit code: 0; 2 for what a person can mend; 70 for a bug of ours; 130 after Ctrl-C, 143 after SIGTERM, 129
        after SIGHUP; 141 where nobody reads what is printed any more.
    """
    _open_closed_streams()
    try:
        return _printed(_run(argv))
    except SystemExit as ending:  # a signal's, or the command line's
        ending.code = _printed(ending.code)
        raise


def _run(argv: Sequence[str] | None) -> int:
    before: dict[int, Any] = {}
    told: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        told.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        _terminate(number)

    try:
        minds_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell may shield us from it
        for number in (*stop_signals(), *([signal.SIGINT] if minds_ctrl_c else [])):
            before[number] = signal.signal(number, stop)
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
        _say(str(error))
        return _MENDABLE
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        _say(f"nobody reads what it prints any more. {_UNFINISHED}")
        return _UNREAD
    except OSError as error:  # a path too long, a folder that may not be entered
        from .files import os_sentence

        _say(os_sentence(error))
        return _MENDABLE
    except Exception as error:
        if told:  # which a library's import, in the middle of which it came, takes for an error of another kind
            return _interrupted() if told[0] == signal.SIGINT else 128 + told[0]
        _say(_bug_report(error))
        return _OURS
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted() -> int:
    _let_full_pipes_go()
    _say(f"interrupted. {_UNFINISHED}")
    return 128 + signal.SIGINT


def _terminate(number: int) -> None:
    """A signal unwinds as Ctrl-C does: what is half-written is removed, and no server outlives us.

    It may come while a print waits for a pipe that nobody reads. So nothing is printed here, and what such a pipe has
    not taken is let go: it would be waited for once more at the end.
    """
    _let_full_pipes_go()
    with suppress(OSError):
        os.write(2, f"psa: told to stop. {_UNFINISHED}\n".encode())
    sys.exit(128 + number)


def _say(sentence: str) -> None:
    """On stderr, where that can be: what it tells of may be that nothing can be printed."""
    with suppress(OSError):
        print(f"psa: {sentence}", file=sys.stderr)


def _printed(code: Any) -> Any:
    """Print what still waits to be, which at Python's own end would be a traceback where it fails; the exit code."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            _to_nowhere(number)
            is_unread = error.errno == errno.EPIPE
            if not code and not is_unread:
                _say(f"what it says cannot be written: {error.strerror}. Make room, or let it print elsewhere.")
            code = code or (_UNREAD if is_unread else _MENDABLE)
    return code


def _let_full_pipes_go() -> None:
    """Whatever is still to be printed where nobody reads is printed nowhere. On Windows nobody knows where that is."""
    for stream in (1, 2) if os.name != "nt" else ():
        with suppress(OSError, ValueError):
            if not select.select([], [stream], [], 0)[1]:
                _to_nowhere(stream)


def _open_closed_streams() -> None:
    """A file that is opened later must not become the place where errors are printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def _bug_report(error: Exception) -> str:
    """What to say of an error that nobody foresaw; where it came from goes into a file, what it said does not."""
    import tempfile
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    places = "\n".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    sentence = bug_sentence(error)
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
