"""Files that are damaged, or made to do harm: each ends in one sentence that names node, file and remedy. None is
unpickled, and nothing outside of the folders is opened."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loaded
import pytest
import torch
from rights import folder_for_all, refused
from safetensors.torch import save

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

CONTEXT = 48
OURS = {"onediff.format": "1", "onediff.processor": "custom/mine:Gain"}


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header: a text, or what becomes one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


class Harmful:
    """What a pickle may do."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


def archive() -> bytes:
    file = io.BytesIO()
    torch.save({"a": Harmful()}, file)
    return file.getvalue()


def adapter(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """An IP-Adapter with these tensors instead; None takes one away."""
    torch.manual_seed(0)
    tensors = {**loaded.standard(CONTEXT), **loaded.at_sites([32, 64], CONTEXT)}
    for name, tensor in changes.items():
        key = next((known for known in tensors if known.replace(".", "_") == name), name.replace("__", "."))
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    return tensors


A = torch.zeros(2)
TWO = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'

#: What is in the file, and what is said of it.
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is empty"),
    "three bytes": (lambda: b"abc", "ends after 3 bytes"),
    "a header that is cut off": (lambda: raw(entry(), b"\0" * 8)[:20], "is cut off"),
    "a header of 2^63 bytes": (lambda: raw({}, length=2**63), "claims a header of 9,223,372,036,854,775,808 bytes"),
    "a header of 5 MiB": (lambda: raw(b" " * (5 * 2**20)), "claims a header of 5,242,880 bytes"),
    "a header that is no JSON": (lambda: raw(b"no JSON at all"), "its header is not JSON"),
    "a header in no UTF-8": (lambda: raw(b"\xff\xfe{}"), "its header is not JSON"),
    "a list as header": (lambda: raw([1, 2]), "is not a JSON object"),
    "a header as deep as the sea": (lambda: raw(b"[" * 10**5), "its header is not JSON"),
    "a number as long as the sea": (lambda: raw(b'{"a":' + b"9" * 10**5 + b"}"), "its header is not JSON"),
    "a name twice": (lambda: raw(TWO.encode(), b"\0" * 8), "names a twice"),
    "metadata with numbers": (lambda: raw({"__metadata__": {"a": 1}}), "metadata that are not texts"),
    "metadata in a list": (lambda: raw({"__metadata__": ["a"]}), "metadata that are not texts"),
    "tensors that overlap": (
        lambda: raw({**entry(), "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"\0" * 12),
        "has a tensor b that overlaps another one",
    ),
    "a gap": (lambda: raw(entry(data_offsets=[8, 16]), b"\0" * 16), "with a gap before it"),
    "bytes of nobody": (lambda: raw(entry(), b"\0" * 20), "has 12 bytes that belong to no tensor"),
    "tensors that are cut off": (lambda: raw(entry(), b"\0" * 4), "its tensors need 8 bytes, and 4 are there"),
    "a negative place": (lambda: raw(entry(data_offsets=[-8, 0]), b"\0" * 8), "without a place"),
    "a place backwards": (lambda: raw(entry(data_offsets=[8, 0]), b"\0" * 8), "whose sizes do not match its bytes"),
    "a place far away": (lambda: raw(entry(data_offsets=[0, 2**60]), b"\0" * 8), "without a place"),
    "a place of three": (lambda: raw(entry(data_offsets=[0, 4, 8]), b"\0" * 8), "without a place"),
    "a negative size": (lambda: raw(entry(shape=[-2]), b"\0" * 8), "with sizes that are none"),
    "half a size": (lambda: raw(entry(shape=[0.5]), b"\0" * 8), "with sizes that are none"),
    "true as size": (lambda: raw(entry(shape=[True]), b"\0" * 8), "with sizes that are none"),
    "sizes whose product is huge": (lambda: raw(entry(shape=[2**40, 2**40]), b"\0" * 8), "do not match its bytes"),
    "thirty dimensions": (lambda: raw(entry(shape=[1] * 30), b"\0" * 8), "with 30 dimensions"),
    "a type that is not known": (lambda: raw(entry(dtype="object"), b"\0" * 8), "of type object"),
    "a number as type": (lambda: raw(entry(dtype=7), b"\0" * 8), "of type 7"),
    "a tensor without type": (lambda: raw({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8), "without type"),
    "a tensor that is a list": (lambda: raw({"a": [0, 8]}, b"\0" * 8), "without type, sizes and place"),
    "a pickle": (lambda: pickle.dumps({"a": Harmful()}), "is a Python pickle"),
    "an archive of torch.save": (archive, "is a zip archive"),
    "a GGUF file": (lambda: b"GGUF" + b"\x03\0\0\0" + b"\xff" * 64, "is a GGUF file"),
    "a web page": (lambda: b"<!DOCTYPE html><html>404</html>", "is a web page"),
    "a pointer of Git LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    "NaN": (
        lambda: save({"*:gain": torch.tensor([1.0, float("nan")])}, OURS),
        "holds NaN or infinite numbers in *:gain",
    ),
    "infinity in float8": (
        lambda: save({"*:gain": torch.tensor([float("inf")]).to(torch.float8_e5m2)}, OURS),
        "holds NaN or infinite numbers in *:gain",
    ),
    "a LoRA": (
        lambda: save({"lora_unet_down.lora_up.weight": A}),
        "is a LoRA; put it into models/loras and use Load LoRA",
    ),
    "a checkpoint": (lambda: save({"model.diffusion_model.out.2.bias": A}), "is a whole model"),
    "something else": (lambda: save({"weight": A}), "names no processor in its metadata"),
    "a FaceID file": (lambda: save({**adapter(), "ip_adapter.1.to_q_lora.down.weight": A}), "FaceID"),
    "an adapter without projection": (
        lambda: save({name: one for name, one in adapter().items() if not name.startswith("image_proj")}),
        "lacks image_proj",
    ),
    "an adapter without values": (
        lambda: save(adapter(ip_adapter_3_to_v_ip_weight=None)),
        "lacks ip_adapter.3.to_v_ip.weight",
    ),
    "an adapter of other widths": (
        lambda: save(adapter(ip_adapter_3_to_v_ip_weight=torch.zeros(64, 7))),
        "whose tensors do not fit together",
    ),
    "an adapter of vectors": (
        lambda: save(adapter(ip_adapter_3_to_k_ip_weight=torch.zeros(64))),
        "whose tensors do not fit together",
    ),
    "an adapter with more": (lambda: save(adapter(ip_adapter__1__eval=A)), "has a tensor ip_adapter.1.eval"),
    "an adapter of whole numbers": (
        lambda: save(adapter(image_proj_norm_bias=torch.zeros(CONTEXT, dtype=torch.int64))),
        "has a tensor image_proj.norm.bias of I64",
    ),
    "an adapter for no tokens": (
        lambda: save(adapter(image_proj_norm_weight=torch.zeros(0))),
        "has a tensor image_proj.norm.weight of F32 [0]",
    ),
    "a format of tomorrow": (lambda: save({"*:a": A}, {**OURS, "onediff.format": "2"}), "is of version 2"),
    "a format of no version": (lambda: save({"*:a": A}, {"onediff.processor": "custom/a:B"}), "says no version"),
    "no processor": (lambda: save({"*:a": A}, {"onediff.format": "1"}), "names no processor"),
    "a processor of two lines": (
        lambda: save({"*:a": A}, {**OURS, "onediff.processor": "custom/a:B\nimport os"}),
        "names no processor",
    ),
    "a tensor without place": (lambda: save({"gain": A}, OURS), "has a tensor gain that names no place"),
    "a name as long as the sea": (lambda: save({"x" * 10**5: A}, OURS), "…"),
    "a name with letters that move the cursor": (lambda: save({"\x1b[2J\n": A}, OURS), "has a tensor ?[2J? "),
}

_OPENED: list[str] = []
_WATCHING: list[bool] = []


def _audit(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], int):  # a file that is open already
        return
    if _WATCHING and event in ("open", "pickle.find_class", "os.mkdir", "exec", "compile"):
        _OPENED.append(f"{event} {arguments[0]}")


sys.addaudithook(_audit)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """ComfyUI's models, with the two folders of this pack."""
    import folder_paths
    from onediff_pack.host.loading.files import IP_FOLDER, USER_FOLDER

    known = dict(folder_paths.folder_names_and_paths)
    for name in (USER_FOLDER, IP_FOLDER):
        (tmp_path / name).mkdir()
        known[name] = ([str(tmp_path / name)], set())
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path / USER_FOLDER


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """What is opened, looked up by a pickle, compiled or run meanwhile."""
    _OPENED.clear()
    yield _OPENED
    _WATCHING.clear()


def said(file: Any) -> str:
    """What the node says of a file."""
    from comfy_api.latest import io as nodes
    from onediff_pack.nodes.load_processor import OneDiffLoadProcessor

    node = OneDiffLoadProcessor.PREPARE_CLASS_CLONE({"hidden_inputs": {nodes.Hidden.unique_id: "7"}})
    with pytest.raises(ValueError, match="Load Attention Processor") as error:
        node.execute(file=file)
    return str(error.value)


def test_a_good_file_is_loaded_so_that_the_others_can_fail(folder):
    from comfy_api.latest import io as nodes
    from onediff_pack.nodes.load_processor import OneDiffLoadProcessor

    (folder / "good.safetensors").write_bytes(save(adapter()))
    node = OneDiffLoadProcessor.PREPARE_CLASS_CLONE({"hidden_inputs": {nodes.Hidden.unique_id: "7"}})
    assert node.execute(file="good.safetensors", strength=0.5).args[0].strength == 0.5


@pytest.mark.parametrize("name", FILES)
def test_it_ends_in_one_sentence(folder, watched, name):
    make, words = FILES[name]
    (folder / "bad.safetensors").write_bytes(make())
    import safetensors  # its own import opens files

    assert safetensors.safe_open
    _WATCHING.append(True)
    sentence = said("bad.safetensors")
    _WATCHING.clear()
    assert sentence.startswith("Load Attention Processor (node 7): models/attention_processors/bad.safetensors ")
    assert words in sentence
    assert re.fullmatch(r"[^\n\x1b]+; [^\n]+\.", sentence), sentence
    assert len(sentence) < 300
    assert [one for one in watched if one.startswith(("pickle", "os.mkdir", "exec"))] == []
    assert {one for one in watched if one.startswith("open")} <= {f"open {folder / 'bad.safetensors'}"}
    assert not (folder.parent / "unpickled").exists()


NAMES: list[Any] = [
    *("../secret.safetensors", "..\\secret.safetensors", "/etc/passwd", "ipadapter/../../secret.safetensors"),
    *("", "a\0b", "sub/../../secret.safetensors", None, 5, ["a"], "x" * 10**6),
    "no .safetensors file in models/attention_processors or models/ipadapter",
]


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:40] for name in NAMES])
def test_a_name_that_is_not_listed_opens_nothing(folder, watched, name):
    (folder.parent / "secret.safetensors").write_bytes(save(adapter()))
    (folder / "good.safetensors").write_bytes(save(adapter()))
    _WATCHING.append(True)
    sentence = said(name)
    _WATCHING.clear()
    assert "is not among the files of models/attention_processors and models/ipadapter; " in sentence
    assert sentence.endswith("choose one of good.safetensors.")
    assert len(sentence) < 300
    assert [one for one in watched if one.startswith("open")] == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.safetensors")
    assert said("pipe.safetensors").endswith("is no file that can be opened; press R in the editor and choose another.")


def test_a_link_to_nowhere_and_one_to_itself_are_said(folder):
    for name, target in (("nowhere", "absent"), ("itself", "itself.safetensors")):
        (folder / f"{name}.safetensors").symlink_to(folder / target)
        expected = f"models/attention_processors/{name}.safetensors is no file that can be opened; "
        assert expected in said(f"{name}.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="making links needs a right there")
def test_links_that_lead_back_hold_up_nobody(folder):
    """Two of them are ways without number: ComfyUI's own list never ends there, and with it the start of the server."""
    from onediff_pack.host.loading.files import listed

    (folder / "good.safetensors").write_bytes(save(adapter()))
    (folder / "sub").mkdir()
    (folder / "sub" / "other.safetensors").write_bytes(b"")
    for link in (folder / "one", folder / "two", folder / "sub" / "up", folder.parent / "ipadapter" / "back"):
        link.symlink_to(folder)
    other = folder.parent / "another_place"
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "up").symlink_to(folder.parent)
    (folder / "elsewhere").symlink_to(other)
    start = time.monotonic()
    assert {"good.safetensors", "sub/other.safetensors"} <= set(listed())
    assert time.monotonic() - start < 5
    assert "is empty" in said("sub/other.safetensors")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows has other rights")
def test_a_folder_that_may_not_be_read_keeps_no_other_file_out(folder, monkeypatch):
    import folder_paths
    from onediff_pack.host.loading.files import USER_FOLDER, listed

    with folder_for_all() as parent:
        place = parent / USER_FOLDER
        modes = {place / "closed": 0o000, place / "names only": 0o444}
        for name in modes:
            (name / "sub").mkdir(parents=True)
        (place / "good.safetensors").write_bytes(save(adapter()))
        monkeypatch.setitem(folder_paths.folder_names_and_paths, USER_FOLDER, ([str(place)], set()))
        with refused(modes):
            assert listed() == ["good.safetensors"]
            assert "ComfyUI may not read it" in said("closed/a.safetensors")


def test_an_empty_folder_says_where_files_go(folder):
    from onediff_pack.nodes.load_processor import OneDiffLoadProcessor

    (options,) = OneDiffLoadProcessor.INPUT_TYPES()["required"]["file"][1]["options"]
    assert options == "no .safetensors file in models/attention_processors or models/ipadapter"
    assert said(options).endswith("put it into models/attention_processors and press R.")


def test_files_of_both_folders_are_listed(folder):
    from onediff_pack.host.loading.files import listed

    (folder / "sub").mkdir()
    for path in (folder / "b.safetensors", folder / "sub" / "a.SAFETENSORS", folder / "c.pt", folder / "mine.py"):
        path.write_bytes(b"")
    (folder.parent / "ipadapter" / "ip.safetensors").write_bytes(b"")
    (folder.parent / "ipadapter" / "ip.bin").write_bytes(b"")
    assert listed() == ["b.safetensors", "sub/a.SAFETENSORS", "ipadapter/ip.safetensors"]


def test_a_file_that_was_changed_is_read_again(folder):
    from onediff_pack.nodes.load_processor import OneDiffLoadProcessor

    assert OneDiffLoadProcessor.fingerprint_inputs(file="a.safetensors") == ""
    (folder / "a.safetensors").write_bytes(save(adapter()))
    first = OneDiffLoadProcessor.fingerprint_inputs(file="a.safetensors")
    (folder / "a.safetensors").write_bytes(save({"weight": A}))
    assert OneDiffLoadProcessor.fingerprint_inputs(file="a.safetensors") not in ("", first)
    assert OneDiffLoadProcessor.fingerprint_inputs(file="../a.safetensors") == ""
