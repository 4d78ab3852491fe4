"""OneDiff Compile ControlNet."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..checks import Finding
from ..compilers import Settings
from ..host.copies.control_net import is_control_net
from ..host.copies.sessions import compiled_control_net
from ..host.known_values import known, name_given, refuse
from ..host.server import new_record, schema, ui
from ..node_ids import COMPILE_CONTROL_NET
from .compiling_node import RUN, STOP, CompilingNode, backend_input, if_unfit_input

TITLE = "OneDiff Compile ControlNet"


class OneDiffCompileControlNet(CompilingNode):
    """Compiles a ControlNet's blocks through OneDiff while a model is sampled, and keeps them when they are right and
    faster."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=COMPILE_CONTROL_NET,
            display_name=TITLE,
            category="OneDiff",
            description="Compiles the blocks of a ControlNet, ControlLoRA or T2I-Adapter through OneDiff. Calls are "
            "timed uncompiled and compiled; the faster way is kept.",
            search_aliases=["ControlNet", "ControlLoRA", "T2I-Adapter", "faster", "torch.compile", "ControlnetSpeedup"],
            not_idempotent=True,
            has_intermediate_output=True,
            inputs=[
                io.ControlNet.Input("control_net"),
                backend_input(),
                if_unfit_input(),
            ],
            outputs=[io.ControlNet.Output(display_name="control_net")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, control_net: Any, backend: Any, if_unfit: Any) -> io.NodeOutput:
        record = new_record(cls.hidden, backend=backend, if_unfit=if_unfit)
        if not is_control_net(control_net):
            fix = "Connect a node that loads one."
            refuse(TITLE, COMPILE_CONTROL_NET, "control_net", control_net, "a CONTROL_NET", fix, record)
        findings: list[Finding] = []
        settings = Settings(
            backend=name_given(COMPILE_CONTROL_NET, "backend", backend, "auto", findings),
            stop_if_unfit=known(COMPILE_CONTROL_NET, "if_unfit", if_unfit, (RUN, STOP), findings) == STOP,
        )
        return io.NodeOutput(compiled_control_net(control_net, settings, record, findings), ui=ui(record))
