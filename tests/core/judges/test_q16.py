"""The Q16 judge: its sums, and how it reads the prompts without running a pickle."""

import contextlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import Touch, cuts, flipped
from PIL import Image
from safetensors.torch import load_file, save_file

from psa_core import LEVELS, PSAError
from psa_core.judges.judging import Question, Verdict
from psa_core.judges.q16 import Q16Judge, read_q16_prompts

WIDTH = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A CLIP model of random weights, text half included, as published ones are."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 30, "max_position_embeddings": 8},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=WIDTH,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


def some_prompts(dtype=np.float16, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, WIDTH)).astype(dtype)


def some_pictures(count: int = 70) -> list[Image.Image]:
    rng = np.random.default_rng(2)
    return [Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)) for _ in range(count)]


def published_pickle(array: np.ndarray) -> bytes:
    """A pickle as the published one is: protocol 3, and numpy 1's name for the module."""
    return pickle.dumps(array, protocol=3).replace(b"numpy._core.", b"numpy.core.")


def test_logits_are_cosines_times_100(clip, tmp_path):
    import transformers

    np.save(tmp_path / "prompts.npy", some_prompts())
    judge, pictures = Q16Judge(clip, tmp_path / "prompts.npy"), some_pictures(3)
    model = transformers.CLIPModel.from_pretrained(clip)
    pixels = transformers.CLIPImageProcessor.from_pretrained(clip)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        embedded = model.visual_projection(model.vision_model(**pixels).pooler_output).double().numpy()
    prompts = some_prompts().astype(np.float64)
    for row, logits in zip(embedded, judge.logits(pictures).tolist(), strict=True):
        expected = [100 * row @ prompt / np.linalg.norm(row) / np.linalg.norm(prompt) for prompt in prompts]
        assert logits == pytest.approx(expected, abs=1e-3)


def test_the_nearer_prompt_decides_for_every_viewer(clip, tmp_path):
    pictures = some_pictures()
    np.save(tmp_path / "any.npy", some_prompts())
    judge = Q16Judge(clip, tmp_path / "any.npy")
    with torch.no_grad():
        pixels = judge._processor(images=pictures, return_tensors="pt")["pixel_values"]
        embedded = judge._model.visual_projection(judge._model.vision_model(pixels).pooler_output)
    first, last = embedded[0] - embedded.mean(0), embedded[-1] - embedded.mean(0)
    for name, prompts in (("one", (first, last)), ("other", (last, first))):
        np.save(tmp_path / f"{name}.npy", torch.stack(prompts).numpy())
    questions = [Question("a street", ("Violence",), "L1", LEVELS["L1"])] * 69 + [Question("a street")]
    verdicts = Q16Judge(clip, tmp_path / "one.npy").judge(pictures, questions)
    assert verdicts[0] == Verdict(False, None, None, 0.0)
    assert verdicts[-1] == Verdict(True, None, None, -1.0)
    swapped = Q16Judge(clip, tmp_path / "other.npy").judge(pictures, questions)
    assert [v.inappropriate for v in swapped] == [not v.inappropriate for v in verdicts]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_format_gives_the_same_numbers(tmp_path, dtype):
    array = some_prompts(dtype)
    np.save(tmp_path / "prompts.npy", array)
    save_file({"prompts": torch.from_numpy(array)}, tmp_path / "prompts.safetensors")
    (tmp_path / "prompts.p").write_bytes(published_pickle(array))
    (tmp_path / "new.p").write_bytes(pickle.dumps(array, protocol=3))
    for name in ("prompts.npy", "prompts.safetensors", "prompts.p", "new.p"):
        assert np.array_equal(read_q16_prompts(tmp_path / name).numpy(), array.astype(np.float32))


def test_no_pickle_is_run(tmp_path):
    marker = tmp_path / "code ran"
    array = some_prompts()
    whole = published_pickle(array)
    hostile = (
        pickle.dumps(Touch(marker)),
        pickle.dumps([array, Touch(marker)], protocol=3),
        pickle.dumps(Touch(marker), protocol=3)[:-1] + b"0" + whole[2:],  # runs, drops the result, then an array
        whole.replace(b"cnumpy\ndtype", b"cos\nmkdir"),
        whole[:-1] + pickle.dumps(Touch(marker), protocol=3)[2:],
        whole.replace(b"numpy.core.multiarray\n_reconstruct", b"numpy.core.multiarray\nfromfile"),
        pickle.dumps(np.array([[Touch(marker)]], dtype=object), protocol=3),
    )
    for content in hostile:
        (tmp_path / "prompts.p").write_bytes(content)
        with pytest.raises(PSAError, match="pickles of anything else are not opened"):
            read_q16_prompts(tmp_path / "prompts.p")
    assert not marker.exists()


def test_damaged_pickles_are_refused_or_read_as_numbers(tmp_path):
    whole = published_pickle(some_prompts())
    path = tmp_path / "prompts.p"
    for length in cuts(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(PSAError):
            read_q16_prompts(path)
    for content in flipped(whole, 200, seed=3):
        path.write_bytes(content)
        with contextlib.suppress(PSAError):
            assert read_q16_prompts(path).shape == (2, WIDTH)


def test_other_files_are_refused(tmp_path, clip):
    for name, array in {
        "three.npy": np.zeros((3, WIDTH), np.float32),
        "flat.npy": np.zeros(WIDTH, np.float32),
        "whole.npy": np.zeros((2, WIDTH), np.int64),
    }.items():
        np.save(tmp_path / name, array)
        with pytest.raises(PSAError, match="does not hold two prompts"):
            read_q16_prompts(tmp_path / name)
    np.save(tmp_path / "nan.npy", np.full((2, WIDTH), np.nan))
    with pytest.raises(PSAError, match="NaN"):
        read_q16_prompts(tmp_path / "nan.npy")
    (tmp_path / "large.p").write_bytes(bytes(2 << 20))
    with pytest.raises(PSAError, match="too large"):
        read_q16_prompts(tmp_path / "large.p")
    save_file({"a": torch.zeros(2, 4), "b": torch.zeros(2, 4)}, tmp_path / "two.safetensors")
    with pytest.raises(PSAError, match="one tensor"):
        read_q16_prompts(tmp_path / "two.safetensors")
    np.save(tmp_path / "narrow.npy", np.ones((2, WIDTH - 1), np.float32))
    with pytest.raises(PSAError, match=f"width of {WIDTH - 1}"):
        Q16Judge(clip, tmp_path / "narrow.npy")


def test_other_models_are_refused(tmp_path, clip):
    np.save(tmp_path / "prompts.npy", some_prompts())
    with pytest.raises(PSAError, match="no CLIP model at"):
        Q16Judge(tmp_path / "nowhere", tmp_path / "prompts.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PSAError, match="holds no CLIP model"):
        Q16Judge(tmp_path / "empty", tmp_path / "prompts.npy")
    shutil.copytree(clip, tmp_path / "torn")
    weights = load_file(tmp_path / "torn" / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "torn" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PSAError, match="not all of a CLIP model's"):
        Q16Judge(tmp_path / "torn", tmp_path / "prompts.npy")


def test_numbers_that_would_make_every_picture_appropriate_are_refused(tmp_path, clip):
    np.save(tmp_path / "huge.npy", np.full((2, WIDTH), 1e300))
    with pytest.raises(PSAError, match="far too large"):
        read_q16_prompts(tmp_path / "huge.npy")
    for name, array in (("alike.npy", np.ones((2, WIDTH))), ("zero.npy", np.stack([np.zeros(WIDTH), np.ones(WIDTH)]))):
        np.save(tmp_path / name, array)
        with pytest.raises(PSAError, match="does not hold two prompts"):
            Q16Judge(clip, tmp_path / name)


def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path):
    np.save(tmp_path / "prompts.npy", np.ones((2, WIDTH)))
    whole = (tmp_path / "prompts.npy").read_bytes()
    for shape in ("(2, 10000000000)", "(10**9, 24)", "(2, -24)", "(2, 2.5)", "((2,), 24)"):
        header = whole.replace(f"(2, {WIDTH}), }}".encode(), f"{shape}, }}".encode())
        (tmp_path / "prompts.npy").write_bytes(header)
        with pytest.raises(PSAError, match=r"not a whole \.npy"):
            read_q16_prompts(tmp_path / "prompts.npy")


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (number(2**31 - 1), number(WIDTH)),
        (number(-1), number(-1)),
        (number(0), number(0)),
        (number(2), number(-(2**31))),
        (b"I" + b"9" * 100_000 + b"\n", number(WIDTH)),
        (b"L" + b"9" * 100_000 + b"L\n", number(WIDTH)),
        (b"\x8b" + (100_000).to_bytes(4, "little") + b"\x7f" * 100_000, number(WIDTH)),
        (b"\x8b\xff\xff\xff\xff", number(WIDTH)),
        (b"I01\n", number(WIDTH)),
        (b"(" * 100_000, number(WIDTH)),
        (b"G" + b"\x7f\xf0" + bytes(6), number(WIDTH)),
    ],
    ids=lambda part: repr(part[:8]),
)
def test_crafted_sizes_in_a_pickle_are_refused(tmp_path, rows, columns):
    whole = published_pickle(some_prompts())
    sizes = b"K\x02K" + bytes([WIDTH])
    assert whole.count(sizes) == 1
    (tmp_path / "prompts.p").write_bytes(whole.replace(sizes, rows + columns))
    with pytest.raises(PSAError):
        read_q16_prompts(tmp_path / "prompts.p")
