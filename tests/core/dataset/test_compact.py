"""The compact form: P pairs and U users are P x U records, which no file and no memory holds."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_sets import write_pair_set
from tiny_training import QUICK, denoiser, encoders, user
from torch.utils.data import default_collate

from psa_core import PSAError, StructuredEncoder
from psa_core.build.sage_form import write_sage_form
from psa_core.dataset import compact, read_split
from psa_core.dataset.answers import JUDGED
from psa_core.dataset.check import check_dataset
from psa_core.dataset.overview import sample_pairs, summary
from psa_core.dataset.pair_files import PAIRS, USERS, PicturePair
from psa_core.dataset.sage import read_sage_split
from psa_core.evaluate.cases import Cases
from psa_core.json_lines import write_objects
from psa_core.processes import OneProcess
from psa_core.training import PairDataset, TensorCache, TrainConfig, Trainer, encode_users, fill_cache
from psa_core.training.assembly import read_splits
from psa_core.training.batches import reference_seed
from psa_core.training.losses import row_errors
from psa_core.training.objective import NoiseSchedule
from psa_core.training.reference import ReferencedPairs
from psa_core.training.rows import RowMaker

SPLITS = {"train": (range(4), 3), "val": (range(4), 1), "test_unseen": (range(4, 6), 2)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pair_set(tmp_path, SPLITS, harmless=5)
    return tmp_path


def rewrite(path: Path, change) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def twice(line: dict, name: str, value) -> str:
    return f'{json.dumps(line)[:-1]}, "{name}": {json.dumps(value)}}}'


def test_each_pair_goes_with_each_user_by_rule(data):
    split = read_split(data, "train")
    assert (len(split), split.scenes, split.users, dict(split.categories)) == (12, 3, 4, {"Violence": 12})
    assert split.profiles == [user(number) for number in range(4)]
    for number, record in enumerate(split):
        assert record.line == number + 1 and record.profile == user(number % 4)
        bans = "Violence" in record.profile.banned_categories
        assert record.chosen.name == f"{number // 4:016x}_{'without' if bans else 'shows'}.png"
        assert record.rejected.name == f"{number // 4:016x}_{'shows' if bans else 'without'}.png"
        assert record.category == "Violence" and record.concept == "square" and not record.contradicts
        assert record.safe_chosen == bans
        again = split[number]
        assert (again.chosen, again.rejected, again.profile, again.line) == (
            record.chosen, record.rejected, record.profile, record.line,
        )  # fmt: skip
    with pytest.raises(IndexError):
        split[12]


def test_examples_say_what_the_records_say(data):
    for name in ("train", "harmless"):
        split = read_split(data, name)
        scenes, users, swapped = split.examples()
        for index, record in enumerate(split):
            scene = split.scene(int(scenes[index]))
            assert (record.chosen, record.rejected) == scene.pictures[:: -1 if swapped[index] else 1]
            assert record.caption == scene.caption and split.profiles[users[index]] == record.profile


def test_a_pairs_pictures_may_have_the_same_name_in_two_folders(data):
    def move(lines):
        for pair in lines:
            for which, name in pair["pictures"].items() if pair["category"] else ():
                (data / which).mkdir(exist_ok=True)
                pair["pictures"][which] = f"{which}/{pair['id']}.png"
                (data / name).rename(data / pair["pictures"][which])

    rewrite(data / PAIRS, move)
    split = read_split(data, "train")
    assert all(record.safe_chosen == (record.chosen.parent.name == "without") for record in split)
    assert not any(record.contradicts for record in split)
    write_sage_form(data)
    for ours, theirs in zip(read_sage_split(data, "train"), split, strict=True):
        assert ours.chosen.read_bytes() == theirs.chosen.read_bytes()
        assert ours.rejected.read_bytes() == theirs.rejected.read_bytes()


REPLACED = {
    "pairs": lambda data: rewrite(data / PAIRS, relabel),
    "shorter pairs": lambda data: rewrite(data / PAIRS, lambda lines: lines.clear()),
    "users": lambda data: rewrite(data / USERS, lambda lines: lines.reverse()),
    "answers": lambda data: (data / JUDGED).write_text(""),
}


def relabel(lines):
    for pair in lines:
        pair["label"] = "judge"


@pytest.mark.parametrize("replace_list", REPLACED.values(), ids=REPLACED)
@pytest.mark.parametrize("read", [partial(read_split, name="train"), partial(read_split, name="train", skip_bad=True),
                                  check_dataset], ids=["split", "skip_bad", "check"])  # fmt: skip
def test_lists_that_are_replaced_while_they_are_read_are_told(data, monkeypatch, replace_list, read):
    whole = compact._checked

    def meanwhile(*given):
        replace_list(data)
        return whole(*given)

    monkeypatch.setattr(compact, "_checked", meanwhile)
    with pytest.raises(PSAError, match=r"were replaced while they were read\. Read them again\.$"):
        read(data)


def test_new_lists_that_wait_for_their_places_are_told(data, monkeypatch):
    """Of a builder that was killed meanwhile: some of its lists may have been read, and others not."""
    whole = compact._checked

    def meanwhile(*given):
        (data / ".lists").mkdir()
        return whole(*given)

    monkeypatch.setattr(compact, "_checked", meanwhile)
    with pytest.raises(PSAError, match="were replaced while they were read"):
        read_split(data, "train")
    monkeypatch.undo()
    assert len(read_split(data, "train")) == 12 and not (data / ".lists").exists()


@pytest.mark.parametrize("form", ["compact", "sage"])
def test_records_of_lists_that_changed_since_are_told(data, form):
    write_sage_form(data)
    split = read_split(data, "train") if form == "compact" else read_sage_split(data, "train")
    lists = data / (PAIRS if form == "compact" else "train/metadata.jsonl")
    lists.write_text("\n" + lists.read_text()[5:])
    for _ in range(2):
        for ask in (lambda: split[11], lambda: split.scene(2), lambda: list(split)):
            with pytest.raises(PSAError, match=r"has changed since it was read[.:] .*\.$"):
                ask()
        lists.unlink(missing_ok=True)


def test_harmless_scenes_are_one_picture_and_belong_to_the_pairs(data):
    split = read_split(data, "harmless")
    assert (len(split), split.users, dict(split.categories), split.harmless) == (5, 4, {}, None)
    assert all(record.chosen == record.rejected and record.category is None for record in split)
    assert read_split(data, "train").harmless == "harmless"
    assert read_splits(data, StructuredEncoder()).harmless.name == "harmless"


def test_what_looks_at_records_takes_either_form(data):
    split = read_split(data, "train")
    assert "12 pairs, 4 users" in summary(split) and sample_pairs(split).size[0] > 256
    cases = Cases(split, 5)
    assert len(cases) == 5 and all(prompt.categories == ("Violence",) for prompt in cases.prompts)


def test_answers_stand_beside_what_goes_by_rule(data):
    def by_hand(lines):
        pair = lines.pop()["pair"]
        lines += [
            {"pair": pair, "user": user(n).user_id, "chosen": which} for n, which in ((1, "without"), (2, "shows"))
        ]

    rewrite(data / "train" / PAIRS, by_hand)
    split = read_split(data, "train")
    assert len(split) == 2 * 4 + 2 and split.categories["Violence"] == 10
    first, second = split[8], split[9]
    assert first.profile == user(1) and first.chosen.name.endswith("_without.png") and first.contradicts
    assert second.profile == user(2) and second.chosen.name.endswith("_shows.png") and second.contradicts


def test_what_is_set_aside_is_left_out_and_said(data):
    rewrite(data / PAIRS, lambda lines: lines[1].update(set_aside="bad picture"))
    split = read_split(data, "train")
    assert len(split) == 8 and split.notes == ["train: 1 picture pairs are set aside."]


DAMAGE = {
    "no JSON in pairs": (PAIRS, lambda lines: lines.__setitem__(1, "{"), r"pairs.jsonl, line 2: .*JSON"),
    "a name twice": (PAIRS, lambda lines: lines.__setitem__(1, twice(lines[1], "set_aside", "x")), "line 2: .*twice"),
    "a field is missing": (PAIRS, lambda lines: lines[1].pop("label"), "line 2: .*with these fields"),
    "another category": (PAIRS, lambda lines: lines[1].update(category="Fun"), "line 2: .*category"),
    "a path outside": (PAIRS, lambda lines: lines[1]["pictures"].update(shows="../a.png"), "leads out"),
    "a missing picture": (PAIRS, lambda lines: lines[1]["pictures"].update(shows="pictures/a.png"), "no file"),
    "twice the same id": (PAIRS, lambda lines: lines.append(lines[0]), "there twice"),
    "an unknown pair": ("train/pairs.jsonl", lambda lines: lines[1].update(pair="f" * 16), "line 2: there is no pair"),
    "no pair": ("train/pairs.jsonl", lambda lines: lines[1].pop("pair"), "line 2: "),
    "no pair's name": ("train/pairs.jsonl", lambda lines: lines[1].update(pair="-000000000000001"), "no pair"),
    "an unknown user": ("train/pairs.jsonl", lambda lines: lines[1].update(user="9999999", chosen="shows"), "none of"),
    "half an answer": ("train/pairs.jsonl", lambda lines: lines[1].update(user="0000001"), "needs 'user' and"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_can_be_skipped(data, damage):
    file, change, sentence = DAMAGE[damage]
    rewrite(data / file, change)
    with pytest.raises(PSAError, match=sentence):
        read_split(data, "train")
    split = read_split(data, "train", skip_bad=True)
    assert split.skipped and len(split) in (8, 12)


def test_a_user_who_bans_two_things_under_one_name_is_refused(data):
    """The last would count, and what they ban would be shown to them."""
    rewrite(data / USERS, lambda lines: lines.__setitem__(1, twice(lines[1], "Banned_Categories", [])))
    with pytest.raises(PSAError, match=r"users.jsonl, line 2: .*has a name twice"):
        read_split(data, "train")


def test_damaged_pictures_and_users(data):
    (data / "pictures" / f"{1:016x}_shows.png").write_bytes(b"\x89PNG no")
    with pytest.raises(PSAError, match=f"pair {1:016x}: .*shows.png"):
        read_split(data, "train")
    assert len(read_split(data, "train", skip_bad=True)) == 8
    rewrite(data / USERS, lambda lines: lines[2].update(Age="old"))
    with pytest.raises(PSAError, match=r"users.jsonl, line 3: .*Age"):
        read_split(data, "train", skip_bad=True)


def test_a_list_that_names_a_record_twice_is_refused(data):
    rewrite(data / "train" / PAIRS, lambda lines: lines.append(lines[0]))
    with pytest.raises(PSAError, match="names a record twice"):
        read_split(data, "train")


def test_it_says_itself_what_is_banned_and_needs_its_description(data):
    with pytest.raises(PSAError, match="says itself what its users ban"):
        read_split(data, "train", users=data / USERS)
    (data / "dataset.json").write_text("{}")
    with pytest.raises(PSAError, match="damaged, or of a version"):
        read_split(data, "train")


def test_stored_embeddings_of_each_user_are_asked_for(data, tmp_path):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"{user(number).user_id}.npy", np.ones(4, np.float32))
    with pytest.raises(PSAError, match="train: "):
        read_split(data, "train", embeddings=folder)
    assert read_split(data, "train", skip_bad=True, embeddings=folder).users == 3


# Training


def noting(encode, encoded: list):
    def noted(given):
        encoded.append(given)
        return encode(given)

    return noted


def pairs_of(data: Path, name: str = "train", encoded: list | None = None, **settings) -> PairDataset:
    config = TrainConfig.from_dict({**QUICK, **settings})
    split, cache = read_split(data, name), TensorCache(data / "cache")
    images, texts = encoders()
    if encoded is not None:
        images = replace(images, encode=noting(images.encode, encoded))
        texts = replace(texts, encode=noting(texts.encode, encoded))
    fill_cache(split, cache, config, images, texts)
    return PairDataset(split, cache, config, images, texts, encode_users(split, StructuredEncoder()))


def test_pictures_and_captions_are_encoded_once_whoever_sees_them(data):
    encoded: list = []
    pairs = pairs_of(data, encoded=encoded, flip=False)
    assert len(pairs) == 12
    assert sum(len(given) for given in encoded if isinstance(given, torch.Tensor)) == 2 * 3
    captions = [caption for batch in encoded if isinstance(batch, list) for caption in batch]
    assert sorted(captions) == sorted({"", *(read_split(data, "train").scene(n).caption for n in range(3))})
    assert len(list((data / "cache").rglob("*.safetensors"))) == 3 + 4
    encoded.clear()
    pairs_of(data, "harmless", encoded=encoded, flip=False)
    assert sum(len(given) for given in encoded if isinstance(given, torch.Tensor)) == 5  # one picture a scene


def test_an_item_has_the_chosen_picture_first(data):
    pairs, split = pairs_of(data, flip=False, caption_dropout=0.0), read_split(data, "train")
    for index, record in enumerate(split):
        latents = pairs[index, 5, 0]["latents"]
        blue_first = latents[0, 2].mean() > latents[1, 2].mean()
        assert blue_first == ("without" in record.chosen.name)


@pytest.mark.parametrize("settings", [{}, {"reference_draws": 2}, {"anchor_weight": 1.0}])
def test_the_compact_form_trains_as_the_same_records_in_sages(data, tmp_path, settings):
    """With users' records written out in Sage's form: the same items, and so the same losses for the same places."""
    split = read_split(data, "train")
    sage = tmp_path / "sage"
    (sage / "train").mkdir(parents=True)
    (sage / "train" / "pictures").symlink_to(data / "pictures")
    records = [
        {
            "file_name": f"pictures/{record.chosen.name}",
            "chosen": f"pictures/{record.chosen.name}",
            "rejected": f"pictures/{record.rejected.name}",
            "caption": record.caption,
            "user_data": record.profile.to_dict(),
        }
        for record in split
    ]
    write_objects(sage / "train" / "metadata.jsonl", records)
    (sage / "train" / "pictures").unlink()
    (sage / "train" / "pictures").mkdir()
    for path in (data / "pictures").iterdir():
        (sage / "train" / "pictures" / path.name).write_bytes(path.read_bytes())
    compact, written = pairs_of(data, **settings), pairs_of(sage, **settings)
    assert len(compact) == len(written)
    for index in range(len(compact)):
        ours, theirs = compact[index, 7, 0], written[index, 7, 0]
        assert all(torch.equal(ours[name], theirs[name]) for name in ("latents", "sizes", "noise", "embedding"))
    result = Trainer(TrainConfig.from_dict({**QUICK, **settings, "steps": 2}), denoiser(), compact, tmp_path / "run")
    assert result.train().finished
    if "reference_draws" in settings:
        assert len(list((data / "cache").rglob("*.safetensors"))) == 3 + 4 + 3  # an entry a scene


@pytest.mark.parametrize("plain_share", [0.0, 0.5, 1.0])
def test_reference_errors_follow_the_chosen_picture(data, plain_share):
    settings = {"reference_draws": 1, "plain_share": plain_share, "caption_dropout": 0.0}
    pairs, base = pairs_of(data, **settings), denoiser()
    config = TrainConfig.from_dict({**QUICK, **settings})
    rows = RowMaker(NoiseSchedule(base.alphas_cumprod), config, base.device)
    referenced = ReferencedPairs(pairs, config, base)
    assert referenced.compute(base, rows, OneProcess(), lambda *_: None) is None
    assert pairs.swapped.any() and not pairs.swapped.all()
    for index in range(len(pairs)):
        place = (index, reference_seed(config.seed, int(pairs.scene_ids[index]), 0), 0)
        asked = rows.rows(default_collate([pairs[place]]), anchored=False)
        expected = row_errors(asked.reference(base), asked.target)
        assert torch.allclose(referenced[place]["reference_errors"], expected, rtol=1e-4)


def test_under_the_plain_caption_all_viewers_choose_the_picture_without(data):
    """Whether they ban what the other shows or not; a harmless scene has no other caption."""
    split = read_split(data, "train")
    pairs = pairs_of(data, plain_share=1.0, caption_dropout=0.0, flip=False)
    assert all(split.scene(number).plain.endswith(" alone") for number in range(split.scenes))
    for index in range(len(split)):
        latents = pairs[index, 5, 0]["latents"]
        assert latents[0, 2].mean() > latents[1, 2].mean()
    assert not read_split(data, "harmless").scene(0).plain
    assert not pairs_of(data, "harmless", plain_share=1.0).plain_keys.any()


def test_memory_goes_by_pairs_and_users_and_not_by_their_product(tmp_path):
    sizes = {}
    for users in (10, 1000):
        write_pair_set(tmp_path / str(users), {"train": (range(users), 5)})
        split = read_split(tmp_path / str(users), "train")
        assert len(split) == 5 * users
        sizes[users] = split.offsets.nbytes + split.category_ids.nbytes + sum(part.nbytes for part in split.answers)
    assert sizes[10] == sizes[1000]
    assert sum(part.nbytes for part in split.examples()) == 9 * len(split)


def test_any_pair_line_is_a_pair_or_a_sentence():
    pair = PicturePair("0" * 16, "Hate", "a", "named", "b", "c", "by hand", 1, ("x.png", "y.png"))
    assert PicturePair.of_line(json.loads(json.dumps(pair.line()))) == pair
    for name in pair.line():
        for odd in (None, 3, 1.5, [], {}, "", "\ud800", True, "x" * 100):
            try:
                assert PicturePair.of_line(pair.line() | {name: odd})
            except PSAError as error:
                str(error).encode()
