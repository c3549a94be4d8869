"""JSON that others wrote: one kind of error for all that is none."""

import pytest

from psa_core.json_text import parse_json


@pytest.mark.parametrize("text", ["[" * 100_000, b'{"a":' * 100_000, "1" * 5000, b"\xff\xfe[", "", "{", '{"a": 1}]'])
def test_whatever_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_what_is_json_is_read():
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


def test_two_values_under_one_name_are_refused_where_that_is_asked():
    text = '{"Banned_Categories": ["Hate"], "Banned_Categories": []}'
    assert parse_json(text) == {"Banned_Categories": []}
    for twice in (text, f'{{"user_data": {text}}}'):
        with pytest.raises(ValueError):
            parse_json(twice, once=True)
    assert parse_json('{"a": {"b": 1}, "b": 2}', once=True) == {"a": {"b": 1}, "b": 2}
