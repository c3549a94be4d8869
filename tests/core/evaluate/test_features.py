"""CLIP's features, on a small random CLIP model in transformers' layout."""

import shutil
import sys

import numpy as np
import pytest
import torch
from damage import Touch
from PIL import Image

from psa_core import PSAError
from psa_core.evaluate.features import ClipFeatures, InceptionFeatures
from psa_core.mini import base_model
from psa_core.mini.features import MiniFeatures
from psa_core.mini.world import render, sample_scene

CAPTIONS = ["a sea with a red circle", "a desert with a star", "a snow with a blue square and a ring " + "and a " * 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    base_model.write_tokenizer(folder)
    words = base_model.new_text_encoder().config
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": words.vocab_size, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    text = {**small, **ids, "max_position_embeddings": 16}
    vision = {**small, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)) for _ in CAPTIONS]


def test_scores_are_those_of_the_whole_model(folder, pictures):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)(
        CAPTIONS, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    pixels = CLIPImageProcessor.from_pretrained(folder)(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = model(pixel_values=pixels, **tokens)
    cosines = found.logits_per_image.diagonal() / model.logit_scale.exp()
    assert ClipFeatures(folder).scores(pictures, CAPTIONS) == pytest.approx((100 * cosines).tolist(), abs=1e-3)
    features = ClipFeatures(folder)(pictures)
    assert features.shape == (3, 24) and features.dtype == np.float64
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, found.image_embeds.numpy(), atol=1e-5)


def test_one_picture_is_as_in_a_batch(folder, pictures):
    features = ClipFeatures(folder)
    np.testing.assert_allclose(features(pictures[1:2])[0], features(pictures)[1], atol=1e-5)


def test_what_is_no_clip_model_is_said(folder, tmp_path):
    with pytest.raises(PSAError, match="no CLIP model in transformers' layout"):
        ClipFeatures(tmp_path)
    other = shutil.copytree(folder, tmp_path / "part")
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(PSAError, match="not all of a CLIP model's"):
        ClipFeatures(other)


def test_mini_features_tell_pictures_apart():
    scene = sample_scene(np.random.default_rng(0), "star")
    with_symbol, without = render(scene), render(scene.without_symbol())
    found = MiniFeatures()([with_symbol, with_symbol.resize((256, 256), Image.Resampling.NEAREST), without])
    assert found.shape == (3, 64) and found.dtype == np.float64
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert np.abs(found[0] - found[2]).max() > 0.1


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Random weights of FID's network, as the published file has them."""
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)

    class Unloaded(extractor.FeatureExtractorInceptionV3):
        def load_state_dict(self, _state):
            return None

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    torch.save(Unloaded("inception", ["2048"], str(path)).state_dict(), path)
    return path


def test_inception_features_are_those_of_torch_fidelity(inception, tmp_path):
    from safetensors.torch import save_file
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 255, (40, 56 + n, 3), dtype=np.uint8)) for n in range(2)]
    model = FeatureExtractorInceptionV3("inception", ["2048"], str(inception))
    tensors = [torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0)[None] for picture in pictures]
    expected = torch.cat([model(tensor)[0] for tensor in tensors]).double().numpy()
    save_file(torch.load(inception, weights_only=True), tmp_path / "weights.safetensors")
    for path in (inception, tmp_path / "weights.safetensors"):
        features = InceptionFeatures(path)(pictures)
        assert features.shape == (2, 2048) and features.dtype == np.float64
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_other_weights_are_no_inception(inception, tmp_path):
    marker = tmp_path / "code ran"
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save(Touch(marker), tmp_path / "hostile.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"x" * 50)
    for name in ("other.pth", "hostile.pth", "torn.safetensors", "absent.pth"):
        with pytest.raises(PSAError):
            InceptionFeatures(tmp_path / name)
    assert not marker.exists()


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(PSAError, match=r"comfyui-psa\[fid\]"):
        InceptionFeatures("weights.pth")
