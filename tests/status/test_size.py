"""How large a record may become, whatever a workflow, a model or other nodes bring."""

from __future__ import annotations

import json
from typing import Any

import pytest
from onediff_pack.status.plain import plain, plain_check
from onediff_pack.status.record import FIELDS, Record

WIDE = [[["x" * 2_000] * 1_000] * 1_000] * 1_000
FINDING = {"severity": "warning", "path": "p" * 2_000, "class": "C", "where": "w", "what": "odd", "why": "é" * 2_000}


def size(record: Record) -> int:
    return len(json.dumps(record.data, allow_nan=False).encode())


@pytest.mark.parametrize(
    "value",
    [
        WIDE,
        {"a": WIDE, "b": 1},
        {f"{n}" * 500: {f"{m}": "\x00\ud800é" * 600 for m in range(1_000)} for n in range(1_000)},
        [{"path": "p" * 1_999, "reason": float("nan")}] * 1_000,
        [list(range(1_000))] * 1_000,
    ],
)
def test_no_field_makes_a_record_larger_than_a_page_can_take(value):
    record = Record("workflow", "7")
    fields: dict[str, Any] = {
        name: {"long": value, "more": value} for name in set(FIELDS) - {"workflow", "node", "state", "summary"}
    }
    fields["patches"] = {"sites": [], "foreign": [], "long": value}
    fields |= {"unused": None, "held": None, "approximate": None}
    record.update(**{**fields, "compile": {"regions": 3, "regions_compiled": 2, "list": value}})
    assert size(record) < 800_000
    assert record["compile"]["cut"] is True
    assert (record["compile"]["regions"], record["compile"]["regions_compiled"]) == (3, 2)


def test_what_the_nodes_read_in_a_record_stays_however_many_places_are_patched():
    record = Record("workflow", "7")
    sites = [{"site": "block." * 100 + str(n), "processor": "sdpa"} for n in range(1_000)]
    record.update(state="patched", patches={"sites": sites, "foreign": [{"what": "w", "where": "f"}], "reached": 1_000})
    patches = record["patches"]
    assert patches["foreign"] == [{"what": "w", "where": "f"}] and patches["reached"] == 1_000 and patches["cut"]
    assert 100 < len(patches["sites"]) < 1_000 and all(site["processor"] == "sdpa" for site in patches["sites"])
    huge = plain({"sites": WIDE, "others": WIDE, "reached": 1}, 1_000)
    assert huge["reached"] == 1 and isinstance(huge["others"], list) and len(json.dumps(huge)) <= 1_000


def test_findings_are_left_out_whole_and_counted():
    record = Record("workflow", "7")
    record.update(check={"modules": 9, "warnings": 300, "errors": 0, "findings": [FINDING] * 300})
    *shown, last = record["check"]["findings"]
    assert 3 < len(shown) < 100 and all(set(one) == set(FINDING) for one in shown)
    assert last["what"] == f"{300 - len(shown)} more findings are not shown"
    assert record["check"]["warnings"] == 300 and len(json.dumps(record["check"])) <= 2**18


def test_what_is_small_is_kept_as_it_is():
    value = {"b": [1, 2.5, None, {"x": "é"}], "a": {"deep": [[["x"]]]}, "n": True}
    assert plain(value) == value and list(plain(value)) == list(value)
    check = {"modules": 1, "findings": [FINDING] * 3}
    assert plain_check(check) == check
