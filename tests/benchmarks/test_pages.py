"""The pages that people read: their links lead somewhere, and ARCHITECTURE.md names files that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from onediff_pack.status.record import FIELDS, STATES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "web/docs/*.md", "web/docs/*/*.md")
    for page in ROOT.glob(pattern)
    if page.is_file()
)
#: The folders that hold the pack, as opposed to its tests and tools.
ROOMS = "nodes host compilers checks processors proving speed_report measure patching status"


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        # The pages of a translation lie a folder deeper; ComfyUI resolves their pictures from web/docs all the same.
        places = [page.parent / name, page.parent.parent / name] if page.name == "zh.md" else [page.parent / name]
        found = next((place for place in places if place.exists()), None) if name else page
        if found is None or (anchor and anchor not in anchors(found)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_link_to_nowhere_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Two words\n[a](#two-words) [b](#one-word) [c](none.md) `[d](code.md)`\n", encoding="utf-8")
    assert broken_links(page) == ["#one-word", "none.md"]


def test_architecture_names_every_room_and_no_file_that_is_gone():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    files = [file for room in ROOMS.split() for file in (ROOT / room).rglob("*.py")]
    elsewhere = [file for folder in (".", "docs", "scripts", "benchmarks") for file in (ROOT / folder).glob("*.py")]
    names = {file.name for file in (*files, *elsewhere)}
    assert set(re.findall(r"\b\w+\.py\b", text)) <= names
    folders = {file.parent for file in files if file.name != "__init__.py"}
    assert [folder for folder in folders if f"{folder.name}/" not in text] == []


def test_the_page_on_the_record_describes_every_field_and_state():
    text = (ROOT / "docs" / "record.md").read_text(encoding="utf-8")
    assert [name for name in (*FIELDS, *STATES) if f"`{name}`" not in text] == []


def test_the_readme_opens_with_who_gains_how_much_on_which_machine_and_who_gains_nothing():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 120
    opening = "\n".join(lines[:40])
    rows = re.findall(r"^\| (CPU|NVIDIA)[^|]*\|[^|]*\|([^|]*)\|", opening, re.MULTILINE)
    gains = [float(gain) for _, said in rows for gain in re.findall(r"\((\d\.\d\d)×\)", said)]
    assert len(rows) > 2 and min(gains) > 1.03, "each row names its machine, and something is gained there"
    assert "You gain nothing" in opening


#: The editor's own, as ComfyUI 0.30.0 names them.
EDITORS = {"Templates", "Extensions", "Edit → Refresh Node Definitions"}


def test_menus_are_named_as_the_editor_has_them():
    words = json.loads((ROOT / "locales" / "en" / "main.json").read_text(encoding="utf-8"))
    known = {*words["menuLabels"], *words["onediff"]["accelerate"].values(), *words["onediff"]["old"].values()}
    known |= {f"Settings › {name}" for name in words["settingsCategories"]} | EDITORS  # noqa: RUF001
    pages = [ROOT / "README.md", *(ROOT / "web" / "docs").glob("*.md")]
    named = {
        name
        for page in pages
        for name in re.findall(
            r"(?<!\*)\*([A-Z][^*\n]*)\*(?!\*)", without_code(page.read_text(encoding="utf-8")).replace("\n", " ")
        )
    }
    assert "Accelerate with OneDiff" in named and named <= known, named - known
