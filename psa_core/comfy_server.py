"""A real ComfyUI: where it is, starting it with the pack in it, and talking to it.

The server runs on the loopback interface with folders of its own (`--base-directory`), so nothing of
a person's models, outputs, settings or queue is touched.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import PSAError
from .extras import require
from .json_text import parse_json

PACK = Path(__file__).absolute().parents[1]
"""The pack's folder, as far as the pack is there: an installed wheel holds `psa_core` alone."""

_BASE_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "bench", "tests")  # the pack runs without
_LOG_TAIL = 40  # lines shown when the server dies
_LOWEST = (0, 3, 64)  # the version of ComfyUI that the nodes need at least
_ANSWER_LIMIT = 60  # seconds

OnProgress = Callable[[str, int, int], None]
"""Called with a node's class, the step it is at, and how many it has (0 of 0 when it starts)."""


@dataclass(frozen=True)
class ComfyUI:
    """An installed ComfyUI: its folder and the Python that runs it."""

    folder: Path
    python: Path

    @property
    def version(self) -> tuple[int, ...] | None:
        """As it says of itself, such as (0, 3, 64); `None` where it does not."""
        try:
            text = (self.folder / "comfyui_version.py").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        found = re.search(r'__version__ = "(\d+(?:\.\d+)*)', text)
        return tuple(map(int, found[1].split("."))) if found else None


def find_comfyui() -> ComfyUI | None:
    """The ComfyUI of this machine, or `None`.

    Looked for at `$COMFYUI_PATH`, then around this pack (in its `custom_nodes`), then at
    `~/comfy/ComfyUI`. Its Python is `$COMFYUI_PYTHON`, else that of a virtual environment in its
    folder or beside it (`.venv`, `venv`), else the one that is running.

    Raises:
        PSAError: where one of the two variables is set and names nothing usable.
    """
    folder = _comfyui_folder()
    return comfyui_at(folder) if folder is not None else None


def comfyui_at(folder: Path) -> ComfyUI:
    """The ComfyUI in `folder`, with the Python that `find_comfyui` says."""
    return ComfyUI(folder, _comfyui_python(folder))


def _comfyui_folder() -> Path | None:
    if named := os.environ.get("COMFYUI_PATH"):
        folder = Path(named).expanduser().absolute()
        if not (folder / "main.py").is_file():
            raise PSAError(f"COMFYUI_PATH is {named}, but there is no main.py in it. Set it to ComfyUI's own folder.")
        return folder
    candidates = [PACK.parents[1]] if PACK.parent.name == "custom_nodes" else []
    candidates.append(Path(os.path.expanduser("~"), "comfy", "ComfyUI"))
    return next((folder for folder in candidates if (folder / "main.py").is_file()), None)


def _comfyui_python(folder: Path) -> Path:
    if named := os.environ.get("COMFYUI_PYTHON"):
        python = shutil.which(Path(named).expanduser())
        if python is None:
            raise PSAError(f"COMFYUI_PYTHON is {named}, but that is no program. Set it to the Python of ComfyUI.")
        return Path(python).absolute()
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    places = (place / name / inside for place in (folder, folder.parent) for name in (".venv", "venv"))
    return next((python for python in places if python.is_file()), Path(sys.executable))


class ComfyServer:
    """A ComfyUI server for the time of a `with` block, with the pack in its `custom_nodes`.

    Args:
        comfyui: which one to start.
        base: the folder that holds its `models`, `custom_nodes`, `user`, `input`, `output` and
            `temp`, made where absent and kept; without it a temporary one, removed at the end.
        packs: folder name in `custom_nodes` -> where that pack is; linked, or copied where the system
            has no links, in place of what has that name there.
        copy: copy the packs, without `.git` and the like, as an installer does.
        arguments: more of ComfyUI's command line.
        environment: more environment variables.
        startup_timeout: seconds until it must answer.

    Raises:
        PSAError: if it is too old; or with the end of its log, if it does not start or cannot load a pack. The first
            line is a sentence of its own.
    """

    def __init__(
        self,
        comfyui: ComfyUI,
        base: Path | str | None = None,
        packs: Mapping[str, Path] | None = None,
        copy: bool = False,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        startup_timeout: float = 180,
    ) -> None:
        self.comfyui = comfyui
        self.packs = {"comfyui-psa": PACK} if packs is None else dict(packs)
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._given_base = base
        self._copy = copy
        self._arguments = arguments
        self._environment = {**os.environ, **(environment or {})}
        self._startup_timeout = startup_timeout
        self._closing = ExitStack()

    def __enter__(self) -> "ComfyServer":
        require("demo", "Talking to ComfyUI", "aiohttp")
        _check_version(self.comfyui)
        with self._closing:  # anything that fails on the way takes down what was already there
            if self._given_base is None:
                self.base = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="comfyui-")))
            else:
                self.base = Path(self._given_base).absolute()
            self._fill_base()
            self._start()
            self._wait_until_ready()
            self._check_packs()
            self._closing = self._closing.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing.close()

    @property
    def log_file(self) -> Path:
        return self.base / "comfyui.log"

    @property
    def log(self) -> str:
        """All that the server has printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def _fill_base(self) -> None:
        for name in _BASE_FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for name, source in self.packs.items():
            _place(source, self.base / "custom_nodes" / name, self._copy)

    def _start(self) -> None:
        command: list[str | Path] = [
            *(self.comfyui.python, "main.py", "--cpu", "--disable-auto-launch"),
            *("--listen", "127.0.0.1", "--port", self.url.rpartition(":")[2]),
            *("--base-directory", self.base, "--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}"),
            *self._arguments,
        ]
        with open(self.log_file, "wb") as log:
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.comfyui.folder,
                    env=self._environment | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches us alone; we then stop the whole group
                )
            except OSError as error:
                raise PSAError(
                    f"{self.comfyui.python} cannot be started ({error.strerror}). Set COMFYUI_PYTHON to another Python."
                ) from error
        self._closing.callback(_stop, self._process)

    def _wait_until_ready(self) -> None:
        from aiohttp import ClientError

        deadline = time.monotonic() + self._startup_timeout
        while True:
            if self._process.poll() is not None:
                raise self._failure("ComfyUI stopped while starting")
            try:
                self._get("/system_stats")
                return
            except (OSError, ClientError, asyncio.TimeoutError):  # the last is no OSError before Python 3.11
                if time.monotonic() > deadline:
                    raise self._failure(f"ComfyUI did not answer within {self._startup_timeout:.0f} s") from None
            time.sleep(0.1)

    def _check_packs(self) -> None:
        for name in self.packs:
            if re.search(rf"\(IMPORT FAILED\): .*[/\\]{re.escape(name)}$", self.log, re.MULTILINE):
                raise self._failure(f"ComfyUI could not load the pack {name}")

    def _failure(self, what: str) -> PSAError:
        """An error that says what happened, the last error that the log names, and below it how the log ends."""
        named = re.findall(r"^[\w.]*(?:Error|Exception): .*", self.log, re.MULTILINE)
        reason = f" ({named[-1].strip().rstrip('.')})" if named else ""
        tail = "\n".join(self.log.splitlines()[-_LOG_TAIL:])
        return PSAError(f"{what}{reason}. Its log ends:\n{tail}")

    def object_info(self) -> dict[str, Any]:
        """Every node the server has: inputs, outputs, names."""
        return parse_json(self._get("/object_info"))

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What the server remembers of a prompt: the graph, the outputs, the messages."""
        return parse_json(self._get(f"/history/{prompt_id}")).get(prompt_id, {})

    def image(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """An image file as the server serves it, by an entry of a node's `images` output."""
        return self._get("/view", filename=filename, subfolder=subfolder, type=type)

    def interrupt(self) -> None:
        """Stop the prompt that is running, as the Cancel button does."""
        asyncio.run(self._ask("POST", "/interrupt", json={}))

    def queue(
        self,
        prompt: Mapping[str, Any],
        on_progress: OnProgress | None = None,
        timeout: float = 600,
        extra_data: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run a prompt graph (API format) to its end and return its outputs, by node id.

        Args:
            on_progress: told of every node that starts and every step it does.
            timeout: seconds.
            extra_data: goes with the prompt, such as `extra_pnginfo` with the editor's workflow.

        Raises:
            PSAError: with the node's own sentence, if the graph is not valid, or a node fails or is
                interrupted; or if it takes longer than `timeout`.
        """
        return self.history(self.run(prompt, on_progress, timeout, extra_data))["outputs"]

    def run(
        self,
        prompt: Mapping[str, Any],
        on_progress: OnProgress | None = None,
        timeout: float = 600,
        extra_data: Mapping[str, Any] | None = None,
    ) -> str:
        """As `queue`, returning the prompt's id, for `history`."""
        from aiohttp import ClientError

        try:
            return asyncio.run(asyncio.wait_for(self._run(prompt, on_progress, extra_data or {}), timeout))
        except ClientError:
            raise self._failure("ComfyUI stopped while working") from None
        except asyncio.TimeoutError:
            self.interrupt()
            raise PSAError(f"ComfyUI did not finish the workflow within {timeout:.0f} s.") from None

    async def _run(self, prompt: Mapping[str, Any], on_progress: OnProgress | None, extra_data: Mapping) -> str:
        import aiohttp

        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession(self.url) as session,
            session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
        ):
            body = {"prompt": prompt, "client_id": client, "extra_data": extra_data}
            async with session.post("/prompt", json=body) as response:
                answer = await response.json()
            if response.status != 200 or answer["node_errors"]:  # some outputs may be valid, and run
                raise PSAError(_validation_message(answer, prompt))
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    event = parse_json(message.data)
                    data = event.get("data", {})
                    # In a thread: `on_progress` may call this server, to interrupt it.
                    if data.get("prompt_id") == answer["prompt_id"] and await asyncio.to_thread(
                        _is_over, event["type"], data, prompt, on_progress
                    ):
                        return answer["prompt_id"]
        raise self._failure("ComfyUI closed the connection while working")

    def _get(self, path: str, **query: str) -> bytes:
        return asyncio.run(self._ask("GET", path, params=query))

    async def _ask(self, method: str, path: str, **content: Any) -> bytes:
        import aiohttp

        limit = aiohttp.ClientTimeout(_ANSWER_LIMIT)
        async with (
            aiohttp.ClientSession(self.url, timeout=limit) as session,
            session.request(method, path, **content) as response,
        ):
            if response.status != 200:
                raise PSAError(f"ComfyUI answered {response.status} ({response.reason}) to {path}.")
            return await response.read()


def _check_version(comfyui: ComfyUI) -> None:
    version = comfyui.version
    if version is not None and version < _LOWEST:
        found, lowest = (".".join(map(str, number)) for number in (version, _LOWEST))
        raise PSAError(
            f"The ComfyUI in {comfyui.folder} is version {found}, and {lowest} or later is needed. Update it."
        )


def _is_over(kind: str, data: Mapping[str, Any], prompt: Mapping[str, Any], on_progress: OnProgress | None) -> bool:
    """Whether a WebSocket event ends the prompt; tells `on_progress` of the others."""
    if kind == "execution_error":
        raise PSAError(f"{data['node_type']} failed: {data['exception_message'].strip()}")
    if kind == "execution_interrupted":
        raise PSAError("The workflow was interrupted.")
    if kind == "executing" and data["node"] is None:  # "execution_success" comes before the history is written
        return True
    if on_progress is not None and data.get("node") in prompt:
        name = prompt[data["node"]]["class_type"]
        if kind == "executing":
            on_progress(name, 0, 0)
        elif kind == "progress":
            on_progress(name, data["value"], data["max"])
    return False


def _validation_message(answer: Mapping[str, Any], prompt: Mapping[str, Any]) -> str:
    """One sentence for a graph that the server refused: what it said of each node."""
    said = [
        f"{prompt[node]['class_type']}: {error['message']} ({error['details']})"
        for node, report in (answer.get("node_errors") or {}).items()
        for error in report["errors"]
    ]
    return "ComfyUI refused the workflow. " + ("; ".join(said) or str(answer["error"]["message"]))


def _place(source: Path, target: Path, copy: bool) -> None:
    if target.exists() and not target.is_symlink() and target.samefile(source):
        return
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    if not copy:
        try:
            target.symlink_to(source, target_is_directory=True)
            return
        except OSError:  # Windows without developer mode, some network file systems
            pass
    shutil.copytree(source, target, ignore=_NOT_COPIED)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _stop(process: subprocess.Popen) -> None:
    """End the server and its children: asked first, then killed. A second Ctrl-C kills at once."""
    try:
        _signal(process, signal.SIGTERM)
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
            process.wait()


def _signal(process: subprocess.Popen, number: int) -> None:
    if process.poll() is not None:
        return
    if os.name == "nt":
        process.terminate()
    else:
        os.killpg(process.pid, number)
