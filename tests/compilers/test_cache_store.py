"""The store of compiled graphs: what is taken from it, what never is, and what stays when things go wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from onediff_pack.compilers.compile_cache import folder as folder_
from onediff_pack.compilers.compile_cache import store, windows
from onediff_pack.compilers.compile_cache.folder import CacheUnusable, prepare
from onediff_pack.compilers.compile_cache.store import Entry, NotOurs, Store

ENTRY = Entry({"fxgraph/ab/graph": b"compiled" * 50, "cd/kernel.so": bytes(range(256))}, 12.5)
ONE, TWO = "1" * 64, "2" * 64
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no owner and mode bits")


@pytest.fixture
def folder(tmp_path):
    return prepare(tmp_path / "cache")


@pytest.fixture
def kept(folder):
    found = Store(folder, 10**6)
    found.write(ONE, ENTRY)
    return found


def test_what_was_kept_comes_back_in_another_process_of_the_same_user(kept, folder):
    assert Store(folder, 10**6).read(ONE) == ENTRY
    assert kept.read(TWO) is None


@posix
def test_nobody_else_can_read_or_write_what_is_kept(kept, folder):
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("cut", [0, 10, 40, 200, -1])
def test_a_truncated_file_is_not_used(kept, folder, cut):
    path = folder / f"{ONE}.graph"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(NotOurs, match="entry 111111111111 was not used"):
        kept.read(ONE)


def test_a_single_changed_bit_is_noticed(kept, folder):
    path = folder / f"{ONE}.graph"
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(NotOurs):
            kept.read(ONE)


class Harmful:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["ONEDIFF_TEST_TRAP"])),)


def test_a_foreign_file_is_neither_unpickled_nor_opened(kept, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ONEDIFF_TEST_TRAP", str(tmp_path / "sprung"))
    (folder / f"{TWO}.graph").write_bytes(pickle.dumps(Harmful()))
    (folder / f"{TWO}.graph").chmod(0o600)
    with pytest.raises(NotOurs):
        kept.read(TWO)
    assert not (tmp_path / "sprung").exists()


def test_an_entry_under_another_name_is_not_used(kept, folder):
    shutil.copy(folder / f"{ONE}.graph", folder / f"{TWO}.graph")
    (folder / f"{TWO}.graph").chmod(0o600)
    with pytest.raises(NotOurs):
        kept.read(TWO)


def test_a_copy_of_the_whole_folder_with_its_key_holds_nothing(kept, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(NotOurs):
        Store(prepare_copy(tmp_path / "copy"), 10**6).read(ONE)


def prepare_copy(copy: Path) -> Path:
    copy.chmod(0o700)
    return prepare(copy)


@posix
def test_a_file_that_others_may_write_is_not_used(kept, folder):
    (folder / f"{ONE}.graph").chmod(0o666)
    with pytest.raises(NotOurs, match="not a file of this user alone"):
        kept.read(ONE)


@posix
def test_a_link_is_not_followed(kept, folder, tmp_path):
    shutil.move(folder / f"{ONE}.graph", tmp_path / "elsewhere")
    (folder / f"{ONE}.graph").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((NotOurs, OSError)):
        kept.read(ONE)


@pytest.fixture
def soon():
    """Runs something that must not wait for anybody."""

    def run(what):
        found = []

        def answer():
            try:
                found.append(what())
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        thread.join(timeout=10)
        assert found, "it waits for a writer"
        return found[0]

    return run


@posix
def test_a_pipe_in_the_place_of_an_entry_or_the_key_is_not_waited_for(kept, folder, soon):
    (folder / f"{ONE}.graph").unlink()
    os.mkfifo(folder / f"{ONE}.graph")
    assert isinstance(soon(lambda: kept.read(ONE)), NotOurs)
    kept.drop(ONE)
    for key in ("key", store.KEY):
        (folder / key).unlink(missing_ok=True)
        os.mkfifo(folder / key)
    soon(lambda: kept.write(ONE, ENTRY))
    assert soon(lambda: kept.read(ONE)) == ENTRY


def test_a_file_of_any_size_is_not_read_into_memory(kept, folder, monkeypatch):
    monkeypatch.setattr(store, "MOST", 1000)
    with (folder / f"{ONE}.graph").open("ab") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(NotOurs):
        kept.read(ONE)


def test_what_another_process_writes_while_everything_is_deleted_is_deleted_too(kept, folder, monkeypatch):
    write_whole = store._write_whole

    def write_late(path, content, keep=False):
        if path.suffix == ".graph":
            assert store.delete_all(folder).count == 1
        write_whole(path, content, keep)

    monkeypatch.setattr(store, "_write_whole", write_late)
    kept.write(TWO, ENTRY)
    assert list(folder.glob("*.graph")) == []


def test_a_key_file_that_was_cut_off_is_made_anew_and_the_old_entries_are_foreign(kept, folder):
    (folder / store.KEY).write_bytes(b"short")
    with pytest.raises(NotOurs):
        kept.read(ONE)
    kept.write(ONE, ENTRY)
    assert kept.read(ONE) == ENTRY


@posix
@pytest.mark.parametrize(("mode", "command"), [(0o777, "chmod 700"), (0o750, "chmod 700")])
def test_an_open_folder_is_refused_with_the_command_that_mends_it(tmp_path, mode, command):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(CacheUnusable, match=command):
        prepare(tmp_path / "cache")


@posix
def test_a_folder_that_anybody_could_exchange_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(CacheUnusable, match="can be written by everybody"):
        prepare(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == [], "nothing is made where others could exchange it"
    tmp_path.chmod(0o1777)  # as /tmp is: others cannot replace what is there
    prepare(tmp_path / "cache")
    tmp_path.chmod(0o700)


@posix
def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    folder = prepare(tmp_path / "cache")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(CacheUnusable, match="belongs to another user"):
        prepare(folder)


@posix
def test_what_is_not_this_users_alone_is_not_deleted_either(kept, folder, monkeypatch):
    before = sorted(folder.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 54321)
        assert store.delete_all(folder) == store.Deleted(), "of another user: none of ours"
    folder.chmod(0o777)
    found = store.delete_all(folder)
    assert (found.count, found.left) == (0, 1)
    assert "chmod 700" in found.why
    assert sorted(folder.iterdir()) == before
    folder.chmod(0o700)
    assert store.delete_all(folder).count == 1


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives a link to another user")
def test_a_link_that_another_user_planted_in_the_folders_place_is_not_followed(kept, folder, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    planted = shared / "onediff_compile_cache"
    planted.symlink_to(folder)
    assert prepare(planted) == folder, "one's own link is as good as a folder"
    os.chown(planted, 54321, 54321, follow_symlinks=False)
    with pytest.raises(CacheUnusable, match="a link of another user"):
        prepare(planted)
    assert store.delete_all(planted).count == 0
    assert kept.read(ONE) == ENTRY


# Windows has access lists instead of owners and mode bits. Here they are stood in for: no Windows runs these tests.

ME, STRANGER = "S-1-5-21-1-2-3-1001", "S-1-5-21-1-2-3-1002"
MINE = f"D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;{ME})"


@pytest.mark.parametrize(
    ("descriptor", "own"),
    [
        (f"O:{ME}{MINE}", True),
        (f"O:{ME}G:{ME}{MINE}", True),
        (f"O:BAG:S-1-5-21-1-2-3-513{MINE}", True),  # made by an administrator
        (f"O:{ME}D:(D;;FA;;;WD){MINE[5:]}", True),  # takes rights away
        (f"O:{STRANGER}{MINE}", False),
        (f"O:WD{MINE}", False),
        (f"O:{ME}D:AI(A;ID;FA;;;{ME})(A;ID;0x1301bf;;;AU)", False),  # as folders on a disk D: inherit it
        (f"O:{ME}D:(A;;FA;;;{STRANGER})", False),
        (f"O:{ME}D:(A;;FR;;;BU)", False),  # the key could be read
        (f'O:{ME}D:(XA;;FA;;;{ME};(@User.Title=="x"))', False),
        (f"O:{ME}D:NO_ACCESS_CONTROL", False),
        (f"O:{ME}", False),
        ("", False),
    ],
)
def test_on_windows_the_access_list_tells_whose_a_folder_is(descriptor, own):
    assert windows.is_own_by(descriptor, ME) == own


@pytest.fixture
def on_windows(monkeypatch):
    """Windows as far as the store asks: access lists by file name."""
    lists: dict[str, str] = {}

    def descriptor(place):
        path = Path(f"/proc/self/fd/{place}").resolve() if isinstance(place, int) else place
        return lists.get(path.name, f"O:{ME}{MINE}")

    monkeypatch.setattr(folder_, "POSIX", False)
    monkeypatch.setattr(windows, "_descriptor", descriptor)
    monkeypatch.setattr(windows, "_user", lambda: ME)
    monkeypatch.setattr(windows, "make_private", lambda folder: folder.mkdir())
    return lists


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux for the names of open files")
def test_on_windows_nothing_is_taken_that_somebody_else_could_have_written(on_windows, tmp_path):
    kept = Store(prepare(tmp_path / "cache"), 10**6)
    kept.write(ONE, ENTRY)
    assert kept.read(ONE) == ENTRY
    on_windows[f"{ONE}.graph"] = f"O:{STRANGER}{MINE}"
    with pytest.raises(NotOurs, match="not a file of this user alone"):
        kept.read(ONE)
    kept.write(ONE, ENTRY)
    on_windows.clear()
    on_windows[store.KEY] = f"O:{ME}D:(A;;FA;;;WD)"
    with pytest.raises((NotOurs, OSError)):
        kept.read(ONE)


@pytest.mark.parametrize("why", ["open", "unknown"])
def test_on_windows_a_folder_that_is_not_shown_to_be_the_users_own_is_not_used(on_windows, monkeypatch, tmp_path, why):
    on_windows["cache"] = f"O:{ME}D:AI(A;ID;0x1301bf;;;AU)"
    if why == "unknown":
        monkeypatch.setattr(windows, "_descriptor", lambda place: (_ for _ in ()).throw(OSError(50, "not supported")))
    with pytest.raises(
        CacheUnusable, match="Windows does not say that the compile cache folder is yours alone: delete"
    ):
        prepare(tmp_path / "cache")


@pytest.mark.skipif(os.name != "nt", reason="asks Windows")
def test_windows_answers(tmp_path):
    windows.make_private(tmp_path / "cache")
    assert windows.is_own(tmp_path / "cache")


def test_a_path_that_cannot_be_a_folder_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheUnusable, match="ONEDIFF_COMPILE_CACHE"):
        prepare(tmp_path / "file" / "cache")
    with pytest.raises(CacheUnusable, match="not an absolute path"):
        prepare(Path("cache"))


def test_the_entry_that_was_not_used_for_longest_goes_first(folder):
    kept = Store(folder, 10**6)
    big = Entry({"a/b": os.urandom(1000)}, 1.0)
    new, read, old, another = (letter * 64 for letter in "abcd")
    for age, key in enumerate((new, read, old)):
        kept.write(key, big)
        os.utime(folder / f"{key}.graph", (time.time() - 100 * age,) * 2)
    size = (folder / f"{new}.graph").stat().st_size
    assert kept.read(read)
    small = Store(folder, int(2.5 * size))
    small.trim()
    assert sorted(path.stem for path in folder.glob("*.graph")) == [new, read]
    small.write(another, big)
    assert sorted(path.stem for path in folder.glob("*.graph")) == [read, another]


def test_after_the_clock_was_set_back_what_is_compiled_is_kept_and_old_things_go(folder):
    """Files are from the future then: the oldest there are, for all that is known."""
    kept = Store(folder, 10**6)
    big = Entry({"a/b": os.urandom(1000)}, 1.0)
    old, used, new = (letter * 64 for letter in "abc")
    unfinished = folder / "onediff-aaaaaaaa.tmp"
    unfinished.touch()
    for key in (old, used):
        kept.write(key, big)
    for path in (*folder.glob("*.graph"), unfinished):
        os.utime(path, (time.time() + 86400,) * 2)
    assert kept.read(used)
    Store(folder, int(2.5 * (folder / f"{old}.graph").stat().st_size)).write(new, big)
    assert sorted(path.stem for path in folder.glob("*.graph")) == [used, new]
    assert not unfinished.exists()


def test_one_entry_above_the_limit_is_not_kept(folder):
    Store(folder, 500).write(ONE, Entry({"a/b": os.urandom(1000)}, 1.0))
    assert not list(folder.glob("*.graph"))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_entry_and_nothing_else(kept, folder, monkeypatch, call):
    before = sorted(path.name for path in folder.iterdir())

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, call, full)
    with pytest.raises(OSError, match="No space"):
        kept.write(ONE, Entry({"x": b"new"}, 1.0))
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == before
    assert kept.read(ONE) == ENTRY


def _python(code: str, folder: Path) -> subprocess.Popen:
    """A process with this store, without torch: it must not matter who else is there."""
    head = f"""
        import importlib.util, os, sys, types
        for name in ("", "compilers", "compilers.compile_cache"):
            full = ".".join(("pack", name)).rstrip(".")
            sys.modules[full] = types.ModuleType(full)
            sys.modules[full].__path__ = [os.path.join({str(Path(store.__file__).parents[2])!r}, *name.split("."))]
        from pack.compilers.compile_cache.store import Entry, NotOurs, Store
        from pathlib import Path
        kept = Store(Path({str(folder)!r}), 10**8)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)])


@posix
def test_killed_in_the_middle_of_writing_again_and_again_nothing_is_ever_damaged(kept, folder):
    writing = """
        while True:
            kept.write("1" * 64, Entry({"a/b": os.urandom(1) * 3_000_000 + os.urandom(300_000)}, 2.0))
            Path(kept.folder.parent / "wrote").touch()
    """
    for number in range(5):
        (folder.parent / "wrote").unlink(missing_ok=True)
        process = _python(writing, folder)
        until = time.monotonic() + 30
        while not (folder.parent / "wrote").exists() and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.013 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kept.read(ONE).seconds == 2.0
    leftovers = list(folder.glob("*.tmp"))
    for path in leftovers:
        os.utime(path, (time.time() - 4000,) * 2)
    kept.trim()
    assert not list(folder.glob("*.tmp"))


def test_two_processes_that_write_read_and_trim_one_folder_do_not_disturb_each_other(folder):
    busy = """
        kept.limit = 30_000
        for turn in range(150):
            key = str(turn % 7) * 64
            try:
                found = kept.read(key)
                assert found is None or len(set(found.files["a/b"])) == 1, "a torn entry"
            except FileNotFoundError:
                pass
            kept.write(key, Entry({"a/b": os.urandom(1) * 20_000}, 1.0))
    """
    processes = [_python(busy, folder), _python(busy, folder)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert all(Store(folder, 10**6).read(path.stem) for path in folder.glob("*.graph"))


@pytest.mark.parametrize(("at", "byte"), [(6, 0xA8), (8, 0x01)], ids=["needs a later zip", "is encrypted"])
def test_signed_nonsense_is_refused_as_well(folder, at, byte):
    """Found by benchmarks/fuzz_cache.py."""
    kept = Store(folder, 2**20)
    packed = bytearray(store._pack(ENTRY))
    packed[packed.rindex(b"PK\x01\x02") + at] = byte
    content = bytes(packed)
    (folder / f"{ONE}.graph").write_bytes(store._MAGIC + store._sign(kept._secret(), ONE, content) + content)
    (folder / f"{ONE}.graph").chmod(0o600)
    with pytest.raises(NotOurs):
        kept.read(ONE)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_seconds_that_nothing_took_are_refused(folder, seconds):
    kept = Store(folder, 2**20)
    kept.write(ONE, Entry({}, seconds))
    with pytest.raises(NotOurs):
        kept.read(ONE)
