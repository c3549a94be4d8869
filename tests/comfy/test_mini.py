"""PSA Mini in ComfyUI: the same model there as in diffusers, and one that stock nodes and our own can work with."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy_cli.workflow_to_api import convert_ui_to_api
from diffusers import AutoencoderKL, UNet2DConditionModel
from graphs import Drawing, Graph, Link, Patch, call, differ, draw, output, psa
from mini_models import write_untrained_base
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from psa_core import PSAError, load_adapter
from psa_core.comfy_server import PACK
from psa_core.mini import PSA_ADAPTER, Detector, base_model, parse_prompt, render, sample_scene
from psa_core.mini.dataset import Sizes, write_dataset
from psa_core.training import read_metrics

SCRIPT = Path(__file__).parent / "scripts" / "run_mini.py"
PROMPTS = ["", "a meadow with a red circle and a heart", "a sea, with an unheard-of thing"]
HEART = PROMPTS[1]
ADAPTER: Link = ["1", 3]  # of the loader, which is each graph's first node
SAMPLERS = ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "uni_pc"]


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    """An untrained model, and what to run it on."""
    folder = tmp_path_factory.mktemp("mini")
    write_untrained_base(folder / "base")
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "latents": torch.randn(3, 4, 16, 24, generator=generator),
        "text": torch.randn(3, 77, 64, generator=generator),
        "timesteps": torch.tensor([1.0, 500.0, 999.0]),
        "pixels": torch.rand(3, 128, 192, 3, generator=generator),
    }
    save_file(inputs, folder / "inputs.safetensors")
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    return folder


@pytest.fixture(scope="module")
def inputs(case) -> dict[str, torch.Tensor]:
    return load_file(case / "inputs.safetensors")


@pytest.fixture(scope="module")
def outputs(case, comfy_python) -> dict[str, torch.Tensor]:
    """What ComfyUI makes of the model."""
    comfy_python(SCRIPT, case)
    return load_file(case / "outputs.safetensors")


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((actual - expected).norm() / expected.norm() < 1e-4)


def test_the_unet_predicts_the_same_noise(case, inputs, outputs):
    unet = UNet2DConditionModel.from_pretrained(case / "base" / "unet").float().eval()
    with torch.no_grad():
        expected = unet(inputs["latents"], inputs["timesteps"], inputs["text"]).sample
    assert close(outputs["noise"], expected)


def test_the_vae_decodes_and_encodes_the_same(case, inputs, outputs):
    vae = AutoencoderKL.from_pretrained(case / "base" / "vae").float().eval()
    with torch.no_grad():
        decoded = vae.decode(inputs["latents"]).sample.movedim(1, -1)
        encoded = vae.encode(2 * inputs["pixels"].movedim(-1, 1) - 1).latent_dist.mode()
    assert close(outputs["decoded"], (decoded / 2 + 0.5).clamp(0, 1))
    assert close(outputs["encoded"], encoded)


def test_the_text_encoder_says_the_same(case, outputs):
    """Its last layer, the one before, and the pooled text."""
    encoder = CLIPTextModel.from_pretrained(case / "base" / "text_encoder").float().eval()
    tokens = base_model.tokenize(base_model.load_tokenizer(case / "base"), PROMPTS)
    assert torch.equal(outputs["tokens"].long(), tokens)
    with torch.no_grad():
        expected = encoder(tokens, output_hidden_states=True)
        before = getattr(encoder, "text_model", encoder).final_layer_norm(expected.hidden_states[-2])
    assert close(outputs["text"], expected.last_hidden_state)
    assert close(outputs["text_skip_1"], before)
    assert close(outputs["pooled"], expected.pooler_output)
    assert not close(outputs["text_skip_1"], expected.last_hidden_state)


def test_weights_in_prompts_count(case, outputs):
    encoder = CLIPTextModel.from_pretrained(case / "base" / "text_encoder").float().eval()
    tokens = base_model.tokenize(base_model.load_tokenizer(case / "base"), ["a red circle and a heart", ""])
    with torch.no_grad():
        plain, empty = encoder(tokens).last_hidden_state
    expected = plain.clone()
    expected[1:4] = empty[1:4] + 1.5 * (plain - empty)[1:4]  # ComfyUI's meaning of a weight
    assert close(outputs["weighted"][0], expected)


def test_schedule_and_latents_are_those_it_was_trained_on(inputs, outputs):
    alphas = base_model.new_scheduler().alphas_cumprod
    assert close(outputs["sigmas"], ((1 - alphas) / alphas).sqrt())
    assert close(outputs["scaled"], inputs["latents"] * base_model.LATENT_SCALE)


def graph_of(prompt: str, *patches: Patch, latent: Link | None = None, batch: int = 8, **settings) -> Graph:
    """A prompt becomes pictures of the mini world, with settings that suit it."""
    graph = Graph()
    graph.model = loader = graph.add("PSALoadMini")
    graph.vae = output(loader, 2)
    graph.positive = graph.add("CLIPTextEncode", clip=output(loader, 1), text=prompt)
    graph.negative = graph.add("CLIPTextEncode", clip=output(loader, 1), text="")
    for patch in patches:
        graph.model = patch(graph, graph.model)
    start = latent or graph.add("EmptyLatentImage", width=128, height=128, batch_size=batch)
    graph.samples = graph.sample(graph.model, start, **{"steps": 12, "cfg": 3.0, "sampler_name": "dpmpp_2m"} | settings)
    return graph


def symbols(drawing: Drawing) -> list[str | None]:
    """What the detector finds in each picture."""
    return [found.symbol for found in Detector()(torch.from_numpy(drawing.pictures).movedim(-1, 1))]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_stock_samplers_draw_what_the_prompt_asks_for(sampler, server):
    drawing = draw(server, graph_of(HEART, sampler_name=sampler))
    found = Detector()(torch.from_numpy(drawing.pictures).movedim(-1, 1))
    assert sum(each.symbol == "heart" for each in found) >= 6
    assert sum(each.agrees(parse_prompt(HEART)) for each in found) >= 6


def test_the_shipped_adapter_draws_for_its_viewer(server):
    permissive = symbols(draw(server, graph_of(HEART, psa("L0", adapter=ADAPTER))))
    restrictive = symbols(draw(server, graph_of(HEART, psa("L5", adapter=ADAPTER))))
    assert permissive.count("heart") >= 6
    assert restrictive.count(None) >= 6


@pytest.mark.parametrize("node", ["ConditioningCombine", "ConditioningConcat", "CLIPSetLastLayer"])
def test_stock_conditioning_counts(node, server):
    changed = graph_of(HEART, batch=1)
    other = changed.add("CLIPTextEncode", clip=["1", 1], text="a sea with a blue square")
    if node == "ConditioningCombine":
        positive = changed.add(node, conditioning_1=changed.positive, conditioning_2=other)
    elif node == "ConditioningConcat":
        positive = changed.add(node, conditioning_to=changed.positive, conditioning_from=other)
    else:
        clip = changed.add(node, clip=["1", 1], stop_at_clip_layer=-2)
        positive = changed.add("CLIPTextEncode", clip=clip, text=HEART)
    changed.prompt[changed.samples[0]]["inputs"]["positive"] = positive
    assert differ(draw(server, graph_of(HEART, batch=1)), draw(server, changed))


def test_pictures_go_through_the_vae_and_are_drawn_anew(server):
    scene = sample_scene(np.random.default_rng(3), "star")
    render(scene).save(server.base / "input" / "scene.png")
    original = np.asarray(render(scene), np.float32) / 255
    graph = graph_of(scene.prompt, batch=1, denoise=0.4)
    image = graph.add("LoadImage", image="scene.png")
    latent = graph.add("VAEEncode", pixels=image, vae=graph.vae)
    graph.prompt[graph.samples[0]]["inputs"]["latent_image"] = latent
    redrawn = draw(server, graph)
    graph = Graph()
    graph.vae = output(graph.add("PSALoadMini"), 2)
    graph.samples = graph.add("VAEEncode", pixels=graph.add("LoadImage", image="scene.png"), vae=graph.vae)
    same = draw(server, graph)
    assert np.abs(same.pictures[0] - original).mean() < 0.03
    assert 0 < np.abs(redrawn.pictures[0] - same.pictures[0]).mean() < 0.1
    assert symbols(redrawn) == symbols(same) == ["star"]


def on_mini(server, name: str, **changes: dict) -> dict[str, dict]:
    """A shipped SD1.5 workflow with its loaders swapped for PSA Mini's, and `changes` of inputs by node class."""
    workflow = json.loads((PACK / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = convert_ui_to_api(workflow, server.object_info())
    adapters = [node for node in prompt if prompt[node]["class_type"] == "PSALoadAdapter"]
    (loader,) = (node for node in prompt if prompt[node]["class_type"] == "CheckpointLoaderSimple")
    prompt[loader] = {"class_type": "PSALoadMini", "inputs": {}}
    for node in adapters:
        del prompt[node]
    for node in prompt.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in adapters:
                node["inputs"][key] = [loader, 3]
        node["inputs"] |= changes.get(node["class_type"], {})
    return prompt


def pictures(server, outputs: dict[str, dict]) -> list[np.ndarray]:
    files = [image for node in sorted(outputs, key=int) for image in outputs[node].get("images", ())]
    return [np.asarray(Image.open(BytesIO(server.image(**file))).convert("RGB"), float) for file in files]


def test_the_workflow_basic_runs_on_it(server):
    viewer, plain = pictures(server, server.queue(on_mini(server, "psa_sd15_basic", KSampler={"steps": 4})))
    assert viewer.shape == plain.shape == (512, 512, 3)
    assert plain.std() > 2 < np.abs(viewer - plain).mean()


def test_the_workflow_levels_runs_on_it(server):
    on_the_node, saved = pictures(server, server.queue(on_mini(server, "psa_levels_sd15", KSampler={"steps": 2})))
    assert on_the_node.shape == saved.shape
    assert saved.shape[1] > 3 * 512 and saved.shape[0] > 2 * 512


def test_the_workflow_train_runs_on_it(server):
    """On pairs of the mini world; their size is its pictures', and the run is a short one."""
    write_dataset(
        server.base / "input" / "mini",
        sizes=Sizes(6, 2, train=8, val=4, test_seen=1, test_unseen=1, harmless=1, held_out_users=1, test_held_out=1),
    )
    changes = {
        "PSALoadDataset": {"folder": "mini"},
        "PSATrain": {"steps": 4, "preview_every": 2, "run_name": "mini-workflow"},
        "PSASaveAdapter": {"name": "mini-workflow"},
        "KSampler": {"steps": 4},
    }
    shown = pictures(server, server.queue(on_mini(server, "psa_train_sd15", **changes)))
    run = server.base / "user" / "__psa_training" / "mini-workflow"
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 3, 4]
    kept = load_adapter(server.base / "models" / "psa_adapters" / "mini-workflow.safetensors")
    assert any(layer.to_v_user[0].weight.any() for layer in kept.psa_adapter)
    assert kept.layer_widths == load_adapter(PSA_ADAPTER).layer_widths
    assert any(picture.shape[1] > 2 * 512 for picture in shown)  # L0 and L5, side by side


def test_its_own_workflow_draws_what_its_labels_say(server):
    """Three rows of six; what a label calls fine is drawn, and what it calls banned is not, for most of them."""
    workflow = json.loads((PACK / "workflows" / "psa_1_start_here.json").read_text(encoding="utf-8"))
    prompt = convert_ui_to_api(workflow, server.object_info())
    (grid,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "PSALabelGrid")
    batches = [name for name in ("images", "images_2", "images_3") if name in grid]
    for name in batches:
        single = {"images": grid[name], "filename_prefix": "single"}
        prompt[f"single {name}"] = {"class_type": "SaveImage", "inputs": single}
    outputs = server.queue(prompt)
    saved = [file for name in batches for file in outputs[f"single {name}"]["images"]]
    files = [Image.open(BytesIO(server.image(**file))) for file in saved]
    pixels = torch.stack([torch.from_numpy(np.array(file.convert("RGB"))) for file in files]).movedim(-1, 1) / 255
    right = 0
    for label, found in zip(grid["labels"].splitlines(), Detector()(pixels), strict=True):
        _, symbol, verdict = label.split()
        right += found.symbol == (symbol if verdict == "fine" else None)
    assert right >= 15


def test_a_stored_viewer_is_drawn_beside_one_who_bans_nothing(server):
    """As the page leaves it, the graph asks for a viewer; with one chosen it draws both, by name."""
    workflow = json.loads((PACK / "workflows" / "psa_viewer_mini.json").read_text(encoding="utf-8"))
    prompt = convert_ui_to_api(workflow, server.object_info())
    with pytest.raises(PSAError, match="There is no stored profile of that name"):
        server.queue(prompt)
    guest = {"Age": 10, "Gender": "female", "Religion": "None"}
    guest |= {"Physical_Condition": "healthy", "Mental_Condition": "healthy", "Banned_Categories": ["Sexuality"]}
    assert call(server, "/psa/profiles", {"name": "guest", "profile": guest})[0] == 200
    for node in prompt.values():
        node["inputs"] |= {"PSALoadProfile": {"profile_name": "guest"}}.get(node["class_type"], {})
    (grid,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "PSALabelGrid")
    prompt["single"] = {"class_type": "SaveImage", "inputs": {"images": grid["images"], "filename_prefix": "single"}}
    outputs = server.queue(prompt)
    guests, l0s = pictures(server, {"0": outputs["single"]})
    assert guests.shape == l0s.shape == (128, 128, 3) and np.abs(guests - l0s).max() > 20
