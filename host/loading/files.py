"""The safetensors files that the node Load Attention Processor lists, and loading one."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths

from ...processors.loaded.file import LoadedFile, load
from ...processors.loaded.unusable import Unusable
from ...processors.sources.latest import FINDING_PATIENCE
from ...processors.sources.safetensors_files import ENDING, Folder, SafetensorsFile, SafetensorsFiles
from ...processors.sources.user_files import USER_FOLDER
from ..prompt_ends import CANCEL

#: Another folder of ComfyUI's models, where people keep IP-Adapter's files; its name stands before theirs.
IP_FOLDER = "ipadapter"

#: What the list says where there are none.
NONE = f"no {ENDING} file in models/{USER_FOLDER} or models/{IP_FOLDER}"


def register_ip_folder() -> None:
    """Lets ComfyUI know ``models/ipadapter``, which other packs may have named before. It is not made."""
    folder_paths.add_model_folder_path(IP_FOLDER, os.path.join(folder_paths.models_dir, IP_FOLDER))


def _folders() -> list[Folder]:
    names = ((USER_FOLDER, ""), (IP_FOLDER, f"{IP_FOLDER}/"))
    known = folder_paths.folder_names_and_paths
    return [Folder(name, before, tuple(map(Path, known[name][0]))) for name, before in names if name in known]


FILES = SafetensorsFiles(_folders)


def listed() -> list[str]:
    """The files of both folders."""
    return FILES.names() or [NONE]


def fingerprint(name: object) -> str:
    """Changes when a listed file does."""
    try:
        found = FILES.find(name)
        state = os.stat(found.path) if found else None
    except OSError:
        return ""
    return f"{state.st_mtime_ns} {state.st_size}" if state else ""


def load_file(name: object) -> LoadedFile:
    """A listed file, with its weights known to ComfyUI's memory management.

    Raises:
        Unusable: for a name that is not listed, and for a file that cannot be used.
    """
    found = _find(name)
    file = load(found.path, found.shown, comfy.ops.manual_cast, CANCEL.check)
    if file.weights is None:
        return file
    return file.managed(patcher_of(file.weights))


def patcher_of(module: object) -> comfy.model_patcher.ModelPatcher:
    """What counts, moves and offloads a module's weights."""
    return comfy.model_patcher.CoreModelPatcher(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _find(name: object) -> SafetensorsFile:
    found = FILES.find(name, FINDING_PATIENCE, CANCEL.check)
    if found is None:
        files = FILES.names()
        fix = f"choose one of {', '.join(files[:5])}" if files else f"put it into models/{USER_FOLDER} and press R"
        why = f" ({FILES.unlisted[0].rstrip('.')})" if FILES.unlisted else ""
        raise Unusable(_shown(name), f"is not among the files of models/{USER_FOLDER} and models/{IP_FOLDER}{why}", fix)
    if not os.path.isfile(found.path):  # a pipe would wait for its writer, a device may act
        raise Unusable(found.shown, "is no file that can be opened", "press R in the editor and choose another")
    return found


def _shown(name: object) -> str:
    return name[:80] if isinstance(name, str) and name.isprintable() and name else "the file"
