"""Values as a record may hold them, at the limits."""

from __future__ import annotations

import json

import pytest
from onediff_pack.status.plain import (
    DEEPEST,
    LONGEST_ID,
    LONGEST_TEXT,
    MOST_FINDINGS,
    MOST_ITEMS,
    cut,
    plain,
    plain_check,
    short_id,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("abc", "abc"), ("abcd", "abcd"), ("abcde", "abc…"), ("é世", "é世"), ("a\ud800", "a?")],
)
def test_texts_are_cut_to_their_length_and_utf_8_can_hold_them(text, expected):
    assert cut(text, 4) == expected


def test_long_ids_are_cut_and_told_from_others():
    name = "é" * LONGEST_ID
    assert short_id(name) == name
    one, other = short_id(f"{name}1"), short_id(f"{name}2")
    assert one != other
    assert one == short_id(f"{name}1"), "the same in each process"
    assert len(one) == LONGEST_ID
    assert one.startswith(name[: LONGEST_ID - 9])
    assert short_id("\ud800") != short_id("\ud801")
    for odd in ("\ud800", "a\nb", "7\u202e", "\x1b[31m"):
        assert short_id(odd).isprintable() and "?" in short_id(odd), "it stands in lines and logs"
    assert short_id("\ud800" * 200).startswith("?")


def nested(inner, levels):
    return [nested(inner, levels - 1)] if levels else inner


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), "a number of 64 bits"),
        (2**63, "a number of 64 bits"),
        pytest.param(10**5000, "a number of 16610 bits", id="more digits than Python writes"),
        (1.5, 1.5),
        (float("-inf"), None),
        ({1: (2, 3)}, {"1": [2, 3]}),
        ({"k" * 3000: 1}, {"k" * 1999 + "…": 1}),
        ("x" * LONGEST_TEXT, "x" * LONGEST_TEXT),
        ("x" * (LONGEST_TEXT + 1), "x" * (LONGEST_TEXT - 1) + "…"),
        (list(range(MOST_ITEMS + 1)), list(range(MOST_ITEMS))),
        (dict.fromkeys(map(str, range(MOST_ITEMS + 1)), 0), dict.fromkeys(map(str, range(MOST_ITEMS)), 0)),
        (object(), "object"),
        (nested("end", DEEPEST), nested("end", DEEPEST)),
        (nested([], DEEPEST), nested("list", DEEPEST)),
        (nested({}, DEEPEST), nested("dict", DEEPEST)),
        ({"a": nested([], DEEPEST - 1)}, {"a": nested("list", DEEPEST - 1)}),
    ],
)
def test_values_are_those_that_json_and_browsers_hold(value, expected):
    found = plain(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def test_more_findings_than_a_page_shows_are_counted():
    findings = [{"severity": "error", "what": str(number)} for number in range(MOST_FINDINGS)]
    assert plain_check({"errors": 100, "findings": findings})["findings"] == findings
    found = plain_check({"errors": 1600, "findings": findings * 16})
    assert found["errors"] == 1600
    assert found["findings"][:-1] == findings
    assert found["findings"][-1] == {
        "severity": "note",
        "path": "",
        "class": "",
        "where": "",
        "what": "1,500 more findings are not shown",
        "why": "These are the 100 worst.",
        "fix": "Fix those first.",
        "rule": "more-findings",
    }


def test_a_check_without_findings_is_kept_as_it_is():
    assert plain_check(None) is None
    assert plain_check({"errors": 0, "findings": []}) == {"errors": 0, "findings": []}
    assert plain_check({"errors": 0}) == {"errors": 0}
