"""Inside ComfyUI: what training on a MODEL promises. Argument: a folder with Sage splits in `data`.

Everything runs under inference mode, as ComfyUI runs its nodes, on small UNets made under it.
"""

import sys
import tempfile
from pathlib import Path

from in_comfyui import pack_module, run_checks, start_comfyui

data = Path(sys.argv[1]) / "data"
start_comfyui()

import contextlib
import copy
import hashlib
import math
from unittest import mock

import comfy.ldm.models.autoencoder
import comfy.ldm.modules.attention as attention
import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscrete, ModelSamplingDiscreteDistilled
from PIL import Image
from random_unets import SD15, SDXL

core, training, denoisers, apply, attn2, train = (
    pack_module(name)
    for name in (
        "psa_core",
        "psa_core.training",
        "nodes.comfy.denoiser",
        "nodes.apply",
        "nodes.comfy.attn2",
        "nodes.comfy.training_run",
    )
)

POOLED, TEXT = 32, 48
SMALL = {"model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "context_dim": TEXT}
CONFIGS = {
    "sd15": SD15 | SMALL | {"transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0], "num_heads": 4},
    "sdxl": SDXL
    | SMALL
    | {
        "transformer_depth": [1, 2],
        "transformer_depth_output": [1, 1, 2, 2],
        "transformer_depth_middle": 2,
        "num_head_channels": 16,
        "adm_in_channels": POOLED + 6 * 256,
    },
}
QUICK = {
    "resolution": 64,
    "bucket_step": 16,
    "batch_size": 2,
    "effective_batch_size": 4,
    "steps": 60,
    "warmup_steps": 5,
    "learning_rate": 5e-4,
    "schedule": "cosine",
    "beta": 500.0,
    "timestep_range": (0, 400),  # where the pictures' colours are not lost in noise
    "save_every": 10,
    "gradient_checkpointing": True,
}
STORED = ((torch.float32, None), (torch.bfloat16, None), (torch.float16, None), (torch.float8_e4m3fn, torch.bfloat16))


def small_model(family="sd15", dtype=torch.float32, cast=None, kind=comfy.model_base.ModelType.EPS, **config):
    """A MODEL as ComfyUI's loader makes it, weights of inference mode included.

    Its first and last layers are strong, so that colours in the latents reach the prediction.
    """
    supported = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[family]
    base = {"sd15": comfy.model_base.BaseModel, "sdxl": comfy.model_base.SDXL}[family]
    unet_config = CONFIGS[family] | config
    model_config = supported(dict(unet_config))
    model_config.unet_config = unet_config | {"dtype": dtype}
    model_config.set_inference_dtype(dtype, cast)
    model = ModelPatcher(base(model_config, kind, torch.device("cpu")), torch.device("cpu"), torch.device("cpu"))
    fill(model.model.diffusion_model, strong=("input_blocks.0", "out."))
    return model


def fill(module, strong=()):
    """Random weights: ComfyUI's layers have none of their own."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            value = 0.05 * value + name.endswith("weight")
        else:
            value *= (3.0 if name.startswith(strong) else 0.5) / parameter[0].numel() ** 0.5
        parameter.data.copy_(value)


def encode_images(pixels):
    mix = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, -0.5, 0.5]])
    return torch.einsum("oc,bchw->bohw", mix, torch.nn.functional.avg_pool2d(pixels, 8))


def encode_texts(family):
    def encode(captions):
        seeds = [int.from_bytes(hashlib.sha256(caption.encode()).digest()[:7], "big") for caption in captions]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        text = {"text": torch.stack([torch.randn(4, TEXT, generator=g) for g in generators])}
        if family == "sdxl":
            text["pooled"] = torch.stack([torch.randn(POOLED, generator=g) for g in generators])
        return text

    return encode


def pairs_of(family, name, config, **options):
    split, cache = training.read_split(data, name), training.TensorCache(data / "cache")
    images = training.ImageEncoder("toy-vae", encode_images)
    texts = training.TextEncoder(f"toy-text-{family}", encode_texts(family))
    training.fill_cache(split, cache, config, images, texts)
    return training.PairDataset(
        split, cache, config, images, texts, training.encode_users(split, core.StructuredEncoder()), **options
    )


@contextlib.contextmanager
def trainer(family, model, folder, held_out=(), **settings):
    config = training.TrainConfig.from_dict(QUICK | settings)
    held = {name: pairs_of(family, name, config, held_out=True) for name in held_out}
    with denoisers.borrowed(model, config.precision) as denoiser:
        # One key for all runs: without it each starts from other weights.
        yield training.Trainer(config, denoiser, pairs_of(family, "train", config), folder, held, key=bytes(range(16)))


def run(family, model, folder, callback=None, **settings):
    with trainer(family, model, folder, **settings) as job:
        return job.train(callback)


def new_adapter(model, num_tokens=1, std=0.3):
    sites = attn2.cross_attention_sites(model.model.diffusion_model)
    with torch.inference_mode(False):
        torch.manual_seed(num_tokens)
        adapter = core.PSAAdapter([s.width for s in sites], TEXT, 35, num_tokens, "structured-v1")
        for layer in adapter.psa_adapter:
            for linear in (layer.to_k_user[0], layer.to_v_user[0]):
                torch.nn.init.normal_(linear.weight, std=std)
    return adapter


def batch_of(family, rows=3):
    generator = torch.Generator().manual_seed(9)
    with torch.inference_mode(False):
        conditioning = {
            "text": torch.randn(rows, 5, TEXT, generator=generator),
            "sizes": torch.tensor([[64.0, 72.0, 0.0, 4.0, 64.0, 64.0]]).repeat(rows, 1) + torch.arange(rows)[:, None],
        }
        if family == "sdxl":
            conditioning["pooled"] = torch.randn(rows, POOLED, generator=generator)
        return torch.randn(rows, 4, 8, 8, generator=generator), torch.tensor([20, 500, 999])[:rows], conditioning


def embedding():
    return core.StructuredEncoder().encode([core.LEVELS["L5"]])


def gradients(family, model, adapter, precision="bf16"):
    """Gradients of one fixed function of the denoiser's prediction, by parameter."""
    noisy, timesteps, conditioning = batch_of(family)
    with denoisers.borrowed(model, precision) as denoiser, torch.inference_mode(False), torch.enable_grad():
        adapter.zero_grad()
        tokens = adapter.user_tokens(embedding().vectors.clone())
        output = denoiser(noisy, timesteps, conditioning, training.User(adapter, tokens))
        direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
        (output * direction).sum().backward()
    return {name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None}


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def as_sampled(family, model, patched):
    """The prediction that sampling with `patched` gets from ComfyUI's own `apply_model`, at the rows of `batch_of`."""
    noisy, timesteps, conditioning = batch_of(family)
    management.load_models_gpu([patched])
    base = patched.model
    extra = {}
    if family == "sdxl":
        names = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
        y = [
            base.encode_adm(pooled_output=pooled[None], **dict(zip(names, sizes, strict=True)))
            for pooled, sizes in zip(conditioning["pooled"], conditioning["sizes"].tolist(), strict=True)
        ]
        extra["y"] = torch.cat(y)
    sampling = base.model_sampling
    sigma = sampling.sigmas[timesteps]
    x = noisy * (sigma**2 + 1).sqrt()[:, None, None, None]  # sampling's own scale
    denoised = base.apply_model(
        x,
        sigma,
        c_crossattn=conditioning["text"],
        transformer_options=patched.model_options["transformer_options"] | {"cond_or_uncond": [0], "sigmas": sigma},
        **extra,
    )
    return denoised, lambda output: sampling.calculate_denoised(sigma, output, x)


def snapshot(model):
    """All of a MODEL that training could leave changed."""
    unet = model.model.diffusion_model
    return {
        "weights": {key: value.clone() for key, value in model.model.state_dict().items()},
        "gradients on": {name: p.requires_grad for name, p in unet.named_parameters()},
        "gradients": [name for name, p in unet.named_parameters() if p.grad is not None],
        "options": copy.deepcopy(model.model_options),
        "attributes": {
            name: {key: vars(m).get(key) for key in ("forward", "comfy_cast_weights", "training")}
            for name, m in unet.named_modules()
        },
        "hooks": [name for name, m in unet.named_modules() if m._forward_hooks or m._forward_pre_hooks],
        "loaded": [entry.model for entry in management.current_loaded_models],
    }


def assert_same(before, after):
    for key, value in before["weights"].items():
        assert value.view(torch.uint8).equal(after["weights"][key].view(torch.uint8)), key
    assert [key for key in before if key != "weights" and before[key] != after[key]] == []


def check_the_loss_falls_because_the_profile_is_used():
    """Held-out pairs of unseen users: only the profile tells which picture of a pair is preferred."""
    for family in CONFIGS:
        for num_tokens in (1, 2):
            model = small_model(family)
            settings = {"held_out": ("test_unseen",), "evaluate_every": 60, "num_tokens": num_tokens}
            losses, accuracies = {}, {}
            for name, dropout in {"told": 0.0, "not told": 1.0}.items():
                with tempfile.TemporaryDirectory() as folder:
                    run(family, model, folder, profile_dropout=dropout, **settings)
                    first, *_, last = training.read_metrics(folder)
                # A new adapter prefers nothing: log 2.
                assert abs(first["preference_loss"] - math.log(2)) < 0.01, first
                losses[name], accuracies[name] = last["test_unseen/loss"], last["test_unseen/accuracy"]
            print(family, num_tokens, losses, accuracies)
            assert losses["told"] < min(math.log(2), losses["not told"])
            assert accuracies["told"] > accuracies["not told"]


def check_every_storage_trains():
    for family in CONFIGS:
        exact_model = small_model(family)
        adapter = new_adapter(exact_model)
        for dtype, cast in STORED:
            model = small_model(family, dtype, cast)
            # the same stored values in float32: what remains is the cost of computing in bfloat16
            for ours, theirs in zip(exact_model.model.parameters(), model.model.parameters(), strict=True):
                ours.data.copy_(theirs.data.float())
            exact = flat(gradients(family, exact_model, adapter))
            actual = flat(gradients(family, model, adapter))
            cosine = torch.nn.functional.cosine_similarity(exact, actual, dim=0).item()
            print(family, dtype, f"cosine to float32's gradient {cosine:.4f}")
            assert cosine > (0.99999 if dtype == torch.float32 else 0.98)
            with tempfile.TemporaryDirectory() as folder:
                run(family, model, folder, steps=3)
                losses = [row["loss"] for row in training.read_metrics(folder)]
            assert len(losses) == 3 and all(loss == loss for loss in losses), losses


def check_float16_is_computed_in_bfloat16():
    """Values beyond float16's range go through a float16 model's layers."""
    model = small_model("sd15", torch.float16)
    noisy, timesteps, conditioning = batch_of("sd15")
    model.model.diffusion_model.input_blocks[0][0].weight.data.mul_(1000)
    with denoisers.borrowed(model, "bf16") as denoiser, torch.no_grad():
        assert torch.isfinite(denoiser(noisy * 1000, timesteps, conditioning)).all()


def check_the_model_is_as_it_was():
    for family, (dtype, cast) in (("sd15", STORED[0]), ("sd15", STORED[2]), ("sdxl", STORED[1]), ("sdxl", STORED[3])):
        model = small_model(family, dtype, cast)
        plain, _ = as_sampled(family, model, model)
        management.unload_all_models()
        before = snapshot(model)
        with tempfile.TemporaryDirectory() as folder:
            run(family, model, folder, steps=2, num_tokens=2)
        assert_same(before, snapshot(model))
        assert as_sampled(family, model, model)[0].equal(plain)
        assert not any(p.is_inference() for p in model.model.diffusion_model.parameters())


def check_a_loaded_model_stays_loaded_and_a_failed_run_leaves_nothing():
    model = small_model("sd15", torch.float16)
    management.load_models_gpu([model])
    before = snapshot(model)

    def fail(progress):
        raise OSError("the callback failed")

    with tempfile.TemporaryDirectory() as folder:
        for callback in (lambda progress: progress.step == 1, fail):
            with contextlib.suppress(OSError):
                run("sd15", model, folder, callback)
    assert_same(before, snapshot(model))
    management.unload_all_models()


def check_it_trains_what_sampling_applies():
    """The denoiser's prediction with a user is PSA Apply's, for noise and velocity models, with one token and two."""
    for family in CONFIGS:
        for kind in (comfy.model_base.ModelType.EPS, comfy.model_base.ModelType.V_PREDICTION):
            for num_tokens in (1, 2):
                model = small_model(family, kind=kind)
                adapter = new_adapter(model, num_tokens)
                noisy, timesteps, conditioning = batch_of(family)
                with denoisers.borrowed(model, "bf16") as denoiser, torch.no_grad():
                    plain = denoiser(noisy, timesteps, conditioning)
                    user = training.User(adapter, adapter.user_tokens(embedding()))
                    applied = denoiser(noisy, timesteps, conditioning, user)
                assert (applied - plain).norm() / plain.norm() > 0.05
                for ours, patched in ((plain, model), (applied, apply.apply_adapter(model, adapter, embedding()))):
                    expected, denoised = as_sampled(family, model, patched)
                    assert torch.allclose(denoised(ours), expected, rtol=1e-4, atol=1e-4), (family, kind, num_tokens)


def check_loras_count_and_stay_outside_the_weights():
    model = small_model("sd15")
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    with_lora = model.clone()
    shift = torch.randn_like(model.model.state_dict()[key])
    with_lora.add_patches({key: (shift,)}, 0.5)
    assert not denoised_equal(model, with_lora)
    management.unload_all_models()
    before = snapshot(model)
    noisy, timesteps, conditioning = batch_of("sd15")
    with denoisers.borrowed(with_lora, "bf16") as denoiser, torch.no_grad():
        ours = denoiser(noisy, timesteps, conditioning)
    assert_same(before, snapshot(model))
    assert not with_lora.backup
    expected, denoised = as_sampled("sd15", with_lora, with_lora)
    assert torch.allclose(denoised(ours), expected, rtol=1e-4, atol=1e-4)
    management.unload_all_models()
    with tempfile.TemporaryDirectory() as folder:
        run("sd15", with_lora, folder, steps=2)
    assert_same(before, snapshot(model))


def denoised_equal(*models):
    first, second = (as_sampled("sd15", model, model)[0] for model in models)
    return first.equal(second)


def check_an_attention_without_gradients_is_not_used():
    model = small_model("sd15")
    adapter = new_adapter(model)
    expected = flat(gradients("sd15", model, adapter))

    @attention.wrap_attn
    def no_gradient(*args, **kwargs):  # as kernels made for sampling alone
        return attention.attention_pytorch(*args, **kwargs).detach()

    with mock.patch.object(attention, "optimized_attention", no_gradient):
        assert torch.allclose(flat(gradients("sd15", model, adapter)), expected, rtol=1e-4, atol=1e-6)


def check_checkpointing_changes_no_gradient():
    for family in CONFIGS:
        model = small_model(family)
        adapter = new_adapter(model, num_tokens=2)
        expected = gradients(family, model, adapter)
        with mock.patch.object(denoisers, "_recomputed", lambda forward, *args, **kwargs: forward(*args, **kwargs)):
            stored = gradients(family, model, adapter)
        assert all(torch.allclose(stored[name], value, rtol=1e-5, atol=1e-7) for name, value in expected.items())
        assert any(value.norm() > 0 for name, value in expected.items() if "to_k_user" in name)


def check_an_interrupted_run_ends_as_the_uninterrupted_one():
    """Cancel between two steps, Cancel in the middle of one, and the same again."""
    for family, precision in (("sd15", STORED[0]), ("sdxl", STORED[1])):
        settings = {"steps": 8, "num_tokens": 2, "save_every": 3}

        def cancel_at(step):
            def callback(progress):
                if progress.step == step:
                    management.interrupt_current_processing()
                    if step % 2:  # between steps; otherwise the next step meets it on its way
                        management.throw_exception_if_processing_interrupted()

            return callback

        with tempfile.TemporaryDirectory() as folder:
            whole = run(family, small_model(family, *precision), f"{folder}/whole", **settings)
            for step in (2, 5):
                try:
                    run(family, small_model(family, *precision), f"{folder}/cut", cancel_at(step), **settings)
                except management.InterruptProcessingException:
                    pass
                else:
                    raise AssertionError("not interrupted")
                assert len(training.read_metrics(f"{folder}/cut")) == step
            resumed = run(family, small_model(family, *precision), f"{folder}/cut", **settings)
            again = run(family, small_model(family, *precision), f"{folder}/cut", **settings)
        for name, value in whole.adapter.state_dict().items():
            assert value.equal(resumed.adapter.state_dict()[name]), name
            assert value.equal(again.adapter.state_dict()[name]), name


def check_a_preview_shows_the_adapter_and_changes_nothing():
    from PIL import ImageChops

    preview_module = pack_module("nodes.comfy.train_preview")
    model = small_model("sdxl")
    drawn = []

    def callback(progress):
        drawn.append(preview.draw(progress.adapter()))

    with tempfile.TemporaryDirectory() as folder:
        plain = run("sdxl", model, f"{folder}/plain", steps=3)
        with trainer("sdxl", model, f"{folder}/shown", steps=3) as job:
            preview = preview_module.Preview(job.denoiser, job.pairs, model.get_model_object("latent_format"))
            shown = job.train(callback)
            base, viewer = preview.draw(new_adapter(model, std=2.0))
    assert all(value.equal(plain.adapter.state_dict()[name]) for name, value in shown.adapter.state_dict().items())
    assert len(drawn) == 3 and base.size == (8, 8)
    assert all(pictures[0] == base for pictures in drawn)
    assert ImageChops.difference(base, viewer).getbbox() is not None


def dynamic_model(family="sd15", again=True):
    """A MODEL as v0.33 makes it for NVIDIA cards, on the processor; none before there were such."""
    plain = small_model(family)
    kind = getattr(comfy.model_patcher, "ModelPatcherDynamic", None)
    if kind is None:
        return None
    device = torch.device("cpu")
    with (
        mock.patch.object(management, "is_device_cpu", lambda _: False),  # else a plain one is made
        mock.patch.object(comfy.model_patcher.comfy_aimdo.host_buffer, "HostBuffer", mock.Mock()),
    ):
        model = kind(plain.model, device, device)
    if again:
        model.cached_patcher_init = (lambda disable_dynamic=False: small_model(family), ())
    return model


def check_a_model_whose_weights_come_and_go_is_copied():
    model = dynamic_model()
    if model is None:
        return
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    shift = {key: (torch.randn_like(model.model.state_dict()[key]),)}
    plain = small_model()
    for each in (model, plain):
        each.add_patches(shift, 0.5)
    noisy, timesteps, conditioning = batch_of("sd15")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    outputs = []
    for each in (plain, model):
        with denoisers.borrowed(each, "bf16") as denoiser, torch.no_grad():
            assert management.in_training
            assert (denoiser._base is each.model) == (each is plain)
            outputs.append((denoiser.id, denoiser(noisy, timesteps, conditioning)))
        assert not getattr(management, "in_training", False)
    (plain_id, expected), (copy_id, actual) = outputs
    assert actual.equal(expected) and copy_id == plain_id
    assert all(value.equal(model.model.state_dict()[name]) for name, value in before.items())
    assert not management.current_loaded_models
    with tempfile.TemporaryDirectory() as folder:
        whole = run("sd15", plain, f"{folder}/plain", steps=2)
        copied = run("sd15", model, f"{folder}/copied", steps=2)
    assert all(value.equal(copied.adapter.state_dict()[name]) for name, value in whole.adapter.state_dict().items())
    expect_refusal("a loader that cannot load again", lambda: run("sd15", dynamic_model(again=False), "/nonexistent"))


def check_weights_are_known_by_what_they_compute_with():
    """Values, LoRAs and their strength; merged or not yet makes no difference."""
    weights = pack_module("nodes.comfy.weights")
    model = small_model()
    unet, key = model.model.diffusion_model, "diffusion_model.out.2.weight"
    shift = torch.randn_like(model.model.state_dict()[key])

    def with_lora(shift, strength):
        changed = model.clone()
        changed.add_patches({key: ("diff", (shift,))}, strength)
        return changed

    def id_of(each):
        return weights.weights_id(each, unet)

    lora = with_lora(shift, 0.5)
    not_merged = id_of(lora)
    management.load_models_gpu([lora])
    assert id_of(lora) == not_merged and id_of(with_lora(shift.clone(), 0.5)) == not_merged
    plain = id_of(model)
    management.unload_all_models()
    assert id_of(model) == plain == id_of(model.clone())
    assert len({plain, not_merged, id_of(with_lora(shift, 0.6)), id_of(with_lora(shift + 1, 0.5))}) == 4
    model.model.state_dict()[key].mul_(0.5)
    assert id_of(model) != plain
    model.injections["bypass_lora"] = [object()]
    expect_refusal("bypass", lambda: run("sd15", model, "/nonexistent"))


def check_an_id_tells_any_two_models_apart():
    """By every value of every weight, the noise schedule and what is predicted; an earlier version's id by samples."""
    weights = pack_module("nodes.comfy.weights")
    model = small_model()
    unet = model.model.diffusion_model

    def id_of(each, whole=True):
        with denoisers.borrowed(each, "bf16", whole) as denoiser:
            return denoiser.id

    plain, sampled = id_of(model), id_of(model, whole=False)
    assert weights.is_whole(plain) and not weights.is_whole(sampled) and plain != sampled
    assert id_of(small_model()) == plain
    others = {id_of(patched_sampling(model, *settings)) for settings in (("v_prediction", False), ("eps", True))}
    assert len({plain, *others}) == 3
    assert id_of(patched_sampling(model, "eps", False)) == plain
    assert len({id_of(small_model(dtype=torch.float16)), plain, *others}) == 4
    big = max(unet.state_dict().values(), key=torch.numel).reshape(-1)
    big[1] += 1  # no sample
    assert id_of(model) != plain and id_of(model, whole=False) == sampled


def patched_sampling(model, kind, zsnr):
    return ModelSamplingDiscrete().patch(model, kind, zsnr)[0]


def check_a_run_does_not_go_on_with_another_noise_schedule():
    with tempfile.TemporaryDirectory() as folder:
        run("sd15", small_model(), f"{folder}/run", steps=2)
        for zsnr in (False, True):
            changed = patched_sampling(small_model(), "v_prediction", zsnr)
            try:
                run("sd15", changed, f"{folder}/run", steps=2)
            except core.PSAError as error:
                assert "another base model" in str(error), error
            else:
                raise AssertionError("not refused")


def check_a_run_that_an_earlier_version_began_goes_on_by_its_own_ids():
    with tempfile.TemporaryDirectory() as folder:
        folder, borrowed = Path(folder), denoisers.borrowed
        assert train._tells_all_weights(folder / "new")
        run("sd15", small_model(), folder / "now", steps=2)
        assert train._tells_all_weights(folder / "now")
        with mock.patch.object(denoisers, "borrowed", lambda *given: borrowed(*given, whole=False)):
            run("sd15", small_model(), folder / "earlier", lambda progress: progress.step == 2, steps=4)
            assert not train._tells_all_weights(folder / "earlier")
            resumed = run("sd15", small_model(), folder / "earlier", steps=4)
        whole = run("sd15", small_model(), folder / "whole", steps=4)
        assert all(
            value.equal(resumed.adapter.state_dict()[name]) for name, value in whole.adapter.state_dict().items()
        )


def check_a_caption_names_no_file_here():
    """`embedding:name` opens the file of that name in CLIP Text Encode, and in a stranger's caption is two words."""
    inputs = pack_module("nodes.comfy.training_inputs")
    opened = []

    def load_embed(name, *_):
        opened.append(name)

    tokenizer = comfy.sdxl_clip.SDXLTokenizer(embedding_directory=["/somewhere"])

    class Clip:
        def __init__(self):
            self.tokenizer, self.read = tokenizer, []

        def tokenize(self, text):
            return self.tokenizer.tokenize_with_weights(text)

        def encode_from_tokens(self, tokens, return_pooled):
            self.read.append([token for chunk in tokens["l"] for token, _ in chunk])
            return torch.zeros(1, 77, TEXT), torch.zeros(1, POOLED)

    with mock.patch.object(comfy.sd1_clip, "load_embed", load_embed):
        for caption in ("embedding:secret", "a cat embedding:secret, here", "a cat\nembedding:"):
            clip = Clip()
            inputs.encoded_texts(clip, small_model("sdxl"), TEXT, [caption, caption.replace(":", " : ")])
            assert opened == [] and clip.read[0] == clip.read[1], caption
        inputs.encoded_texts(Clip(), small_model("sdxl"), TEXT, ["a cat embedding:typed"], are_typed=True)
        assert set(opened) == {"typed"}
        assert tokenizer.clip_l.embedding_directory == ["/somewhere"]


def small_vae(dtype=torch.float32):
    """A VAE as ComfyUI's loader makes it."""
    config = {
        "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_channels": 4, "in_channels": 3, "out_ch": 3,
        "double_z": True, "resolution": 64, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    model = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=config, embed_dim=4)
    fill(model)
    return comfy.sd.VAE(sd=model.state_dict(), config={"params": {"ddconfig": config, "embed_dim": 4}}, dtype=dtype)


def check_latents_are_the_posteriors_mean_or_a_seeded_sample_in_float32():
    inputs = pack_module("nodes.comfy.training_inputs")
    vae, model = small_vae(), small_model()
    images = inputs.image_encoder(vae, model)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def sample(seed):
        return images.sample(pixels, torch.Generator().manual_seed(seed))

    mean = images.encode(pixels)
    moments = vae.first_stage_model.quant_conv(vae.first_stage_model.encoder(pixels))
    spread = (moments.chunk(2, 1)[1].clamp(-30, 20) / 2).exp() * model.get_model_object("latent_format").scale_factor
    generator = torch.Generator().manual_seed(3)
    noise = torch.cat([torch.randn(1, *mean.shape[1:], generator=generator) for _ in pixels])
    assert torch.allclose(sample(3), mean + spread * noise, rtol=1e-3, atol=1e-4)
    assert sample(3).equal(sample(3)) and not sample(3).equal(sample(4))
    assert images.encode(pixels).equal(mean), "sampling left the VAE changed"
    if hasattr(management, "intermediate_dtype"):
        with mock.patch.object(management, "intermediate_dtype", lambda: torch.float16):  # --fp16-intermediates
            assert vae.encode((pixels.movedim(1, -1) + 1) / 2).dtype == torch.float16
            halved = images.encode(pixels)
        assert halved.dtype == torch.float32 and torch.allclose(halved, mean, rtol=1e-2, atol=1e-2)


def check_runs_lie_out_of_the_servers_reach_and_earlier_ones_are_moved_there():
    import folder_paths

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        earlier = folder / "output" / "psa_training" / "mine"
        earlier.mkdir(parents=True)
        (earlier / "state.pt").write_bytes(b"a state")
        with (
            mock.patch.object(folder_paths, "get_output_directory", lambda: str(folder / "output")),
            mock.patch.object(folder_paths, "get_user_directory", lambda: str(folder / "user")),
        ):
            other, mine = train.run_folder("other"), train.run_folder("mine")
            assert train.run_folder("mine") == mine
        assert {other.parent, mine.parent} == {folder / "user" / "__psa_training"}
        assert (mine / "state.pt").read_bytes() == b"a state" and not earlier.exists() and not other.exists()


def check_refusals():
    adapter_model, lcm, flow = small_model(), small_model(), small_model()
    for model, bases in (
        (lcm, (ModelSamplingDiscreteDistilled, LCM)),
        (flow, (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST)),
    ):
        model.add_object_patch("model_sampling", type("Sampling", bases, {})(model.model.model_config))
    other = small_model("sdxl")
    other.model.__class__ = comfy.model_base.BaseModel
    refused = {
        "inpainting": small_model(in_channels=9),
        "other extra input": other,
        "PSA Apply": apply.apply_adapter(adapter_model, new_adapter(adapter_model), embedding()),
        "LCM": lcm,
        "flow": flow,
    }
    for name, model in refused.items():
        expect_refusal(name, lambda model=model: run("sd15", model, "/nonexistent"))


def check_a_model_loaded_in_part_is_refused_and_put_back():
    model = small_model("sd15")
    before = snapshot(model)

    load = management.load_models_gpu

    def load_in_part(models, **options):  # as --novram does on a graphics card
        load(models, **options)
        models[0].model.model_lowvram = True

    with mock.patch.object(management, "load_models_gpu", load_in_part):
        expect_refusal("in part", lambda: run("sd15", model, "/nonexistent"))
    assert_same(before, snapshot(model))


def expect_refusal(name, action):
    try:
        action()
    except core.PSAError as error:
        print(name, "->", error)
        assert str(error).endswith("."), error
    else:
        raise AssertionError(f"not refused: {name}")


def check_presets():
    settings = {"steps": 10, "batch_size": 2, "seed": 1, "save_every": 5, "evaluate_every": 0}
    own = {"learning_rate": 1e-3, "resolution": 256, "num_tokens": 3}
    custom = train.training_config("custom", "sd15", settings, own)
    assert (custom.learning_rate, custom.resolution, custom.num_tokens) == (1e-3, 256, 3)
    assert custom.effective_batch_size == custom.batch_size == 2 and custom.winner_weight > 0
    assert (custom.optimizer, custom.schedule) == ("adamw", "constant")
    assert train.training_config("custom", "sdxl", settings, own).optimizer == "adafactor"
    recommended = train.training_config("recommended", "sd15", settings | {"flip": False}, own)
    assert (recommended.timestep_range, recommended.resolution, recommended.flip) == ("measured", 512, False)
    assert recommended.effective_batch_size == 16 and recommended.learning_rate != 1e-3
    mini = train.training_config("recommended", "mini", settings | {"flip": True}, own)
    assert (mini.resolution, mini.flip, mini.steps) == (128, False, 10)
    published = train.training_config("published", "sdxl", settings, own)
    assert (published.resolution, published.learning_rate, published.effective_batch_size) == (1024, 5e-6, 128)
    assert published.winner_weight == 0 and published.steps == 10


def check_a_preset_keeps_its_own_steps_and_batch_size_where_nobody_gives_others():
    presets = core.training.config.PRESETS
    settings = {"steps": 0, "batch_size": 0, "seed": 1, "save_every": 5, "flip": True}
    own = {"learning_rate": 1e-3, "resolution": 256, "num_tokens": 3}
    for preset in ("recommended", "published"):
        for kind, name in (("sd15", preset), ("sdxl", f"{preset}-sdxl")):
            made = train.training_config(preset, kind, settings, own)
            as_said = core.training.TrainConfig.from_dict({"preset": name})
            differs = {key for key, value in as_said.to_dict().items() if made.to_dict()[key] != value}
            assert differs <= {"seed", "save_every", "gradient_checkpointing"}, (name, differs)
    assert train.training_config("recommended", "sdxl", settings, own).steps == presets["recommended-sdxl"]["steps"]
    mini = train.training_config("recommended", "mini", settings, own)
    assert mini.to_dict() == core.training.TrainConfig.from_dict(train.CONFIG | {"seed": 1, "save_every": 5}).to_dict()
    custom = train.training_config("custom", "sdxl", settings, own)
    assert (custom.steps, custom.effective_batch_size) == (presets["recommended-sdxl"]["steps"], custom.batch_size)
    given = train.training_config("recommended", "sdxl", settings | {"steps": 7, "batch_size": 8}, own)
    assert (given.steps, given.batch_size, given.effective_batch_size) == (7, 8, 16)
    three = train.training_config("custom", "sd15", settings | {"batch_size": 3}, own)
    assert three.batch_size == three.effective_batch_size == 3


def check_warnings_stay_on_the_node_in_words_that_it_has_inputs_for():
    metrics, node = pack_module("psa_core.training.metrics"), pack_module("nodes.train").Train
    inputs = {each.id for each in node.define_schema().inputs}
    said, watch = [], metrics.WinnerWatch(limit=0.0)
    figures = {"winner_gap": 1.0, "reference_winner_error": 1.0}
    shown = {"eta_seconds": 1.0, "preference_loss": 0.5, "accuracy": 0.5}
    with tempfile.TemporaryDirectory() as folder:
        view = train.RunView(None, Path(folder), preview_every=1)
        view.preview = mock.Mock(draw=mock.Mock(side_effect=management.OOM_EXCEPTION("none left")))
        with (
            mock.patch.object(view, "say", said.append),
            mock.patch.object(view, "plot", lambda: Image.new("RGB", (8, 8))),
        ):
            for step in (1, 2, 3):
                message = watch.update(figures)
                view(training.Progress(step, 3, shown, message, adapter=lambda: None))
            view.warned(watch.sentence)  # as a run that goes on says it
            view.stopped()
    assert all("drifting to noise" in text and "has risen" in text for text in said), said
    assert all("no memory for preview" in text for text in said[1:]), said
    assert all(text.count("has risen") == 1 for text in said), "each warning once"
    assert not any("winner_weight" in text for text in said)
    named = {word.strip("().,") for text in said for word in text.split() if "_" in word}
    assert named and named <= inputs, named - inputs


with torch.inference_mode():
    run_checks(globals())
