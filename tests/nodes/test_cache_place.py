"""Where compiled code is kept: the environment before the setting before the pack's own folder."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The place by environment and settings, in a ComfyUI folder of its own."""
    import folder_paths
    from onediff_pack.nodes.cache_place import cache_place

    for name in ("user", "input", "output", "temp"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    for name in ("input", "output", "temp"):
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda name=name: str(tmp_path / name))

    def ask(environment=None, **settings):
        for name in ("", "_MB"):
            monkeypatch.delenv(f"ONEDIFF_COMPILE_CACHE{name}", raising=False)
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        file = tmp_path / "user" / "default" / "comfy.settings.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({f"OneDiff.CompileCache.{name}": value for name, value in settings.items()}))
        return cache_place()

    return ask


def test_environment_then_setting_then_the_packs_own_folder(place, tmp_path):
    named = {"ONEDIFF_COMPILE_CACHE": str(tmp_path / "env"), "ONEDIFF_COMPILE_CACHE_MB": "5"}
    assert place(named, Folder=str(tmp_path / "chosen")).folder == tmp_path / "env"
    assert place(named, Limit=99).limit == 5 * 2**20
    assert place(Folder=str(tmp_path / "chosen"), Limit=99).folder == tmp_path / "chosen"
    assert place(Limit=99).limit == 99 * 2**20
    assert place().folder.name == "compile_cache"
    assert place().limit == 2 * 2**30


def test_off_keeps_nothing(place):
    assert place({"ONEDIFF_COMPILE_CACHE": "off"}).folder is None
    assert place(Folder="off").folder is None


@pytest.mark.parametrize("inside", ["input", "output", "temp", "input/a/../b"])
def test_a_page_cannot_move_the_cache_to_where_pages_put_files(place, tmp_path, inside):
    assert place(Folder=str(tmp_path / inside / "cache")).folder == place().folder


@pytest.mark.parametrize("value", [7, None, "relative/path", [], {"a": 1}])
def test_other_values_of_a_setting_are_as_if_it_were_empty(place, value):
    assert place(Folder=value, Limit=value if value != 7 else "many").folder == place().folder
