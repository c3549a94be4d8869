"""Effect files: the same picture as adapter and viewer give, and nothing of anybody but what is banned."""

import json
from itertools import product

import pytest
import torch
from adapters import random_adapter

from psa_core import LEVELS, PSAAdapter, PSAError, StructuredEncoder, UserProfile, load_adapter, save_adapter
from psa_core.adapter.attention import UserKeyValue, user_attention
from psa_core.adapter.effect import (
    joined_effect,
    load_effect,
    mixed_effect,
    save_effect,
    strictest,
    viewer_effect,
)
from psa_core.adapter.files import adapter_id
from psa_core.cli import main
from psa_core.encoders.structured import InferredEncoder
from psa_core.population import is_realistic
from psa_core.rules import SAGE
from psa_core.schema import CATEGORIES, GENDERS, MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS
from psa_core.stand_ins import stand_in

ENCODER = StructuredEncoder()
SD15 = [320, 320, 640, 640, 1280, 1280, *[1280] * 3, *[640] * 3, *[320] * 3, 1280]
SDXL = [*[640] * 10, *[1280] * 60]


def adapter(tokens: int = 1, widths=(8, 16), dim: int = 12, encoder=ENCODER) -> PSAAdapter:
    torch.manual_seed(0)
    made = PSAAdapter(list(widths), dim, encoder.dim, tokens, encoder.id)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def same(a, b) -> bool:
    def equal(first, second):
        return (first is None) == (second is None) and (first is None or torch.equal(first, second))

    return all(equal(x.key, y.key) and equal(x.value, y.value) for x, y in zip(a.layers, b.layers, strict=True))


def all_people() -> list[UserProfile]:
    fields = product(range(101), GENDERS, RELIGIONS, PHYSICAL_CONDITIONS, MENTAL_CONDITIONS)
    return [UserProfile(*each) for each in fields]


def test_of_22624_people_a_file_tells_the_ban_set_alone(tmp_path):
    """Whoever has the adapter makes every person's file and compares: those who ban the same are all alike."""
    people, made, files = all_people(), adapter(), {}
    assert len(people) == 22_624
    for person in people:
        banned = person.banned_categories
        if banned not in files:
            save_effect(viewer_effect(made, ENCODER, banned), tmp_path / f"{len(files)}.safetensors")
            files[banned] = (tmp_path / f"{len(files)}.safetensors").read_bytes()
    assert len(set(files.values())) == len(files) == 30  # Sage's 29, and a child whom its sampler refuses
    # The person in the file is found, and is the same invented one for everybody.
    everyone = made.key_values(made.user_tokens(ENCODER.encode(people)))
    for banned in list(files)[:5]:
        effect = viewer_effect(made, ENCODER, banned)
        fits = torch.stack([(row.value == layer.value[:1]).flatten(1).all(1)
                            for row, layer in zip(everyone, effect.layers, strict=True)]).all(0)  # fmt: skip
        found = {person.banned_categories for person, fit in zip(people, fits.tolist(), strict=True) if fit}
        assert found <= {banned}


def test_stand_ins_are_realistic_and_ban_what_they_stand_for():
    for number in range(128):
        banned = tuple(word for bit, word in enumerate(CATEGORIES) if number >> bit & 1)
        person = stand_in(banned)
        assert person.banned_categories == banned and person.user_id is None
        assert is_realistic(person)
    sets = {person.banned_categories for person in all_people()}
    by_rule = {banned for banned in sets if stand_in(banned).with_rules(SAGE).banned_categories == banned}
    assert len(by_rule) == 29


@pytest.mark.parametrize(("tokens", "level"), [(1, "L0"), (1, "L3"), (4, "L5")])
def test_a_file_gives_what_adapter_and_viewer_give(tokens, level, tmp_path):
    made, banned = adapter(tokens), LEVELS[level].banned_categories
    save_effect(viewer_effect(made, ENCODER, banned), tmp_path / "a.safetensors")
    effect = load_effect(tmp_path / "a.safetensors")
    rows = torch.cat([made.user_tokens(ENCODER.encode([stand_in(banned)])), made.uncond_tokens(1)])
    for own, layer in zip(made.key_values(rows), effect.layers, strict=True):
        assert torch.allclose(own.value, layer.value, rtol=0 if tokens == 1 else 1e-3, atol=0 if tokens == 1 else 1e-3)
        assert (layer.key is None) == (tokens == 1)
    assert effect.made_by == adapter_id(made) and effect.num_tokens == tokens
    effect.check_fits([8, 16], 12)
    with pytest.raises(PSAError, match="This effect is for"):
        effect.check_fits([8, 8], 12)


@pytest.mark.parametrize(("widths", "dim", "most"), [(SD15, 768, 0.11e6), (SDXL, 2048, 0.75e6)])
@pytest.mark.parametrize("tokens", [1, 4])
def test_its_size(widths, dim, most, tokens, tmp_path):
    with torch.device("meta"):
        made = PSAAdapter(widths, 8, ENCODER.dim, tokens, ENCODER.id)  # a narrow context: the file does not hold it
    made = made.to_empty(device="cpu")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_effect(viewer_effect(made, ENCODER, ["Hate"]), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < most * tokens


def test_the_same_effect_is_the_same_file_and_holds_no_word_of_a_profile(tmp_path):
    for name in "ab":
        save_effect(viewer_effect(adapter(), ENCODER, ["Violence"]), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    header = (tmp_path / "a.safetensors").read_bytes()[8:2000]
    for word in (*CATEGORIES, *RELIGIONS, *MENTAL_CONDITIONS, "male", "structured"):
        assert word.encode() not in header


@pytest.mark.parametrize("where", [9, 200, -1, -40])
def test_a_changed_bit_is_noticed(where, tmp_path):
    path = tmp_path / "a.safetensors"
    save_effect(viewer_effect(adapter(2), ENCODER, ["Violence"]), path)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(PSAError):
        load_effect(path)


def test_other_files_are_refused(tmp_path):
    save_adapter(adapter(), tmp_path / "adapter.safetensors")
    with pytest.raises(PSAError, match="no effect file"):
        load_effect(tmp_path / "adapter.safetensors")
    with pytest.raises(PSAError, match="not a whole"):
        (tmp_path / "b.safetensors").write_bytes(b"nonsense")
        load_effect(tmp_path / "b.safetensors")
    save_effect(viewer_effect(adapter(), ENCODER, []), tmp_path / "c.safetensors")
    with pytest.raises(PSAError):
        load_adapter(tmp_path / "c.safetensors")


def test_an_encoder_that_sees_no_bans_serves_people_alone():
    inferred = InferredEncoder()
    made = adapter(encoder=inferred)
    banned = LEVELS["L2"].banned_categories
    assert same(viewer_effect(made, inferred, banned), viewer_effect(made, inferred, banned))
    with pytest.raises(PSAError, match="follow from nobody"):
        viewer_effect(made, inferred, ["Hate"])
    with pytest.raises(PSAError, match="encoder"):
        viewer_effect(made, ENCODER, [])


def test_the_strictest_bans_what_any_bans_and_is_none_of_them():
    audience = [LEVELS["L1"], LEVELS["L3"]]
    person = strictest(audience)
    assert set(person.banned_categories) == {"Propaganda", "Self-Harm", "Sexuality", "Shocking", "Violence"}
    assert strictest([LEVELS["L0"]]).banned_categories == ()
    with pytest.raises(PSAError):
        strictest([])


def test_joined_tokens_are_one_attention_over_all(tmp_path):
    made, viewers = adapter(3), ENCODER.encode([LEVELS["L1"], LEVELS["L4"]])
    effect = joined_effect(made, viewers)
    query = torch.randn(1, 5, 8)
    alone = made.key_values(made.user_tokens(viewers))[0]
    both = UserKeyValue(alone.key.flatten(0, 1)[None], alone.value.flatten(0, 1)[None])
    drawn, wanted = (user_attention(query, user, 2) for user in (effect.layers[0][:1], both))
    assert torch.allclose(drawn, wanted, atol=1e-6)
    nobody = made.key_values(made.uncond_tokens(1))[0]
    assert torch.allclose(user_attention(query, effect.layers[0][1:], 2), user_attention(query, nobody, 2), atol=1e-6)
    of_one = joined_effect(made, ENCODER.encode([LEVELS["L1"]]))
    assert torch.allclose(of_one.layers[0].value[0], alone.value[0])


def test_joining_viewers_of_an_adapter_of_one_token_with_no_keys_is_their_mean():
    made, viewers = random_adapter([8, 8], 12, ENCODER.dim), ENCODER.encode([LEVELS["L1"], LEVELS["L4"]])
    for layer in made.psa_adapter:
        torch.nn.init.zeros_(layer.to_k_user[0].weight)
    values = made.key_values(made.user_tokens(viewers))[0].value
    joined = joined_effect(made, viewers).layers[0][:1]
    assert torch.allclose(user_attention(torch.randn(1, 3, 8), joined, 2), values.mean(0, keepdim=True), atol=1e-6)


def test_mixing_goes_from_the_first_to_the_second():
    made = adapter(2)
    first, second = (ENCODER.encode([LEVELS[level]]) for level in ("L0", "L5"))
    ends = [made.key_values(made.user_tokens(each))[1].value for each in (first, second)]
    for share, wanted in ((0.0, ends[0]), (1.0, ends[1]), (0.25, 0.75 * ends[0] + 0.25 * ends[1])):
        assert torch.allclose(mixed_effect(made, first, second, share).layers[1].value[:1], wanted, atol=1e-6)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(PSAError, match="share"):
            mixed_effect(made, first, second, bad)
    with pytest.raises(PSAError, match="one viewer each"):
        mixed_effect(made, first, ENCODER.encode([LEVELS["L0"], LEVELS["L1"]]), 0.5)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_adapter(adapter(), "adapter.safetensors")
    return tmp_path


def test_the_command_takes_categories_a_level_or_a_profile(here, capsys):
    (here / "profile.json").write_text(json.dumps({**LEVELS["L1"].to_dict(), "Age": 40}))
    ways = (["--banned", "Shocking", "Violence"], ["--level", "L1"], ["--profile", "profile.json"])
    for number, who in enumerate(ways):
        assert main(["effect", "adapter.safetensors", *who, "-o", f"{number}.safetensors"]) == 0
    assert len({(here / f"{number}.safetensors").read_bytes() for number in range(3)}) == 1
    read = load_adapter("adapter.safetensors")  # its weights lie elsewhere in memory, which rounds otherwise
    assert same(load_effect("0.safetensors"), viewer_effect(read, ENCODER, ["Shocking", "Violence"]))
    assert main(["effect", "adapter.safetensors", "--banned", "-o", "none.safetensors"]) == 0
    assert same(load_effect("none.safetensors"), viewer_effect(read, ENCODER, []))
    assert "Violence" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["adapter.safetensors", "--level", "L1", "-o", "adapter.safetensors"], "this command did not make it"),
        (["adapter.safetensors", "--level", "L1", "-o", "adapter.safetensors", "--force"], "output is the input"),
        (["adapter.safetensors", "--level", "L1", "-o", "out.bin"], "does not end with .safetensors"),
        (["nothing.safetensors", "--level", "L1", "-o", "out.safetensors"], "no adapter file"),
        (
            ["adapter.safetensors", "--level", "L1", "--encoder", "structured-inferred", "-o", "o.safetensors"],
            "encoder",
        ),
        (["unknown.safetensors", "--level", "L1", "-o", "out.safetensors"], "does not say which encoder"),
        (["other.safetensors", "--level", "L1", "-o", "out.safetensors"], "--llm FOLDER"),
    ],
)
def test_the_command_says_what_is_wrong(here, capsys, arguments, words):
    for name, encoder_id in (("unknown", None), ("other", "qwen")):
        made = adapter()
        made.encoder_id = encoder_id
        save_adapter(made, here / f"{name}.safetensors")
    before = sorted(here.iterdir())
    assert main(["effect", *arguments]) == 2
    assert words in capsys.readouterr().err and sorted(here.iterdir()) == before
