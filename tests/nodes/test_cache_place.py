"""Where compiled code is kept: the environment before the setting before the pack's own folder."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import threading
from pathlib import Path

import pytest

SUBFOLDER = "onediff_compile_cache"

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The place by environment and settings, in a ComfyUI folder of its own."""
    import folder_paths
    from onediff_pack.host.compile_cache_folder import cache_place

    comfyui = tmp_path / "ComfyUI"
    nodes = [comfyui / "custom_nodes", tmp_path / "more_nodes"]  # the second as extra_model_paths.yaml names it
    for folder in (*(comfyui / name for name in ("user", "input", "output", "temp", "models")), *nodes):
        folder.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "custom_nodes", ([str(folder) for folder in nodes], set()))
    monkeypatch.setattr(folder_paths, "models_dir", str(comfyui / "models"))
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(comfyui / "user"))
    for name in ("input", "output", "temp"):
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda name=name: str(comfyui / name))

    def ask(environment=None, **settings):
        for name in ("", "_MB"):
            monkeypatch.delenv(f"ONEDIFF_COMPILE_CACHE{name}", raising=False)
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        file = comfyui / "user" / "default" / "comfy.settings.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({f"OneDiff.CompileCache.{name}": value for name, value in settings.items()}))
        return cache_place()

    return ask


def test_environment_then_setting_then_the_packs_own_folder(place, tmp_path):
    named = {"ONEDIFF_COMPILE_CACHE": str(tmp_path / "env"), "ONEDIFF_COMPILE_CACHE_MB": "5"}
    assert place(named, Folder=str(tmp_path / "chosen")).folder == tmp_path / "env" / SUBFOLDER
    assert place(named, Limit=99).limit == 5 * 2**20
    assert place(Folder=str(tmp_path / "chosen"), Limit=99).folder == tmp_path / "chosen" / SUBFOLDER
    assert place(Limit=99).limit == 99 * 2**20
    assert place().folder == tmp_path / "ComfyUI" / "user" / "__onediff" / SUBFOLDER
    assert place().limit == 2 * 2**30


def test_off_keeps_nothing(place):
    assert place({"ONEDIFF_COMPILE_CACHE": "off"}).folder is None
    assert place(Folder="off").folder is None


posix = pytest.mark.skipif(os.name != "posix", reason="links need special rights on Windows, and it has no owners")


REFUSED = {
    "ComfyUI/user": "user",
    "ComfyUI/user/default/workflows": "user",
    "ComfyUI/custom_nodes": "custom_nodes",
    "ComfyUI/custom_nodes/some_pack/new": "custom_nodes",
    "more_nodes/x": "custom_nodes",
    "ComfyUI/input/a/../b": "input",
    "ComfyUI/output": "output",
    "ComfyUI/temp/x": "temp",
    "ComfyUI/models/loras": "models",
    "ComfyUI": "user",  # holds it
    "link_to_nodes": "custom_nodes",
    "holds_a_link": "output",
}


@pytest.mark.parametrize("by", ["environment", "setting"])
@pytest.mark.parametrize("name", REFUSED)
def test_comfyuis_own_folders_are_refused_whoever_names_them(place, tmp_path, name, by):
    if os.name == "posix":
        (tmp_path / "link_to_nodes").symlink_to(tmp_path / "ComfyUI" / "custom_nodes")
        (tmp_path / "holds_a_link").mkdir()
        (tmp_path / "holds_a_link" / SUBFOLDER).symlink_to(tmp_path / "ComfyUI" / "output")
    elif "link" in name:
        pytest.skip("links need special rights on Windows")
    named = str(tmp_path / name)
    found = place({"ONEDIFF_COMPILE_CACHE": named}) if by == "environment" else place(Folder=named)
    assert found.folder == place().folder
    assert found.among is None, "nothing is deleted there while something is compiled"
    assert f"ComfyUI's {REFUSED[name]} folder" in found.note
    assert ("ONEDIFF_COMPILE_CACHE" in found.note) == (by == "environment")
    assert str(tmp_path) not in found.note, "records and pictures carry it"


def test_a_disk_that_ignores_case_does_not_get_around_it(place, tmp_path, monkeypatch):
    """As on macOS and Windows, where the same folder has many names."""
    (tmp_path / "ComfyUI" / "CUSTOM_NODES").symlink_to(tmp_path / "ComfyUI" / "custom_nodes")
    monkeypatch.setattr(Path, "resolve", Path.absolute)
    assert "custom_nodes" in place({"ONEDIFF_COMPILE_CACHE": str(tmp_path / "ComfyUI" / "CUSTOM_NODES" / "x")}).note


@posix
def test_a_folder_reached_through_a_link_in_comfyuis_is_refused(place, tmp_path):
    (tmp_path / "elsewhere" / "web").mkdir(parents=True)
    for name in ("custom_nodes", "input", "output", "user"):
        (tmp_path / "ComfyUI" / name / "linked").symlink_to(tmp_path / "elsewhere")
        for inside in ("linked", "linked/web", "linked/new"):
            named = str(tmp_path / "ComfyUI" / name / inside)
            assert f"ComfyUI's {name} folder" in (place({"ONEDIFF_COMPILE_CACHE": named}).note or ""), named


@pytest.mark.parametrize(
    "named", ["/tmp/\0x", "/tmp/\ud800", "~\0/x", "~\ud800/x", "/" + "a/" * 3000, "/" + "a" * 300], ids=range(6)
)
def test_a_name_that_no_folder_can_have_is_said_and_clearing_finds_nothing_there(place, named, tmp_path):
    from onediff_pack.compilers.compile_cache import Deleted, WarmStart

    warming = WarmStart()
    warming.place = lambda: place(Folder=named)
    compile_in(warming)
    assert "is not used" in warming.notes[0]
    assert len(entries(tmp_path)) == 1, "kept in the pack's own folder instead"
    assert warming.clear() == Deleted(1, 0)


def test_the_packs_own_folder_is_not_refused_though_it_is_in_comfyuis(place, tmp_path):
    own = tmp_path / "ComfyUI" / "user" / "__onediff"
    found = place({"ONEDIFF_COMPILE_CACHE": str(own / "mine")})
    assert (found.folder, found.note) == (own / "mine" / SUBFOLDER, None)


def test_a_folder_beside_comfyuis_is_as_good_as_any(place, tmp_path):
    assert place(Folder=str(tmp_path / "ComfyUI" / "users")).note is None


@pytest.mark.parametrize("value", [7, None, "relative/path", [], {"a": 1}])
def test_other_values_of_a_setting_are_as_if_it_were_empty(place, value):
    assert place(Folder=value, Limit=value if value != 7 else "many").folder == place().folder


# What lies in a folder that the user names.


@pytest.fixture
def warm(place, tmp_path, monkeypatch):
    """A start of this pack with a folder of the user's own named."""
    from onediff_pack.compilers.compile_cache import WarmStart

    (tmp_path / "own").mkdir(mode=0o700)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    def start():
        started = WarmStart()
        started.place = lambda: place({"ONEDIFF_COMPILE_CACHE": str(tmp_path / "own"), "ONEDIFF_COMPILE_CACHE_MB": "1"})
        return started

    return start


def compile_in(warm, key: str = "1" * 64, size: int = 1000):
    with warm.compiling(key) as compiling:
        (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / f"made {key[:4]}").write_bytes(os.urandom(size))
    warm.keep(compiling, 1.0)
    return compiling


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.graph") if re.fullmatch("[0-9a-f]{64}", path.stem)]


def as_version_0_4_0_kept(folder: Path, key: str) -> None:
    """An entry as that version wrote it, and the key that it signed with."""
    secret = folder / "key"
    if not secret.exists():
        secret.write_bytes(os.urandom(32))
        secret.chmod(0o600)
    signing = hashlib.sha256(secret.read_bytes() + str(secret.stat().st_ino).encode()).digest()
    signature = hmac.digest(signing, key.encode() + b"\npacked", "sha256")
    (folder / f"{key}.graph").write_bytes(b"onediff compile cache 1\n" + signature + b"packed")
    (folder / f"{key}.graph").chmod(0o600)


def test_files_that_others_keep_there_stay_whatever_is_compiled_trimmed_and_cleared(warm, tmp_path):
    own = tmp_path / "own"
    hashed = hashlib.sha256(b"a graph of somebody's").hexdigest()
    files = {
        name: os.urandom(32)
        for name in ("key", "download.tmp", "tmpab12cd_x.tmp", "model.graph", f"{hashed}.graph", f"{hashed}.tmp")
    }
    for name, content in files.items():
        (own / name).write_bytes(content)
        os.utime(own / name, (1e9, 1e9))
    warming = warm()
    for digit in "123":  # more than the limit
        compile_in(warming, digit * 64, 500_000)
    kept = len(entries(own / SUBFOLDER))
    warming.clear()
    assert {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()} == files
    assert 0 < kept < 3
    assert entries(own / SUBFOLDER) == []


def test_entries_of_version_0_4_0_go_with_their_key_and_nothing_else(warm, tmp_path):
    own, before = tmp_path / "own", tmp_path / "ComfyUI" / "user" / "__onediff" / "compile_cache"
    before.mkdir(parents=True)
    for folder in (own, before):
        as_version_0_4_0_kept(folder, "a" * 64)
        as_version_0_4_0_kept(folder, "b" * 64)
    (own / "model.graph").write_text("somebody's")
    compile_in(warm())
    assert sorted(path.name for path in own.iterdir()) == ["model.graph", SUBFOLDER]
    assert not before.exists()


def test_a_key_of_the_users_own_stays_with_entries_that_it_did_not_sign(warm, tmp_path):
    own = tmp_path / "own"
    as_version_0_4_0_kept(own, "a" * 64)
    (own / "key").write_bytes(b"k" * 32)
    compile_in(warm())
    assert sorted(path.name for path in own.iterdir()) == [f"{'a' * 64}.graph", "key", SUBFOLDER]


def test_clearing_deletes_what_is_kept_in_every_place_that_was_ever_named(place, warm, tmp_path):
    from onediff_pack.compilers.compile_cache import WarmStart

    default = WarmStart()
    default.place = place
    compile_in(default)
    assert len(entries(tmp_path)) == 1
    named = warm()
    compile_in(named)
    assert len(entries(tmp_path)) == 2
    as_version_0_4_0_kept(tmp_path / "own", "a" * 64)
    assert named.clear().count == 3
    assert entries(tmp_path) == []
    compile_in(default)
    off = WarmStart()
    off.place = lambda: place({"ONEDIFF_COMPILE_CACHE": "off"})
    assert off.clear().count == 1
    assert entries(tmp_path) == []


@pytest.fixture
def at(place):
    """A start of this pack with this folder named, as the nodes make one."""
    from onediff_pack.compilers.compile_cache import WarmStart
    from onediff_pack.host.compile_cache_folder import remember_folder

    def start(named: str):
        started = WarmStart()
        started.place, started.used = lambda: place({"ONEDIFF_COMPILE_CACHE": named}), remember_folder
        return started

    return start


def test_clearing_reaches_folders_that_were_named_before_also_in_another_start(at, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        compile_in(at(str(tmp_path / name)))
        (tmp_path / name / SUBFOLDER / "notes.txt").write_text("somebody's")
    assert len(entries(tmp_path)) == 2
    assert at("").clear().count == 2
    assert entries(tmp_path) == []
    for name in ("first", "second"):
        assert [path.name for path in (tmp_path / name / SUBFOLDER).iterdir()] == ["notes.txt"]


def test_remembered_folders_are_few_and_nothing_else_is_cleared(at, tmp_path):
    own = tmp_path / "ComfyUI" / "user" / "__onediff"
    for number in range(40):
        (tmp_path / f"f{number}").mkdir()
        compile_in(at(str(tmp_path / f"f{number}")), "1" * 64)
    (file,) = own.glob("*.json")
    assert len(json.loads(file.read_text())) == 32
    assert file.stat().st_mode & 0o077 == 0 or os.name != "posix"
    assert at("").clear().count == 32, "the last ones"
    mine = tmp_path / "mine"
    mine.mkdir()
    as_version_0_4_0_kept(mine, "a" * 64)
    if os.name == "posix":
        (tmp_path / "link").mkdir()
        (tmp_path / "link" / SUBFOLDER).symlink_to(mine)
    for content in (
        json.dumps([str(mine), str(tmp_path / "link" / SUBFOLDER), 7, "\0", ""]),
        "[" * 10**5,
        "{}",
        "\xff",
    ):
        file.write_text(content)
        assert at("").clear().count == 0
    assert sorted(path.name for path in mine.iterdir()) == [f"{'a' * 64}.graph", "key"]


@pytest.mark.parametrize("name", ["ComfyUI/output", "ComfyUI/user/cache", "ComfyUI/custom_nodes", "ComfyUI/input"])
def test_clearing_deletes_what_0_4_0_signed_in_a_folder_that_is_refused_now_and_nothing_else(at, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    as_version_0_4_0_kept(folder, "a" * 64)
    as_version_0_4_0_kept(folder, "b" * 64)
    kept = {
        f"{'c' * 64}.graph": b"onediff compile cache 1\n" + b"s" * 40,  # nobody's that can be shown
        f"{'d' * 64}.graph": b"a picture",
        f"{'e' * 64}.png": b"a picture",
        "onediff.key": b"k" * 32,
    }
    for other, content in kept.items():
        (folder / other).write_bytes(content)
    compile_in(at(str(folder)))
    assert (folder / "key").exists() and (folder / f"{'a' * 64}.graph").exists(), "nothing is deleted unasked"
    assert at(str(folder)).clear().count == 2 + 1
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert found == kept
    (folder / "key").write_bytes(b"k" * 32)  # a file of the user's own that signed nothing
    assert at(str(folder)).clear().count == 0
    assert (folder / "key").exists() and not (folder / SUBFOLDER).exists()


def test_what_cannot_be_deleted_is_said(warm, monkeypatch, tmp_path):
    from onediff_pack.host import server as host

    warming = warm()
    compile_in(warming)
    blocked = tmp_path / "own" / SUBFOLDER / f"{'c' * 64}.graph"
    (blocked / "inside").mkdir(parents=True)  # not even root can unlink a folder
    monkeypatch.setattr(host.CLEARED, "clear_graphs", warming.clear)
    monkeypatch.setattr(host, "_from", lambda what: "The next sampling compiles again.")
    said = host.clear_compile_cache()
    assert "the one file kept on disk is deleted" in said
    assert "On disk 1 could not be deleted (" in said
    assert str(tmp_path) not in said


def test_no_folder_is_made_that_nobody_asked_for(place, tmp_path):
    from onediff_pack.compilers.compile_cache import WarmStart

    warming = WarmStart()
    warming.place = lambda: place({"ONEDIFF_COMPILE_CACHE": str(tmp_path / "mistyped" / "cache")})
    compile_in(warming)
    assert not (tmp_path / "mistyped").exists()
    assert "make it, or name another with ONEDIFF_COMPILE_CACHE" in warming.notes[0]
    (tmp_path / "mistyped").mkdir()
    compile_in(warming)
    assert len(entries(tmp_path / "mistyped" / "cache" / SUBFOLDER)) == 1, "the last one is made"


def test_a_folder_of_the_users_own_behind_a_link_keeps_what_0_4_0_did_not_write(warm, tmp_path):
    """As somebody makes one who moves the cache of 0.4.0 to another disk."""
    mine, before = tmp_path / "mine", tmp_path / "ComfyUI" / "user" / "__onediff"
    mine.mkdir()
    before.mkdir(parents=True)
    (before / "compile_cache").symlink_to(mine)
    for name in ("key", f"{'9' * 64}.graph"):
        (mine / name).write_bytes(b"somebody's")
    warming = warm()
    compile_in(warming)
    warming.clear()
    assert sorted(path.name for path in mine.iterdir()) == [f"{'9' * 64}.graph", "key"]


def test_naming_a_folder_of_this_pack_itself_deletes_nothing_of_it(at, tmp_path):
    (tmp_path / "data").mkdir()
    for before in (str(tmp_path / "data"), ""):
        compile_in(at(before), "a" * 64)
        (kept,) = entries(tmp_path)
        compile_in(at(str(kept.parent)), "b" * 64)
        assert {path.stem[0] for path in entries(tmp_path)} == {"a", "b"}
        assert (kept.parent / "onediff.key").exists()
        assert at(before).clear().count == 2


def test_clearing_looks_at_what_a_file_holds_before_it_goes(at, tmp_path):
    (tmp_path / "data").mkdir()
    named = at(str(tmp_path / "data"))
    compile_in(named)
    mine = tmp_path / "data" / SUBFOLDER / f"{'f' * 64}.graph"
    mine.write_bytes(b"a graph of somebody's" * 100_000)
    compile_in(named, "2" * 64)
    said = at("").clear()
    assert (said.count, said.left) == (2, 0)
    assert mine.exists()


def test_folders_that_are_used_at_once_are_all_remembered(at, tmp_path):
    from onediff_pack.host import compile_cache_folder

    folders = [tmp_path / f"r{number}" / SUBFOLDER for number in range(16)]
    for folder in folders:
        folder.mkdir(parents=True)
    at("")
    threads = [threading.Thread(target=compile_cache_folder.remember_folder, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(at("").place().others) >= set(folders)


@posix
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_list_of_folders_that_is_no_file_is_neither_waited_for_nor_followed(at, tmp_path, kind):
    own, remembered = tmp_path / "ComfyUI" / "user" / "__onediff", tmp_path / "r" / SUBFOLDER
    own.mkdir()
    remembered.mkdir(parents=True)
    list_ = own / "compile_cache_folders.json"
    if kind == "pipe":
        os.mkfifo(list_)
    else:
        (tmp_path / "theirs.json").write_text(json.dumps([str(remembered)]))
        list_.symlink_to(tmp_path / "theirs.json")
    found = []
    thread = threading.Thread(target=lambda: found.append(at("").place()), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert found, "it waits for a writer"
    assert remembered not in found[0].others


def test_how_large_the_cache_is_now(place, tmp_path, monkeypatch):
    from onediff_pack.host import compile_cache_folder

    kept = place({})
    size = compile_cache_folder.cache_size
    assert size() == {"bytes": 0, "files": 0, "limit": kept.limit}, "before anything was kept"
    kept.folder.mkdir(parents=True)
    (kept.folder / "a").write_bytes(b"12345")
    (kept.folder / "b").write_bytes(b"123")
    assert size() == {"bytes": 8, "files": 2, "limit": kept.limit}
    monkeypatch.setenv("ONEDIFF_COMPILE_CACHE", "off")
    assert size() == {"bytes": None, "files": None, "limit": None}


@pytest.mark.parametrize(
    ("environment", "setting", "seconds"),
    [
        (None, None, None),
        (None, 0, None),
        (None, 30, 30.0),
        ("5", 30, 5.0),
        ("0", 30, 0.0),
        ("soon", 30, 30.0),
        (None, "30", None),
        (None, -1, None),
        (None, True, None),
        (None, 1e999, None),
    ],
)
def test_seconds_of_compiling_are_those_of_the_environment_then_of_the_setting(
    place, monkeypatch, environment, setting, seconds
):
    from onediff_pack.host import user_settings

    monkeypatch.delenv("ONEDIFF_COMPILE_SECONDS", raising=False)
    if environment is not None:
        monkeypatch.setenv("ONEDIFF_COMPILE_SECONDS", environment)
    monkeypatch.setattr(user_settings, "user_settings", lambda: {"OneDiff.Compile.Seconds": setting})
    assert user_settings.compile_seconds() == seconds
