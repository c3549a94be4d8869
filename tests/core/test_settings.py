"""Settings and their files: what is taken, and the one sentence for what is not."""

from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from psa_core import PSAError
from psa_core.commands.train import RunFile
from psa_core.settings import BaseSettings, FilePath, Listed, read_toml
from psa_core.training import PRESETS, TrainConfig


class Some(BaseSettings):
    """One field of each kind."""

    what = "test setting"

    size: Annotated[int, Field(ge=64, multiple_of=8)] | None = None
    rate: Annotated[float, Field(gt=0)] = 0.5
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    steps: Annotated[int, Field(ge=1, le=9)] = 3
    kind: Literal["this", "that"] = "this"
    on: bool = False
    between: Annotated[tuple[int, int], Listed] = (0, 9)
    path: FilePath | None = None
    text: str = ""


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"size": 60}, "'size' must be a multiple of 8 and at least 64."),
        ({"rate": 0}, "'rate' must be above 0."),
        ({"rate": "0.5"}, "'rate' must be of the kind float, such as 0.5."),
        ({"rate": 10**400}, "'rate' must be of the kind float, such as 0.5."),
        ({"rate": float("inf")}, "'rate' must be of the kind float, such as 0.5."),
        ({"share": 1.5}, "'share' must be a share from 0 to 1."),
        ({"decay": 1.0}, "'decay' must be at least 0 and up to, but not including, 1."),
        ({"steps": 10**4000}, "'steps' must be at least 1 and at most 9."),
        ({"steps": 2.0}, "'steps' must be of the kind int, such as 3."),
        ({"steps": True}, "'steps' must be of the kind int, such as 3."),
        ({"kind": "other"}, "'kind' must be one of: this, that."),
        ({"on": 1}, "'on' must be of the kind bool, such as false."),
        ({"between": [1, True]}, "'between' must be a list such as [0, 9]."),
        ({"path": 3}, "'path' must be text in quotes."),
        ({"text": b"x"}, "'text' must be text in quotes."),
        ({"sise": 64}, "'sise' is not a test setting. Did you mean 'size'?"),
        ({"path": "C:\temp"}, "control character"),
        ({"path": "a\0b"}, "control character"),
    ],
)
def test_a_refusal_names_the_setting_and_what_it_takes(values, sentence):
    with pytest.raises(PSAError) as caught:
        Some(**values)
    assert sentence in str(caught.value)


def test_whole_numbers_will_do_for_floats_and_lists_for_tuples_and_nothing_changes_later():
    some = Some(rate=2, between=[3, 4], size=64)
    assert (some.rate, some.between, some.size) == (2.0, (3, 4), 64) and isinstance(some.rate, float)
    assert some.changed(rate=1) == Some(rate=1, between=(3, 4), size=64)
    with pytest.raises(PSAError, match="above 0"):
        some.changed(rate=0)
    with pytest.raises(ValueError, match="frozen"):
        some.rate = 3.0


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.data())
def test_settings_round_trip(preset, data):
    changes = {
        "preset": preset,
        "learning_rate": data.draw(st.floats(1e-12, 1)),
        "seed": data.draw(st.integers(0, 2**64 - 1)),
        "flip": data.draw(st.booleans()),
        "timestep_range": [data.draw(st.integers(0, 499)), data.draw(st.integers(500, 1000))],
    }
    config = TrainConfig.from_dict(changes)
    assert TrainConfig.from_dict(config.to_dict()) == config == TrainConfig(**config.to_dict())


FILE = 'model = "m"\ndata = "d"\noutput = "o"\n'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'model = "C:\\models\\sd15"\n', "Windows paths with /"),
        (b'model = "C:\\Users\\me"\n', "Windows paths with /"),
        (b'model = "C:\\temp"\ndata = "d"\noutput = "o"\n', "control character"),
        (FILE.encode("utf-16"), "UTF-8"),
        (b"a = " + b"[" * 50_000, "not a valid TOML file"),
        (b"a = " + b"9" * 5_000, "not a valid TOML file"),
        (b"[training]\nsteps = " + b"9" * 4_000, "lacks|'steps' must be"),
        (b"#" * ((1 << 20) + 1), "larger than 256 KiB"),
        (b"'" + b"x" * 5_000 + b"' = 1", "is not a run file entry"),
    ],
)
def test_a_faulty_file_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(PSAError, match=sentence) as caught:
        RunFile.read(tmp_path / "run.toml")
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "run.toml").write_text(FILE + 'users = "users.csv"\n', encoding="utf-8-sig")
    run = RunFile.read(tmp_path / "run.toml")
    assert (run.model, run.users) == (tmp_path / "m", tmp_path / "users.csv")
    assert run.training == TrainConfig.from_dict({})


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_are_a_table_or_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(content or b" ")
    try:
        assert isinstance(read_toml(path), dict)
    except PSAError as error:
        assert str(error).startswith("fuzzed.toml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(TrainConfig.model_fields)), VALUES, max_size=3))
def test_any_values_are_settings_or_a_sentence(values):
    try:
        TrainConfig.from_dict(values)
    except PSAError as error:
        assert "'" in str(error)
