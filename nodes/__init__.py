"""What the user sees: one file a node. A node reads its inputs, calls a package of the pack, and returns."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..host.pack_folder import warn_of_name
from ..host.prompt_ends import ends_no_queue
from ..host.server import start
from .compile import OneDiffCompile
from .compile_control_net import OneDiffCompileControlNet
from .compile_vae import OneDiffCompileVAE
from .forward_check import OneDiffForwardCheck
from .ip_adapter import OneDiffIPAdapter
from .load_processor import OneDiffLoadProcessor
from .migration import old_nodes
from .patch_attention import OneDiffPatchAttention
from .speed_report import OneDiffSpeedReport


class OneDiffExtension(ComfyExtension):
    """The pack, as ComfyUI loads it."""

    async def on_load(self) -> None:
        start()
        await warn_of_name()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        new: list[type[io.ComfyNode]] = [
            *(OneDiffPatchAttention, OneDiffForwardCheck, OneDiffCompile, OneDiffSpeedReport),
            *(OneDiffLoadProcessor, OneDiffIPAdapter),
            *(OneDiffCompileVAE, OneDiffCompileControlNet),
        ]
        return [ends_no_queue(node) for node in (*new, *old_nodes())]


async def comfy_entrypoint() -> OneDiffExtension:
    return OneDiffExtension()
