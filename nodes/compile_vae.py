"""OneDiff Compile VAE."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..checks import Finding
from ..compilers import Settings
from ..host.copies.sessions import compiled_vae
from ..host.copies.vae import is_vae
from ..host.known_values import known, name_given, refuse
from ..host.server import new_record, schema, ui
from ..node_ids import COMPILE_VAE
from .compiling_node import RUN, STOP, CompilingNode, backend_input, if_unfit_input

TITLE = "OneDiff Compile VAE"


class OneDiffCompileVAE(CompilingNode):
    """Compiles a VAE's blocks through OneDiff while it decodes or encodes, and keeps them when they are right and
    faster."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=COMPILE_VAE,
            display_name=TITLE,
            category="OneDiff",
            description="Compiles the VAE's blocks through OneDiff. The first picture of each size is decoded several "
            "times, uncompiled and compiled; the faster way is kept.",
            search_aliases=["VAE", "decode faster", "encode", "video", "torch.compile", "inductor", "VaeSpeedup"],
            not_idempotent=True,
            has_intermediate_output=True,
            inputs=[
                io.Vae.Input("vae"),
                backend_input(),
                if_unfit_input(),
            ],
            outputs=[io.Vae.Output(display_name="vae")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, vae: Any, backend: Any, if_unfit: Any) -> io.NodeOutput:
        record = new_record(cls.hidden, backend=backend, if_unfit=if_unfit)
        if not is_vae(vae):
            refuse(TITLE, COMPILE_VAE, "vae", vae, "a VAE", "Connect a node that loads one.", record)
        findings: list[Finding] = []
        settings = Settings(
            backend=name_given(COMPILE_VAE, "backend", backend, "auto", findings),
            stop_if_unfit=known(COMPILE_VAE, "if_unfit", if_unfit, (RUN, STOP), findings) == STOP,
        )
        return io.NodeOutput(compiled_vae(vae, settings, record, findings), ui=ui(record))
