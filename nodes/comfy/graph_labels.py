"""Labels for a batch of pictures, read off the graph that drew it: for whom, and from which prompt."""

from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from typing import Any, TypeGuard

_MOST_LETTERS = 60  # of a prompt in a label
_MOST_OF_A_NAME = 100  # as a stored profile's may have

Prompt = Mapping[str, Mapping[str, Any]]


def labels_for(prompt: Prompt, node: str, pictures: int) -> tuple[list[str], list[str]]:
    """One label for each of the pictures that reach the input `images` of `node`; and the viewers left without one.

    A viewer is called as their node has it, by level or stored name, and a typed profile by its place: its fields
    stay out of pictures. Where the graph does not say who is who, pictures are numbered.
    """
    drawn = [(_viewers(prompt, sampler), _text(prompt, sampler)) for sampler in _samplers(prompt, node)]
    rows = [[(viewer, text) for viewer in viewers] for viewers, text in drawn]
    count = sum(map(len, rows))
    missing: list[str] = []
    if len(rows) == 1 and pictures < count:
        missing = [viewer for viewer, _ in rows[0][pictures:]]
        rows, count = [rows[0][:pictures]], pictures
    if not count or pictures % count:
        return [str(number) for number in range(1, pictures + 1)], []
    each = [pair for row in rows for pair in islice(cycle(row), len(row) * (pictures // count))]
    several_viewers, several_texts = (len({pair[part] for pair in each}) > 1 for part in (0, 1))
    several_viewers |= not several_texts
    return [
        ": ".join([viewer] * several_viewers + [text] * (several_texts and bool(text))) for viewer, text in each
    ], missing


def viewer_names(prompt: Prompt, node: str, viewers: int) -> list[str]:
    """What to call the viewers whose profiles are wired to `node`, in the order of its inputs.

    As `labels_for` has it: by level or stored name, else by their place.
    """
    names = _wired_viewers(prompt, node)
    return names if len(names) == viewers else [f"viewer {number}" for number in range(1, viewers + 1)]


def _samplers(prompt: Prompt, node: str) -> list[str]:
    """Those whose pictures reach `node`, in the order in which batches are joined."""
    found: dict[str, None] = {}
    for each in _upstream(prompt, node, ("images",)):
        if {"model", "positive"} <= set(_inputs(prompt, each)):
            found[each] = None
    drawn_on = {other for each in found for other in _upstream(prompt, each, ("latent_image",))}
    return [each for each in found if each not in drawn_on]  # a second pass draws the first one's pictures on


def _viewers(prompt: Prompt, sampler: str) -> list[str]:
    for node in _upstream(prompt, sampler, ("model",)):
        if prompt[node].get("class_type") == "PSAApply":
            encode = next(
                (each for each in _upstream(prompt, node, ("embedding",)) if "profile" in _inputs(prompt, each)), None
            )
            if encode is None:
                return []
            return _wired_viewers(prompt, encode)
    return ["base model"]


def _wired_viewers(prompt: Prompt, node: str) -> list[str]:
    wired = _inputs(prompt, node)  # profile, profile_2, profile_3, ...
    links = [wired[name] for name in sorted(wired) if name.split("_")[0] == "profile"]
    return [_called(prompt, link, number) for number, link in enumerate(links, start=1)]


def _called(prompt: Prompt, link: Any, number: int) -> str:
    inputs = _inputs(prompt, str(link[0])) if _is_link(link) else {}
    for name in ("profile_name", "preset"):
        if isinstance(value := inputs.get(name), str) and value != "custom":
            return " ".join(value[:_MOST_OF_A_NAME].split())
    return f"viewer {number}"


def _text(prompt: Prompt, sampler: str) -> str:
    for node in _upstream(prompt, sampler, ("positive",)):
        if isinstance(text := _inputs(prompt, node).get("text"), str):
            text = " ".join(text.split())
            return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."
    return ""


def _upstream(prompt: Prompt, node: str, first: tuple[str, ...]) -> Iterator[str]:
    """The nodes before `node` by its inputs `first`, the nearer first, each once."""
    seen: set[str] = set()
    links = [_inputs(prompt, node).get(name) for name in reversed(first)]
    while links:
        link = links.pop()
        if _is_link(link) and (other := str(link[0])) in prompt and other not in seen:
            seen.add(other)
            yield other
            links += reversed([*_inputs(prompt, other).values()])


def _inputs(prompt: Prompt, node: str) -> Mapping[str, Any]:
    return prompt.get(node, {}).get("inputs", {})


def _is_link(value: Any) -> TypeGuard[list]:
    return isinstance(value, list) and len(value) == 2
