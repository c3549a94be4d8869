"""Profile embeddings, in memory and on disk."""

import os
import pickle
import re
import stat

import numpy as np
import pytest
import torch
from damage import Touch, cuts, flipped, hostile_pickle
from safetensors.torch import save_file

import psa_core.encoders.embedding
from psa_core import PSAError, UserEmbedding, load_embedding, save_embedding


@pytest.fixture
def saved(tmp_path):
    """A file of ours: two profiles of five numbers."""
    path = tmp_path / "pair.safetensors"
    save_embedding(UserEmbedding(torch.arange(10.0).view(2, 5), "structured-v1"), path)
    return path


def written(path, array, **options):
    np.save(path, array, **options)
    return path


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_vectors_are_kept_as_float32_on_the_cpu(dtype):
    embedding = UserEmbedding(torch.ones(3, 7, dtype=dtype, requires_grad=True))
    assert (embedding.vectors.dtype, len(embedding), embedding.dim) == (torch.float32, 3, 7)
    assert not embedding.vectors.requires_grad


@pytest.mark.parametrize(
    "vectors",
    [
        torch.ones(5),
        torch.ones(1, 1, 5),
        torch.ones(0, 5),
        torch.ones(5, 0),
        torch.tensor(1.0),
        torch.ones(2, 5, dtype=torch.int64),
        torch.ones(2, 5, dtype=torch.complex64),
        torch.tensor([[1.0, float("nan")]]),
        torch.tensor([[1.0, float("-inf")]]),
        torch.tensor([[1e300]], dtype=torch.float64),
        np.ones((2, 5), np.float32),
        None,
    ],
    ids=str,
)
def test_what_is_no_embedding_is_refused(vectors):
    with pytest.raises(PSAError):
        UserEmbedding(vectors)


@pytest.mark.parametrize("encoder_id", ["", 7, ["structured-v1"]])
def test_what_is_no_encoder_id_is_refused(encoder_id):
    with pytest.raises(PSAError):
        UserEmbedding(torch.ones(1, 2), encoder_id)


def test_its_text_form_shows_no_numbers():
    """ComfyUI writes str(inputs) of a failing node into its history."""
    embedding = UserEmbedding(torch.full((2, 35), 0.4375), "structured-v1")
    assert str({"embedding": [embedding]}) == "{'embedding': [UserEmbedding(2 profiles, dim 35, 'structured-v1')]}"
    assert str(UserEmbedding(torch.ones(1, 2))) == "UserEmbedding(1 profiles, dim 2, encoder not known)"


@pytest.mark.parametrize(
    ("shape", "rows"), [((6,), 1), ((1, 6), 1), ((1, 1, 6), 1), ((4, 6), 4), ((4, 1, 6), 4)], ids=str
)
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_npy_shapes_and_dtypes(tmp_path, shape, rows, dtype):
    values = np.arange(rows * 6, dtype=np.float32)
    embedding = load_embedding(written(tmp_path / "user.npy", values.reshape(shape).astype(dtype)))
    assert embedding.vectors.tolist() == values.reshape(rows, 6).tolist()
    assert embedding.encoder_id is None


def test_npy_in_fortran_order(tmp_path):
    values = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    assert load_embedding(written(tmp_path / "user.npy", values)).vectors.tolist() == values.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.float32(1),
        np.ones((2, 2, 6), np.float32),
        np.ones((1, 1, 1, 6), np.float32),
        np.ones((0,), np.float32),
        np.ones((0, 6), np.float32),
        np.arange(6),
        np.ones(6, bool),
        np.ones(6, np.complex64),
        np.array(["a", "b"]),
        np.ones(6, [("x", "<f4")]),
        np.array([1, np.nan, 3], np.float32),
        np.array([1, np.inf, 3], np.float16),
        np.array([1, 1e300], np.float64),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_npy_of_another_kind_is_refused(tmp_path, array):
    with pytest.raises(PSAError) as caught:
        load_embedding(written(tmp_path / "user.npy", array))
    assert str(caught.value).endswith(".")


def test_our_format_round_trips(saved):
    again = load_embedding(str(saved))
    assert torch.equal(again.vectors, torch.arange(10.0).view(2, 5))
    assert again.encoder_id == "structured-v1"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_our_files_are_private(saved):
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


def test_a_safetensors_file_of_another_kind_is_refused(tmp_path):
    for number, (tensors, metadata) in enumerate(
        [
            ({"embedding": torch.ones(1, 2)}, None),
            ({"embedding": torch.ones(1, 2)}, {"format": "psa-adapter"}),
            ({"weights": torch.ones(1, 2)}, {"format": "psa-embedding"}),
            ({"embedding": torch.ones(1, 2), "more": torch.ones(1)}, {"format": "psa-embedding"}),
            ({"embedding": torch.ones(1, 2, dtype=torch.int32)}, {"format": "psa-embedding"}),
            ({"embedding": torch.ones(2, 2, 2)}, {"format": "psa-embedding"}),
            ({"embedding": torch.full((1, 2), torch.nan)}, {"format": "psa-embedding"}),
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(PSAError):
            load_embedding(path)


@pytest.mark.parametrize("name", ["user.bin", "user.npz", "user.pt", "user", "user.npy.txt"])
def test_other_endings_are_refused_and_never_written(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PSAError):
        load_embedding(tmp_path / name)
    with pytest.raises(PSAError):
        save_embedding(UserEmbedding(torch.ones(1, 2)), tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"x"


@pytest.mark.parametrize("name", ["absent.npy", "a\0b.npy", ".", "y" * 5000 + ".npy"], ids=lambda name: name[:12])
def test_a_path_without_a_file_is_refused(tmp_path, name):
    with pytest.raises(PSAError):
        load_embedding(f"{tmp_path}/{name}")


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_an_empty_file_is_refused(tmp_path, ending):
    (tmp_path / f"user{ending}").touch()
    with pytest.raises(PSAError, match="empty"):
        load_embedding(tmp_path / f"user{ending}")


def test_an_npz_called_npy_is_refused(tmp_path):
    np.savez(tmp_path / "user.npz", embedding=np.ones(6, np.float32))
    (tmp_path / "user.npz").rename(tmp_path / "user.npy")
    with pytest.raises(PSAError, match=r"user\.npy"):
        load_embedding(tmp_path / "user.npy")
    (tmp_path / "user.npy").write_bytes(b"PK\x03\x04")
    with pytest.raises(PSAError, match=r"user\.npy"):
        load_embedding(tmp_path / "user.npy")


def npy(header: str) -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-6,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': ('6',), }",
        "{'descr': '<f999', 'fortran_order': False, 'shape': (6,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }",
        "{[]: 1}",
        "{'descr': '<f4'",
        "(" * 3000,
        "__import__('os').abort()",
        "'''",
        "",
    ],
    ids=range(14),
)
def test_a_false_npy_header_is_refused(tmp_path, header):
    (tmp_path / "user.npy").write_bytes(npy(header))
    with pytest.raises(PSAError, match=r"user\.npy"):
        load_embedding(tmp_path / "user.npy")


def test_the_header_of_those_is_otherwise_right(tmp_path):
    (tmp_path / "user.npy").write_bytes(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }"))
    assert load_embedding(tmp_path / "user.npy").dim == 6


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_a_truncated_file_is_refused_at_every_length(tmp_path, saved, ending):
    whole = saved if ending == ".safetensors" else written(tmp_path / "whole.npy", np.ones((2, 5), np.float32))
    content = whole.read_bytes()
    path = tmp_path / f"cut{ending}"
    for size in cuts(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(PSAError):
            load_embedding(path)


@pytest.mark.filterwarnings("ignore")  # numpy has its say on some headers before it refuses them
@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_random_damage_gives_an_embedding_or_a_sentence(tmp_path, saved, ending):
    whole = saved if ending == ".safetensors" else written(tmp_path / "whole.npy", np.ones((2, 5), np.float32))
    path = tmp_path / f"damaged{ending}"
    refused = 0
    for content in flipped(whole.read_bytes(), 1500, seed=4):
        path.write_bytes(content)
        try:
            assert torch.isfinite(load_embedding(path).vectors).all()
        except PSAError as error:
            refused += 1
            assert re.search(r"\.$", str(error))
        assert path.read_bytes() == content
    assert refused > 500


def test_hostile_pickles_do_not_run(tmp_path):
    marker = tmp_path / "it-ran"
    pickle.loads(hostile_pickle(marker))
    assert marker.exists()  # the payload does work where pickles are run
    marker.rmdir()
    with open(tmp_path / "objects.npy", "wb") as file:
        np.save(file, np.array([Touch(marker)], dtype=object), allow_pickle=True)
    for name in ("raw.npy", "raw.safetensors"):
        (tmp_path / name).write_bytes(hostile_pickle(marker))
    for name in ("objects.npy", "raw.npy", "raw.safetensors"):
        with pytest.raises(PSAError, match=re.escape(name)):
            load_embedding(tmp_path / name)
    assert not marker.exists()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def dies_halfway(_tensors, path, metadata):
        path.write_bytes(before[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(psa_core.encoders.embedding, "save_file", dies_halfway)
    with pytest.raises(PSAError, match="No space left"):
        save_embedding(UserEmbedding(torch.ones(1, 2)), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
