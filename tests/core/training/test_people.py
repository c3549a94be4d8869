"""What an adapter tells of the people it was trained on: their profiles are not read from its file.

With known first weights, or with columns left as nobody used them, they are: both are shown to work first.
"""

from pathlib import Path

import pytest
import tiny_training
import torch
from tiny_training import dataset, denoiser, trainer, write_split

from psa_core import PSAAdapter, PSAError, StructuredEncoder, load_adapter
from psa_core.seeds import draw_seed
from psa_core.training import Trainer
from psa_core.training.estimate import FEW_PEOPLE
from psa_core.training.folder import RunFolder
from psa_core.training.run import KEY_VARIABLE
from psa_core.training.unused import hide_unused_columns

PEOPLE = (3, 8, 15, 22, 37, 41)
SETTINGS = {"preset": "published", "steps": 12, "learning_rate": 1e-2, "save_every": 12}


def first_weights(adapter: PSAAdapter, seed: int) -> torch.Tensor:
    """user_proj's weights as `PSAAdapter` starts them from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = PSAAdapter(adapter.layer_widths, adapter.cross_attention_dim, adapter.embedding_dim, adapter.num_tokens)
    return fresh.user_proj.proj.weight.detach()


def moved(weight: torch.Tensor, start: torch.Tensor) -> set[int]:
    """The attack with known first weights: columns that did more than decay, all by one factor."""
    ratio = weight / start
    spread = (ratio - ratio.median()).abs().amax(0)
    return set((spread > 1e-4).nonzero()[:, 0].tolist())


def outgrown(weight: torch.Tensor) -> set[int]:
    """The attack without them: columns with an entry larger than any of a start, uniform within 1 / sqrt(D)."""
    return set((weight.abs().amax(0) > weight.shape[1] ** -0.5).nonzero()[:, 0].tolist())


def zeros(weight: torch.Tensor) -> set[int]:
    return set(weight.any(0).nonzero()[:, 0].tolist())


def equals(weight: torch.Tensor) -> set[int]:
    """Columns that no other column equals."""
    distance = torch.cdist(weight.T.double(), weight.T.double()).fill_diagonal_(1.0)
    return set((distance.amin(0) > 1e-4).nonzero()[:, 0].tolist())


def largest(weight: torch.Tensor, count: int) -> set[int]:
    """As many columns as a profile uses, by their norm."""
    return set(weight.norm(dim=0).topk(count).indices.tolist())


@pytest.fixture(scope="module", autouse=True)
def drawn_keys():
    """Runs draw their key, as everywhere but in tests."""
    with pytest.MonkeyPatch.context() as changes:
        changes.delenv(KEY_VARIABLE)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, drawn_keys) -> list[tuple[Path, set[int]]]:
    """A run of a single person each, with an unknown key, and the coordinates that the person's profile uses."""
    folder, runs = tmp_path_factory.mktemp("people"), []
    for person in PEOPLE:
        write_split(folder / str(person), "train", range(person, person + 1), 4)
        run = folder / f"run-{person}"
        trainer(folder / str(person), run, **SETTINGS).train()
        embedding = StructuredEncoder().encode([tiny_training.user(person)]).vectors[0]
        runs.append((run, set(embedding.nonzero()[:, 0].tolist())))
    return runs


def test_the_attacks_work_on_what_is_not_shipped(trained):
    """On the policy itself: with the run's key, which only the state holds, and without it."""
    for run, profile in trained:
        state = RunFolder(run).load()
        weight = state["adapter"]["user_proj.proj.weight"]
        start = first_weights(load_adapter(run / "last.safetensors"), draw_seed(state["key"], "adapter"))
        assert moved(weight, start) == profile
        assert outgrown(weight) and outgrown(weight) <= profile  # never a column that nobody used


def test_no_profile_is_read_from_the_file(trained):
    for run, profile in trained:
        adapter = load_adapter(run / "last.safetensors")
        weight = adapter.user_proj.proj.weight.detach()
        seed = adapter.training_summary["seed"]
        for start in (draw_seed(seed, "adapter"), seed, 0):
            assert moved(weight, first_weights(adapter, start)) == set(range(adapter.embedding_dim))
        assert outgrown(weight) - profile
        for read in (zeros(weight), equals(weight), largest(weight, len(profile))):
            assert read != profile
        assert RunFolder(run).load()["key"] not in (run / "last.safetensors").read_bytes().decode("latin-1")


def test_a_key_is_drawn_for_each_run_and_kept(trained, tmp_path):
    keys = {RunFolder(run).load()["key"] for run, _ in trained}
    assert len(keys) == len(trained) and all(len(key) == 32 for key in keys)
    folder = trained[0][0].parent / str(PEOPLE[0])
    first = trainer(folder, tmp_path, **{**SETTINGS, "steps": 1}).train()
    key = RunFolder(tmp_path).load()["key"]
    trainer(folder, tmp_path, **{**SETTINGS, "steps": 2}).train()
    assert RunFolder(tmp_path).load()["key"] == key and first.step == 1


@pytest.mark.parametrize("value", ["", "00", "x" * 32])
def test_a_key_that_is_none_is_refused(tmp_path, monkeypatch, value):
    monkeypatch.setenv(KEY_VARIABLE, value)
    write_split(tmp_path, "train", range(2), 4)
    with pytest.raises(PSAError, match="32 hex digits"):
        trainer(tmp_path, tmp_path / "run", **SETTINGS).train()


def test_hidden_columns_change_nothing_for_training_users_and_nobody():
    generator = torch.Generator().manual_seed(0)
    start, embeddings = torch.randn(12, 6, generator=generator), torch.randn(5, 6, generator=generator).abs()
    embeddings[:, [1, 4]] = 0.0
    used = torch.tensor([0, 2, 3, 5])
    weight = 0.99 * start
    weight[:, used] += torch.randn(12, 4, generator=generator)
    hidden = hide_unused_columns(weight, start, embeddings, torch.ones(6), seed=7)
    assert torch.equal(hidden[:, used], weight[:, used]) and torch.equal(hidden @ embeddings.T, weight @ embeddings.T)
    for column in (1, 4):
        movement = hidden[:, column] - weight[:, column]
        assert any(torch.allclose(movement, (weight - 0.99 * start)[:, k], atol=1e-5) for k in used)
    assert torch.equal(hide_unused_columns(weight, start, embeddings.new_zeros(5, 6), torch.ones(6), 7), weight)


def test_few_people_are_warned_of(tmp_path, caplog):
    for number, count in enumerate((FEW_PEOPLE - 1, FEW_PEOPLE)):
        write_split(tmp_path / str(number), "train", range(count), count)
        caplog.clear()
        trainer(tmp_path / str(number), tmp_path / f"run-{number}", steps=1).train()
        assert any("can find out" in record.message for record in caplog.records) == (count < FEW_PEOPLE)
        warned: list[str] = []
        trainer(tmp_path / str(number), tmp_path / f"run-{number}", steps=1).train(warn=warned.append)
        assert any("can find out" in sentence for sentence in warned) == (count < FEW_PEOPLE), (
            "said once, then forgotten"
        )


def test_a_standardised_adapter_of_one_person_holds_no_mean(tmp_path):
    """The mean is folded into the bias; of a single person it would be the profile."""
    write_split(tmp_path, "train", range(1), 4)
    config = {**SETTINGS, "standardise": True, "learning_rate": 1e-30, "weight_decay": 0.0}
    adapter = trainer(tmp_path, tmp_path / "run", **config).train().adapter
    assert adapter.user_proj.proj.bias.abs().max() <= adapter.embedding_dim**-0.5  # a start's, and nothing added


def test_a_trainer_is_used_by_name_and_by_place(tmp_path):
    """The arguments that callers give."""
    write_split(tmp_path, "train", range(2), 4)
    config = tiny_training.TrainConfig.from_dict({**tiny_training.QUICK, "steps": 1})
    pairs = dataset(tmp_path, "train", config)
    assert Trainer(config, denoiser(), pairs, tmp_path / "a", held_out=None, processes=None).train().finished
    assert not hasattr(Trainer(config, denoiser(), pairs, tmp_path / "b"), "adapter")
