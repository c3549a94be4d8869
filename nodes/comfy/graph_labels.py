"""Labels for pictures, read off the graph that drew them: for whom, and from which prompt."""

from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from typing import Any, TypeGuard

_MOST_LETTERS = 60  # of a prompt in a label
_MOST_OF_A_NAME = 100  # as a stored profile's may have
_MOST_DEEP = 50  # nodes that hand a profile on, one behind the other

Prompt = Mapping[str, Mapping[str, Any]]


def labels_for(prompt: Prompt, node: str, pictures: int) -> tuple[list[str], list[str]]:
    """One label for each of the pictures that reach `images`, `images_2`, ... of `node`; and viewers left without one.

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


def names_behind(prompt: Prompt, node: str, name: str) -> str:
    """What to call the viewers of the embedding that reaches the input `name` of `node`; empty where nothing says."""
    encode = _encoding(prompt, node, name)
    return _together(_wired_viewers(prompt, encode)) if encode else ""


def _samplers(prompt: Prompt, node: str) -> list[str]:
    """Those whose pictures reach `node`, in the order in which batches are joined."""
    found: dict[str, None] = {}
    for each in _upstream(prompt, node, _in_a_row(prompt, node, "images")):
        if {"model", "positive"} <= set(_inputs(prompt, each)):
            found[each] = None
    drawn_on = {other for each in found for other in _upstream(prompt, each, ("latent_image",))}
    return [each for each in found if each not in drawn_on]  # a second pass draws the first one's pictures on


def _viewers(prompt: Prompt, sampler: str) -> list[str]:
    for node in _upstream(prompt, sampler, ("model",)):
        if prompt[node].get("class_type") == "PSAApply":
            if _is_link(effect := _inputs(prompt, node).get("effect")):
                return _viewers_of_effect(prompt, str(effect[0]))
            encode = _encoding(prompt, node, "embedding")
            return _wired_viewers(prompt, encode) if encode else []
    return ["base model"]


def _viewers_of_effect(prompt: Prompt, node: str) -> list[str]:
    """One picture is for all viewers of an effect; one from a file is called as the file."""
    file = _inputs(prompt, node).get("effect_name")
    if isinstance(file, str):
        return [_together([file])]
    mixed = [names_behind(prompt, node, name) for name in ("first", "second")]
    names = _wired_viewers(prompt, node) or [name for name in mixed if name]
    return [_together(names)] if names else []


def _encoding(prompt: Prompt, node: str, name: str) -> str | None:
    """The node that encodes the profiles of the embedding that reaches the input `name`."""
    return next((each for each in _upstream(prompt, node, (name,)) if "profile" in _inputs(prompt, each)), None)


def _in_a_row(prompt: Prompt, node: str, first: str) -> tuple[str, ...]:
    """The wired inputs `first`, `first_2`, `first_3`, ... of a node."""
    return tuple(name for name in sorted(_inputs(prompt, node)) if name == first or name.startswith(f"{first}_"))


def _wired_viewers(prompt: Prompt, node: str) -> list[str]:
    links = [_inputs(prompt, node)[name] for name in _in_a_row(prompt, node, "profile")]
    known: dict[str, str] = {}
    return [_called(prompt, link, known) or f"viewer {number}" for number, link in enumerate(links, start=1)]


def _called(prompt: Prompt, link: Any, known: dict[str, str], deep: int = 0) -> str:
    """What a viewer's node has, or those that it takes profiles from: several viewers are one audience.

    `known` has the nodes that were asked already; a circle ends at them, too.
    """
    node = str(link[0]) if _is_link(link) else ""
    if node in known or deep == _MOST_DEEP:
        return known.get(node, "")
    known[node] = ""
    inputs, is_saving = _inputs(prompt, node), prompt.get(node, {}).get("class_type") == "PSASaveProfile"
    wired = [inputs[name] for name in _in_a_row(prompt, node, "profile") if _is_link(inputs[name])]
    names = [_called(prompt, each, known, deep + 1) for each in wired]
    if any(names):
        known[node] = _together([name or f"viewer {number}" for number, name in enumerate(names, start=1)])
    else:
        own = (inputs.get(name) for name in ("profile_name", "preset", *["name"] * is_saving))
        found = next((value for value in own if isinstance(value, str) and value != "custom"), "")
        known[node] = " ".join(found[:_MOST_OF_A_NAME].split())
    return known[node]


def _together(names: list[str]) -> str:
    return " + ".join(dict.fromkeys(names))[:_MOST_OF_A_NAME]


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
