"""Model files: the stand-ins with random weights, and a look at a person's own checkpoint before ComfyUI gets it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from .console import CannotContinue, say
from .environment import ROOT, Environment, one_at_a_time

# Part of the file names: raise it when scripts/standins.py writes other weights.
RECIPE = 1
# Stand-in to its size on disk in GB, to say before writing it.
SIZES = {
    **{"sd15_small": 0.9, "sd15": 2.2, "flux_small": 0.1, "flux_vae": 0.2, "clip_l": 0.3},
    **{"sdxl_vega": 1.5, "sdxl": 5.2, "flux_mid": 1.2, "flux": 24, "wan_small": 0.2, "wan_small_other": 0.2},
    **{"sd15_small_other": 0.5, "sd15_small_lora": 0.1, "sdxl_vega_other": 1.5, "sdxl_vega_lora": 0.1},
    **{"flux_small_other": 0.1, "flux_small_lora": 0.1, "wan_small_lora": 0.1},
    **{"sdxl_narrow": 2.4, "svd_narrow": 2.1},
}


def standin(environment: Environment, name: str) -> Path:
    """The stand-in `name`, written once and reused: `<cache>/checkpoints/sd15_small_random_1.safetensors`."""
    path = environment.cache / "checkpoints" / f"{name}_random_{RECIPE}.safetensors"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path.with_suffix(".lock"), path.name):
        if not path.is_file():
            _write_standin(environment, name, path)
    return path


def _write_standin(environment: Environment, name: str, path: Path) -> None:
    free = shutil.disk_usage(path.parent).free / 1e9
    if free < SIZES[name] + 0.5:
        raise CannotContinue(
            f"the checkpoint {path.name} needs {SIZES[name]} GB and the disk of {path.parent} has {free:.1f} GB free; "
            "make room or name a folder on another disk in ONEDIFF_CACHE."
        )
    say(f"Writing {path.name} ({SIZES[name]} GB) …")
    script = ROOT / "scripts" / "standins.py"
    result = subprocess.run(
        [str(environment.python), str(script), str(environment.host), name, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise CannotContinue(
            f"the checkpoint {path.name} could not be written; check the room on the disk of {path.parent}.",
            result.stderr.strip().splitlines()[-6:],
        )


def check_checkpoint(path: Path) -> Path:
    """The file as an absolute path, or one sentence on why it cannot be a Stable Diffusion checkpoint."""
    path = path.expanduser()
    if not path.is_file():
        raise CannotContinue(f"there is no file {path}; --checkpoint takes the path of a .safetensors checkpoint.")
    keys = _header(path)
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        raise CannotContinue(
            f"{path.name} is a safetensors file without a diffusion model in it; --checkpoint takes a full checkpoint "
            "(model, text encoder and VAE in one file), for example v1-5-pruned-emaonly-fp16.safetensors."
        )
    return path.resolve()


def _header(path: Path) -> dict:
    wrong = CannotContinue(
        f"{path.name} is not a safetensors file; .ckpt and .pt files are not loaded because they can run code, use the "
        ".safetensors version of the checkpoint."
    )
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, 100_000_000):
                raise wrong
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise wrong from error
    except OSError as error:
        raise CannotContinue(f"{path} cannot be read ({error.strerror}).") from error
    if 8 + length + max(ends, default=0) > size:
        raise CannotContinue(f"{path.name} is cut short (an unfinished download?); fetch it again.")
    return header
