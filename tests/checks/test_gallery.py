"""The check on the gallery: it finds what is wrong with each, where, and what mends it, and nothing in right ones."""

from __future__ import annotations

import gallery
import pytest

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

gallery.load()

#: The first of those that break the same rules at the same kind of site.
FIRST = {(wrong.rules, wrong.kind): name for name, wrong in reversed(gallery.WRONG.items())}.values()
REMEDIES = [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.long]) for name in gallery.WRONG]

#: At both kinds of site: those that tell them apart, and one of each level. The others where there is a prompt.
AT_BOTH = {"Kernel", "Module", "BranchOnShape", "RotatesQueriesAndKeys"}


@pytest.mark.parametrize("name", gallery.WRONG)
def test_it_says_what_is_wrong_and_where(name):
    wrong = gallery.WRONG[name]
    findings = gallery.check(wrong.cls(), wrong.kind)
    assert {finding.rule for finding in findings} == set(wrong.rules), [str(finding) for finding in findings]
    for finding in findings:
        assert finding.path.startswith("blocks.0.attn") and ".processor" in finding.path
        assert finding.cls == name
        assert finding.where.endswith(f"/{wrong.file}:{wrong.line}"), (finding.where, wrong.line)
        assert finding.what and finding.why.endswith(".") and finding.fix.endswith(".")
        assert "{" not in finding.what + finding.fix


@pytest.mark.parametrize("name", REMEDIES)
def test_the_remedy_mends_it(name):
    wrong = gallery.WRONG[name]
    assert name in gallery.MENDED, "every wrong processor is here a second time, mended"
    assert [str(finding) for finding in gallery.check(gallery.MENDED[name](), wrong.kind)] == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[pytest.mark.long] if kind == "self" and name not in AT_BOTH else [])
        for kind in ("self", "cross")
        for name in gallery.RIGHT
    ],
)
def test_nothing_is_found_in_a_right_one(name, kind):
    assert [str(finding) for finding in gallery.check(gallery.RIGHT[name](), kind)] == []


def test_the_gallery_is_large_enough():
    assert len(gallery.WRONG) >= 40
    assert len(gallery.RIGHT) >= 28
