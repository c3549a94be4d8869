"""JSON that others wrote: one kind of error for all that is none."""

import pytest

from psa_core.json_text import parse_json


@pytest.mark.parametrize("text", ["[" * 100_000, b'{"a":' * 100_000, "1" * 5000, b"\xff\xfe[", "", "{", '{"a": 1}]'])
def test_whatever_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_what_is_json_is_read():
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
