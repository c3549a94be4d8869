"""Vision-language judges: a model looks at the picture, hears what its viewer bans and allows, and answers in JSON.

What the model hears of a viewer are two lists of categories (`questions`), which tell something of a person. So a
server on another machine gets them, the prompts and the pictures only where that is allowed in so many words.
"""

import base64
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..chat_server import ATTEMPTS, ChatServer, Waiting
from ..errors import PSAError
from ..model_folder import fingerprint
from ..pretrained import load_model, load_part
from .judging import Outcome, Pair, Question, Tell, Verdict, check_counts, tell_nobody
from .questions import (
    AGAIN,
    PAIR_AGAIN,
    SWAPPED,
    pair_request,
    read_pair_reply,
    read_reply,
    request,
    wording_digest,
)

_REPLY_TOKENS = 1024  # room for a model that thinks aloud
_REPEATED = 4000  # characters of a reply that could not be read, repeated to the model that is asked again
_CHECKED = Image.new("RGB", (64, 64), (128, 128, 128))

_WHAT = "vision-language model"

Message = dict[str, str]
"""`role` and `content`; the picture goes with the first one."""


class _ChatJudge:
    """What judges have in common that put a question into words and read an answer in JSON."""

    name: str
    hears_viewer = True
    _at_once = 1
    _stopped = threading.Event()

    def judge(
        self, pictures: Sequence[Image.Image], questions: Sequence[Question], tell: Tell = tell_nobody
    ) -> list[Verdict]:
        """One verdict a picture.

        Raises:
            PSAError: where the model cannot be reached or refuses, or an answer cannot be read after all attempts.
        """
        check_counts(pictures, questions)

        def answer(number: int) -> Verdict:
            question = questions[number]
            return self._answer([pictures[number]], _Asked(request(question), AGAIN, lambda r: read_reply(r, question)))

        return self._each(len(pictures), answer, tell)

    def compare(self, pairs: Sequence[Pair], questions: Sequence[Question], tell: Tell = tell_nobody) -> list[Outcome]:
        """Which of each two pictures serves the viewer better; both orders are asked, and must agree.

        Raises:
            PSAError: as `judge` does.
        """
        check_counts(pairs, questions)

        def answer(number: int) -> Outcome:
            asked = _Asked(pair_request(questions[number]), PAIR_AGAIN, read_pair_reply)
            first, second = pairs[number]
            one, other = self._answer([first, second], asked), self._answer([second, first], asked)
            return one if one == SWAPPED[other] else "tie"

        return self._each(len(pairs), answer, tell)

    def _each(self, count: int, answer: Callable[[int], Any], tell: Tell) -> list[Any]:
        """The answers in order, `_at_once` at a time. After a failure no further one is asked for."""
        self._stopped = threading.Event()
        lock = threading.Lock()

        def one(number: int) -> Any:
            found = answer(number)
            with lock:
                tell(number, found)
            return found

        if self._at_once == 1:  # in this thread, whose modes (ComfyUI's inference mode) a local model was loaded under
            return [one(number) for number in range(count)]
        with ThreadPoolExecutor(self._at_once) as pool:
            futures = [pool.submit(one, number) for number in range(count)]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _answer(self, pictures: Sequence[Image.Image], asked: "_Asked") -> Any:
        messages: list[Message] = [{"role": "user", "content": asked.text}]
        for _ in range(ATTEMPTS):
            reply = self._reply(pictures, messages)
            found = asked.read(reply)
            if found is not None:
                return found
            said = {"role": "assistant", "content": reply[-_REPEATED:]}
            messages = [messages[0], said, {"role": "user", "content": asked.again}]
        raise PSAError(
            f"The judge {self.name} gave no verdict that can be read, {ATTEMPTS} times. Use a model that follows "
            "instructions and sees pictures."
        )

    def _reply(self, pictures: Sequence[Image.Image], messages: list[Message]) -> str:
        raise NotImplementedError


class VisionLanguageJudge(_ChatJudge):
    """A model behind an OpenAI-compatible address: vLLM, Ollama, llama.cpp, ...

    A picture is sent as PNG without its metadata. Answers that cannot be read are asked for again, three
    times in all; then judging stops with an error, and no verdict is made up. How the server is
    reached is `ChatServer`'s.

    Args:
        address: such as http://127.0.0.1:8000/v1.
        model: its name on the server.
        api_key_env: the NAME of the environment variable that holds the server's key; `None` sends none.
        allow_remote: whether the address may be another machine's, which then learns the pictures, the
            prompts, and what each viewer bans.
        timeout: seconds to wait for an answer.
        at_once: requests in flight.
        wait: seconds before the second attempt at a server that is busy or away, doubled for each further one.
        waiting: hears what is waited for, from several threads; what it raises ends the judging.

    Raises:
        PSAError: for an address that is no http(s) address, or another machine's without `allow_remote`; or a
            variable that is not set.
    """

    def __init__(
        self,
        address: str,
        model: str,
        api_key_env: str | None = None,
        allow_remote: bool = False,
        timeout: float = 120.0,
        at_once: int = 4,
        wait: float = 15.0,
        waiting: Waiting | None = None,
    ) -> None:
        self.name = f"vision-language ({model})"
        self._model, self._at_once = model, at_once
        self._server = ChatServer(
            address,
            api_key_env,
            allow_remote,
            timeout,
            wait,
            what="vision-language",
            whose="vision-language judge",
            sees="every picture and prompt, and what each viewer bans",
            waiting=waiting,
        )

    def identity(self) -> str:
        return f"{wording_digest()} {self._server.url} {self._model}"

    def check(self, captions: Sequence[str]) -> None:
        """Show the model a grey picture, so that a server that is not there or does not know the model says so.

        Raises:
            PSAError: where it cannot be reached or refuses.
        """
        question = {"role": "user", "content": request(Question("a grey square"))}
        self._server.check(self._body([_CHECKED], [question]))

    def _reply(self, pictures: Sequence[Image.Image], messages: list[Message]) -> str:
        return self._server.post(self._body(pictures, messages), self._stopped)

    def _body(self, pictures: Sequence[Image.Image], messages: list[Message]) -> Mapping[str, Any]:
        images = [{"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures]
        first = {"role": "user", "content": [{"type": "text", "text": messages[0]["content"]}, *images]}
        body = {"model": self._model, "messages": [first, *messages[1:]], "temperature": 0}
        return {**body, "max_tokens": _REPLY_TOKENS}


class LocalVisionLanguageJudge(_ChatJudge):
    """A vision-language model in a folder, run here by transformers: nothing leaves the machine.

    Args:
        folder: an image-text-to-text model in Hugging Face layout with a chat template, such as Qwen2.5-VL-7B-Instruct.

    Raises:
        PSAError: where the folder holds no such model.
    """

    def __init__(self, folder: Path | str, device: torch.device | str | None = None) -> None:
        self._folder = Path(folder)
        self.name = f"vision-language ({self._folder.name})"
        self._device = torch.device(device or "cpu")
        self._processor = load_part(self._folder, "AutoProcessor", _WHAT)
        if not getattr(self._processor, "chat_template", None):
            raise PSAError(f"The model in {folder} has no chat template. Use an instruction-tuned one.")
        self._model = load_model(self._folder, "AutoModelForImageTextToText", _WHAT).to(self._device)

    def identity(self) -> str:
        return f"{wording_digest()} {fingerprint(self._folder, ['.'])}"

    def check(self, captions: Sequence[str]) -> None:
        """It is here, and takes any prompt."""

    @torch.no_grad()
    def _reply(self, pictures: Sequence[Image.Image], messages: list[Message]) -> str:
        parts: list[dict[str, Any]] = [
            {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]} for message in messages
        ]
        parts[0]["content"] = [{"type": "image", "image": picture.convert("RGB")} for picture in pictures] + parts[0][
            "content"
        ]
        try:
            inputs = self._processor.apply_chat_template(
                parts, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            ).to(self._device)
        except (ValueError, TypeError, IndexError) as error:  # such as a picture too narrow for the model
            sizes = " and ".join(f"{picture.width} x {picture.height}" for picture in pictures)
            raise PSAError(
                f"The judge {self.name} does not take pictures of {sizes} pixels ({type(error).__name__}). Use another "
                "size, or another model."
            ) from error
        for name, value in inputs.items():
            if value.is_floating_point():
                inputs[name] = value.to(self._model.dtype)
        tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=_REPLY_TOKENS)
        return self._processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@dataclass(frozen=True)
class _Asked:
    """`text` is asked; `read` gives what a reply means, or `None`, and then `again` is said."""

    text: str
    again: str
    read: Callable[[str], Any]


def _data_url(picture: Image.Image) -> str:
    pixels = picture.convert("RGB")
    bare = Image.frombytes("RGB", pixels.size, pixels.tobytes())  # no workflow, EXIF or comment goes with it
    buffer = io.BytesIO()
    bare.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
