"""The outermost place of every node and route: an error that nobody foresaw tells where it happened, and nothing else.

ComfyUI shows an error's text in its report, keeps it in the history, and logs it with all that it came from.
"""

import functools
import logging
import traceback
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_management import InterruptProcessingException
from comfy_api.latest import io

from ...psa_core.errors import PSAError, bug_sentence
from ...psa_core.files import is_text, os_sentence

_OUT_OF_MEMORY = (torch.cuda.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.cuda.OutOfMemoryError))
_COMFYUIS = (InterruptProcessingException, *_OUT_OF_MEMORY)  # what it knows what to do about


def reported(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, whose unforeseen errors become a sentence with the same traceback and without their text."""
    for name in ("execute", "check_lazy_status"):
        if name in vars(node):
            setattr(node, name, classmethod(_reported(vars(node)[name].__func__)))
    return node


def _reported(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def told(cls, *arguments, **inputs):
        try:
            return method(cls, *arguments, **inputs)
        except PSAError as error:
            if is_text(traceback.format_exc()):
                raise
            # Half a surrogate pair from a text of somebody's: ComfyUI's worker dies of what its log cannot write.
            raise PSAError(str(error).encode("utf-8", "backslashreplace").decode()).with_traceback(
                error.__traceback__
            ) from None
        except _COMFYUIS:
            raise
        except OSError as error:
            raise PSAError(os_sentence(error)).with_traceback(error.__traceback__) from None
        except Exception as error:
            sentence = f"{bug_sentence(error)} with ComfyUI's report, which tells where it happened. What was read is "
            raise PSAError(f"{sentence}not in it.").with_traceback(error.__traceback__) from None

    return told


def log_places(error: Exception) -> None:
    """Where an error came from, into ComfyUI's log; what it says stays out."""
    places = "".join(traceback.format_tb(error.__traceback__))
    logging.error("%s with these lines.\n%s", bug_sentence(error), places)
