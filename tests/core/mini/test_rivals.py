"""The rivals, on an untrained model: that each does what its paper says, for each viewer alone."""

from dataclasses import replace

import pytest
import torch
from adapters import random_adapter
from mini_models import write_untrained_base

from psa_core import PSAError, StructuredEncoder, UserProfile
from psa_core.diffusers_unet import cross_attention_layers
from psa_core.encoders.everyone import EveryoneEncoder
from psa_core.encoders.structured import InferredEncoder
from psa_core.mini import base_model
from psa_core.mini.dataset import Sizes, write_dataset
from psa_core.mini.generate import STEPS, MiniModel
from psa_core.mini.method import Request
from psa_core.mini.rivals import adapters, erasing, esd, lora, prompts, sld, uce, weights
from psa_core.mini.world import SYMBOLS
from psa_core.profile import CATEGORIES, LEVELS
from psa_core.prompts import Prompt

PHRASES = {"star": ("something that twinkles at night",), "heart": ("a sign of love",)}
FREE, STRICT = LEVELS["L0"], UserProfile(30, "male", banned_categories=CATEGORIES)
SOME = UserProfile(40, "female", banned_categories=("Propaganda", "Hate"))  # star and arrow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_untrained_base(tmp_path_factory.mktemp("mini") / "base")
    base_model.new_scheduler().save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return MiniModel(folder)


def adapter_for(model, encoder=StructuredEncoder, **options):
    widths = tuple(layer.to_q.out_features for layer in cross_attention_layers(model.unet))
    return random_adapter(widths, 64, encoder.dim, num_tokens=3, encoder_id=encoder.id, **options)


def request(number, caption, profile):
    return Request(Prompt(f"{number}.png", caption), number, profile)


REQUESTS = [
    request(1, "a sea with a red circle and a star", STRICT),
    request(2, "a snow with a blue square", FREE),
    request(3, "a dusk with a green diamond and an arrow", SOME),
]


@pytest.mark.parametrize(
    ("prompt", "symbols", "left"),
    [
        ("a sea with a red circle and a star", ["star"], "a sea with a red circle"),
        ("a sea with a red circle and an arrow", ["star", "arrow"], "a sea with a red circle"),
        ("a sea with a star and a red circle", ["star"], "a sea with a red circle"),
        ("a sea with a star", ["star"], "a sea"),
        ("a sea with a red circle and a star and a moon", ["star", "moon"], "a sea with a red circle"),
        ("a sea with a red circle and a star", ["moon"], "a sea with a red circle and a star"),
        ("a starry sea with a red circle", ["star"], "a starry sea with a red circle"),
        ("a bright star on a sea", ["star"], "a bright on a sea"),
        ("a sea with a red circle and something that twinkles at night", ["star"], "a sea with a red circle"),
        ("a sea with something that twinkles at night and a red circle", ["star"], "a sea with a red circle"),
    ],
)
def test_what_is_banned_is_deleted_with_what_joins_it(prompt, symbols, left):
    assert prompts.without_terms(prompt, symbols, PHRASES) == left


def test_without_an_oracle_a_phrase_stays():
    prompt = "a sea with a red circle and something that twinkles at night"
    assert prompts.without_terms(prompt, list(SYMBOLS.values())) == prompt


def test_a_negative_prompt_names_the_bans_and_an_oracles_adds_the_phrases_that_are_there(model):
    implied = request(1, "a sea with a red circle and something that twinkles at night", SOME)
    assert prompts.NegativePrompt(model).negative(implied) == "an arrow and a star"
    oracle = prompts.NegativePrompt(model, phrases=PHRASES)
    assert oracle.negative(implied) == "something that twinkles at night and an arrow and a star"
    assert oracle.negative(REQUESTS[0]).startswith("a bolt and an arrow and a star")


def methods(model):
    deletion = prompts.WordDeletion(model)
    changed = {"conv_in.bias": model.unet.conv_in.bias.detach() + 0.1}
    return {
        "base": adapters.Base(model),
        "deletion": deletion,
        "negative": prompts.NegativePrompt(model),
        "SLD": sld.SafeLatentDiffusion(model, sld.MAX),
        "PSA": adapters.WithAdapter(model, "PSA", adapter_for(model)),
        "inferred": adapters.WithAdapter(model, "PSA", adapter_for(model, InferredEncoder)),
        "both": adapters.WithAdapter(model, "both", adapter_for(model), caption=deletion.caption),
        "less nobody": adapters.LessNobody(model, "less nobody", adapter_for(model)),
        "ban-all": adapters.WithAdapter(model, "ban-all", adapter_for(model, EveryoneEncoder)),
        "weights": weights.ChangedWeights(model, "weights", changed),
    }


NAMES = ("base", "deletion", "negative", "SLD", "PSA", "inferred", "both", "less nobody", "ban-all", "weights")


@pytest.fixture(scope="module")
def drawn(model):
    return {name: method.draw(REQUESTS) for name, method in methods(model).items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_a_function_of_its_own_request(name, model, drawn):
    alone = methods(model)[name].draw(REQUESTS[2:])
    torch.testing.assert_close(alone[0], drawn[name][2], atol=1e-3, rtol=0)
    assert drawn[name].shape == (3, 3, 128, 128)


@pytest.mark.parametrize("name", NAMES[1:])
def test_each_method_changes_a_strict_viewers_picture(name, drawn):
    assert not torch.allclose(drawn[name][0], drawn["base"][0], atol=1e-3)


@pytest.mark.parametrize("name", ["deletion", "negative", "SLD"])
def test_who_bans_nothing_gets_the_base_models_picture(name, drawn):
    torch.testing.assert_close(drawn[name][1], drawn["base"][1], atol=1e-3, rtol=0)


def test_less_what_it_does_for_nobody_nobody_changes_bit_for_bit(drawn):
    assert torch.equal(drawn["less nobody"][1], drawn["base"][1])


def test_less_nobody_of_one_token_too(model):
    widths = tuple(layer.to_q.out_features for layer in cross_attention_layers(model.unet))
    one = random_adapter(widths, 64, StructuredEncoder.dim, encoder_id=StructuredEncoder.id)
    first, second = adapters.LessNobody(model, "x", one).draw(REQUESTS[:2])
    plain = adapters.Base(model).draw(REQUESTS[:2])
    assert torch.equal(second, plain[1]) and not torch.allclose(first, plain[0], atol=1e-3)


def test_who_knows_its_viewer_says_so(model):
    says = {name for name, method in methods(model).items() if method.knows_viewer}
    assert says == {"deletion", "negative", "SLD", "PSA", "inferred", "both", "less nobody"}


def test_an_adapter_of_another_encoder_is_refused(model):
    other = adapter_for(model)
    other.encoder_id = "another"
    with pytest.raises(PSAError, match="no profile encoder 'another'"):
        adapters.WithAdapter(model, "x", other)


def test_negative_prompts_are_one_a_picture(model):
    captions, seeds = ["a sea with a red circle"] * 2, [1, 1]
    first, second = model.draw(captions, seeds, negatives=["a star", ""], steps=2)
    torch.testing.assert_close(second, model.draw(captions[:1], [1], steps=2)[0], atol=1e-4, rtol=0)
    assert not torch.allclose(first, second, atol=1e-4)
    for negatives, options in ((["a star"], {}), (["a star"] * 3, {}), (["a star"] * 2, {"guidance": 1.0})):
        with pytest.raises(PSAError, match=r"(?i)negative"):
            model.draw(captions, seeds, negatives=negatives, steps=2, **options)


@pytest.mark.parametrize("safety", [sld.MEDIUM, sld.STRONG, sld.MAX])
def test_sld_is_that_of_diffusers(safety, model):
    from diffusers import StableDiffusionPipelineSafe

    pipe = model._painter.pipe
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    theirs = StableDiffusionPipelineSafe(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.safety_concept = prompts.listed(prompts.banned_symbols(STRICT))
    asked = REQUESTS[0]
    expected = theirs(
        asked.prompt.caption,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(asked.noise)),
        output_type="np",
        sld_warmup_steps=round(safety.warmup * STEPS),
        sld_guidance_scale=safety.guidance,
        sld_threshold=safety.threshold,
        sld_momentum_scale=safety.momentum_scale,
        sld_mom_beta=safety.momentum_decay,
    ).images
    ours = sld.SafeLatentDiffusion(model, safety).draw([asked])
    torch.testing.assert_close(ours, torch.from_numpy(expected).permute(0, 3, 1, 2), atol=1e-3, rtol=0)


def test_changed_weights_are_put_back(model):
    before = model.unet.conv_in.bias.detach().clone()
    with pytest.raises(RuntimeError), weights.weights_changed(model.unet, {"conv_in.bias": before + 1}):
        assert not torch.equal(model.unet.conv_in.bias, before)
        raise RuntimeError
    assert torch.equal(model.unet.conv_in.bias, before)
    for wrong in ({}, {"conv_in.bias": torch.zeros(3)}, {"another": torch.zeros(3)}):
        with pytest.raises(PSAError, match="another UNet"), weights.weights_changed(model.unet, wrong):
            pass


def test_weights_go_through_a_file(tmp_path):
    kept = {"conv_in.bias": torch.arange(4.0)}
    weights.save_weights(tmp_path / "esd.safetensors", kept, {"method": "ESD-u"})
    assert torch.equal(weights.load_weights(tmp_path / "esd.safetensors")["conv_in.bias"], kept["conv_in.bias"])
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "esd.safetensors").read_bytes()[:100])
    for name in ("half", "none"):
        with pytest.raises(PSAError):
            weights.load_weights(tmp_path / f"{name}.safetensors")


def test_esd_trains_all_but_cross_attentions_towards_away_and_leaves_the_model_alone(model):
    state = {name: value.clone() for name, value in model.unet.state_dict().items()}
    losses: list[float] = []
    settings = esd.ESDSettings(steps=3, rate=1e-3, batch=2, sampler_steps=3)
    found = esd.train(model, erasing.by_name(), settings, lambda _step, _steps, loss: losses.append(loss))
    assert all(torch.equal(value, state[name]) for name, value in model.unet.state_dict().items())
    assert set(found) == {name for name, _ in model.unet.named_parameters() if ".attn2." not in name}
    assert any(not torch.equal(value, state[name]) for name, value in found.items())
    assert len(losses) == 3 and not any(parameter.requires_grad for parameter in model.unet.parameters())
    again = esd.train(model, erasing.by_name(), settings)
    assert all(torch.equal(value, again[name]) for name, value in found.items())
    with pytest.raises(PSAError, match="nothing to erase"):
        esd.train(model, [], settings)


def test_esds_first_target_is_the_papers(model, monkeypatch):
    """Before the first step the model is the frozen one: the loss is |eps(c) - eps(0) + eta (eps(c) - eps(0))|^2."""
    monkeypatch.setattr(esd, "_on_the_way", lambda *_: (torch.ones(1, 4, 16, 16), 500))
    losses: list[float] = []
    settings = esd.ESDSettings(steps=1, batch=1, negative_guidance=2.0)
    esd.train(model, [erasing.Erased("a star", "")], settings, lambda *told: losses.append(told[2]))
    with torch.no_grad():
        asked, plain = model.unet(torch.ones(2, 4, 16, 16), 500, model.text(["a star", ""])).sample
    assert losses == pytest.approx([float(((1 + 2.0) * (asked - plain)).square().mean())], rel=1e-3)


def test_uce_maps_what_is_erased_to_neutral_and_keeps_what_is_preserved(model):
    erased, kept = erasing.by_name(), ["a desert with a red circle", "a snow"]
    found = uce.edit(model, erased, [], uce.UCESettings(ridge=1e-9))
    layer = cross_attention_layers(model.unet)[0]
    names = {name: parameter for name, parameter in model.unet.named_parameters() if parameter is layer.to_v.weight}
    ((name, weight),) = names.items()
    assert len(found) == 28 and name in found
    star, empty = model.text(["a star"])[0, 2:], model.text([""])[0, :75]
    gap, before = (star @ found[name].T - empty @ weight.T).norm(), ((star - empty) @ weight.T).norm()
    assert gap < 0.5 * before  # 7 x 75 tokens of 64 numbers: not all can be met
    held = uce.edit(model, erased, kept, uce.UCESettings(preserve=1e6, ridge=1e-9))
    tokens = model.text(kept)
    torch.testing.assert_close(tokens @ held[name].T, tokens @ weight.T, atol=1e-2, rtol=0)
    nothing = uce.edit(model, erased, kept, uce.UCESettings(erase=0.0))
    torch.testing.assert_close(nothing[name], weight.detach(), atol=1e-5, rtol=0)


def test_scenes_are_erased_to_themselves_without_the_symbol():
    for each in erasing.in_scenes(2, 0):
        assert each.prompt.startswith(each.neutral) and each.prompt != each.neutral
        assert prompts.without_terms(each.neutral, list(SYMBOLS.values())) == each.neutral


def test_uce_for_a_viewer_erases_what_they_ban_and_nothing_else(model, monkeypatch):
    monkeypatch.setattr(uce, "SCENES", 2)
    method = uce.for_each_viewer(model, "UCE a ban set")
    nobody = replace(REQUESTS[0], profile=FREE)
    assert method.draws_for(nobody)
    alone, strict = method.draw([nobody, REQUESTS[0]])
    (plain,) = adapters.Base(model).draw([nobody])
    assert torch.equal(alone, plain) and not torch.allclose(strict, plain, atol=1e-3)
    assert uce.for_bans(model, []) == {}
    one, other = (uce.for_bans(model, [category]) for category in CATEGORIES[:2])
    name = next(iter(one))
    assert not torch.equal(one[name], other[name])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mini"
    sizes = Sizes(4, 2, train=6, val=1, test_seen=1, test_unseen=1, harmless=3, held_out_users=2, test_held_out=1)
    write_dataset(folder, 1, sizes)
    return folder


SETTINGS = lora.LoRASettings(rank=2, steps=4, batch=2)


def test_a_stopped_lora_goes_on_to_the_same_one(folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "_SAVE_EVERY", 2)
    whole = lora.train_lora(data, folder, ["Hate"], tmp_path / "whole", SETTINGS)

    def stop(step, _steps, _figures):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lora.train_lora(data, folder, ["Hate"], tmp_path / "stopped", SETTINGS, stop)
    steps = []
    resumed = lora.train_lora(
        data, folder, ["Hate"], tmp_path / "stopped", SETTINGS, lambda *told: steps.append(told[0])
    )
    assert steps == [3, 4]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert any(value.any() for name, value in whole.items() if name.endswith(".up"))
    with pytest.raises(PSAError, match="stands for something else"):
        lora.train_lora(data, folder, ["Violence"], tmp_path / "whole", SETTINGS)
    with pytest.raises(PSAError, match="of the seven"):
        lora.train_lora(data, folder, ["Anything"], tmp_path / "other", SETTINGS)


def test_pairs_are_turned_to_what_the_ban_set_prefers(data):
    from psa_core.training import read_split

    for record in read_split(data, "train"):
        for bans in ((), CATEGORIES, record.profile.banned_categories):
            second = lora._second_is_better(record.chosen.name, frozenset(bans))
            chosen = record.rejected if second else record.chosen
            assert chosen.name.endswith("_s.jpg") == (record.category in bans)


def test_merged_weights_draw_what_the_applied_updates_do(model):
    update = lora.LoRA(model.unet, 2)
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(1, 4, 16, 16, generator=generator), 500, model.text(["a star"]))
    with torch.no_grad():
        plain = model.unet(*inputs).sample
        with update.applied():
            assert torch.equal(model.unet(*inputs).sample, plain)  # a new one changes nothing
        for value in update.up:
            value.copy_(0.05 * torch.randn(value.shape, generator=generator))
        with update.applied():
            applied = model.unet(*inputs).sample
        with weights.weights_changed(model.unet, lora.merged(model.unet, update.factors())):
            torch.testing.assert_close(model.unet(*inputs).sample, applied, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(applied, plain, atol=1e-3)
    with pytest.raises(PSAError, match="another UNet"):
        lora.merged(model.unet, {"x.up": torch.zeros(2, 2), "x.down": torch.zeros(2, 2)})


def test_each_viewer_gets_the_lora_of_their_ban_set(model, drawn):
    update = lora.LoRA(model.unet, 2)
    with torch.no_grad():
        for value in update.up:
            value.fill_(0.05)
    nothing = lora.LoRA(model.unet, 2).factors()
    factors = {frozenset(CATEGORIES): update.factors(), frozenset(SOME.banned_categories): nothing}
    of_set = {bans: lora.merged(model.unet, each) for bans, each in factors.items()}
    method = weights.PerBanSet(model, "LoRA a ban set", of_set.__getitem__, of_set)
    asked = [REQUESTS[2], REQUESTS[0]]
    some, strict = method.draw(asked)
    torch.testing.assert_close(some, drawn["base"][2], atol=1e-3, rtol=0)
    assert not torch.allclose(strict, drawn["base"][0], atol=1e-3)
    assert [method.draws_for(each) for each in REQUESTS] == [True, False, True]
    with pytest.raises(PSAError, match="no weights for"):
        method.draw(REQUESTS)
