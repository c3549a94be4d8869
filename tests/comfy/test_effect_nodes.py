"""Effects and audiences on the real server: they draw what adapter and embedding draw, and the file tells of nobody."""

import pytest
from graphs import Graph, Link, close, differ, draw, encode, output, profile_node, psa, same, txt2img

from psa_core import PSAError
from psa_core.adapter.effect import load_effect

NAME = "handed out"


def effect(graph: Graph, link: Link, model: Link, **more) -> Link:
    return graph.add("PSAApply", model=model, effect=link, strength=1.0, start_percent=0.0, end_percent=1.0, **more)


def load_adapter(graph: Graph) -> Link:
    return graph.add("PSALoadAdapter", adapter_name="psa.safetensors")


def of(build):
    """A patch that applies the effect that `build` adds to the graph."""
    return lambda graph, model: effect(graph, build(graph), model)


def stand_in_of_l0(graph: Graph, model: Link) -> Link:
    """L0 is its own stand-in: 35, and all else plain."""
    return psa("L0")(graph, model)


def test_a_saved_effect_draws_what_adapter_and_stand_in_draw(server):
    def save(graph: Graph) -> Link:
        profile = profile_node(graph, preset="L0")
        return graph.add("PSASaveEffect", adapter=load_adapter(graph), profile=profile, name=NAME)

    saved = draw(server, txt2img(of(save)))
    files = sorted((server.base / "models" / "psa_effects").glob(f"{NAME}*.safetensors"))
    assert files and load_effect(files[-1]).num_tokens == 1
    loaded = draw(server, txt2img(of(lambda graph: graph.add("PSALoadEffect", effect_name=files[-1].name))))
    wanted, plain = draw(server, txt2img(stand_in_of_l0)), draw(server, txt2img())
    assert same(saved, wanted) and same(loaded, wanted) and differ(loaded, plain)


def test_two_people_who_ban_the_same_give_one_file(server):
    graph = Graph()
    for age in (35, 71):
        profile = profile_node(graph, age=age, banned="chosen", ban_hate=True)
        graph.add("PSASaveEffect", adapter=load_adapter(graph), profile=profile, name=f"alike {age}")
    server.queue(graph.prompt)
    first, second = sorted((server.base / "models" / "psa_effects").glob("alike*.safetensors"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("kind", ["adapters", "effects"])
def test_a_graph_that_runs_again_writes_no_copy_but_again_what_was_deleted(server, kind):
    graph, folder = Graph(), server.base / "models" / f"psa_{kind}"
    adapter = load_adapter(graph)
    if kind == "adapters":
        graph.add("PSASaveAdapter", adapter=adapter, name="deleted", precision="float16")
    else:
        graph.add("PSASaveEffect", adapter=adapter, profile=profile_node(graph), name="deleted")
    for is_there in (False, True, False):
        assert len([*folder.glob("deleted*.safetensors")]) == is_there
        server.run(graph.prompt)
        (path,) = folder.glob("deleted*.safetensors")
        if is_there:
            path.unlink()


def audience(how: str, *levels: str):
    def build(graph: Graph) -> Link:
        people = [profile_node(graph, preset=level) for level in levels]
        more = {f"profile_{number}": person for number, person in enumerate(people[1:], start=2)}
        return graph.add("PSAAudience", adapter=load_adapter(graph), profile=people[0], how=how, **more)

    return of(build)


def test_the_strictest_of_an_audience_is_its_strictest_member(server):
    alone, both = (draw(server, txt2img(audience("strictest bans", *who))) for who in (["L5"], ["L0", "L5", "L1"]))
    assert same(alone, both) and differ(both, draw(server, txt2img(audience("strictest bans", "L0"))))


def test_the_strictest_person_is_an_output(server):
    def patch(graph: Graph, model: Link) -> Link:
        people = [profile_node(graph, preset=level) for level in ("L1", "L3")]
        adapter = load_adapter(graph)
        who = graph.add("PSAAudience", adapter=adapter, profile=people[0], profile_2=people[1], how="joined tokens")
        embedding = encode(graph, output(who, 1))
        return graph.add(
            "PSAApply", model=model, adapter=adapter, embedding=embedding, strength=1.0, start_percent=0.0,
            end_percent=1.0,
        )  # fmt: skip

    assert close(draw(server, txt2img(patch)), draw(server, txt2img(audience("strictest bans", "L1", "L3"))))


def test_joined_tokens_of_one_viewer_are_that_viewer(server):
    one = draw(server, txt2img(audience("joined tokens", "L3")))
    assert same(one, draw(server, txt2img(psa("L3"))))
    both = draw(server, txt2img(audience("joined tokens", "L3", "L5")))
    assert differ(both, one) or differ(both, draw(server, txt2img(psa("L5"))))


def mix(share: float):
    def build(graph: Graph) -> Link:
        first, second = (encode(graph, profile_node(graph, preset=level)) for level in ("L0", "L5"))
        return graph.add("PSAMixViewers", adapter=load_adapter(graph), first=first, second=second, share=share)

    return of(build)


def test_a_mix_ends_at_its_two_viewers(server):
    for share, level in ((0.0, "L0"), (1.0, "L5")):
        assert same(draw(server, txt2img(mix(share))), draw(server, txt2img(psa(level))))
    assert not same(draw(server, txt2img(mix(0.5))), draw(server, txt2img(psa("L0"))))


def test_one_or_the_other_is_to_be_connected(server):
    for inputs in (
        lambda graph: {},
        lambda graph: {"adapter": load_adapter(graph)},
        lambda graph: {"embedding": encode(graph, profile_node(graph))},
    ):
        patch = lambda graph, model, inputs=inputs: graph.add(  # noqa: E731
            "PSAApply", model=model, strength=1.0, start_percent=0.0, end_percent=1.0, **inputs(graph)
        )
        with pytest.raises(PSAError, match="an adapter and an embedding, or an effect"):
            draw(server, txt2img(patch))


@pytest.mark.parametrize("name", ["../psa_adapters/psa.safetensors", "nothing.safetensors", "/etc/passwd"])
def test_other_files_are_not_loaded(server, name):
    with pytest.raises(PSAError, match="no such file in models/psa_effects"):
        draw(server, txt2img(of(lambda graph: graph.add("PSALoadEffect", effect_name=name))))


def test_no_word_of_a_profile_is_in_the_file(server):
    graph = Graph()
    profile = profile_node(graph, age=47, religion="Buddhism", mental_condition="war")
    graph.add("PSASaveEffect", adapter=load_adapter(graph), profile=profile, name="nobody")
    server.queue(graph.prompt)
    data = next((server.base / "models" / "psa_effects").glob("nobody*")).read_bytes()
    assert not any(word in data for word in (b"Buddhism", b"Violence", b"female", b"structured"))
