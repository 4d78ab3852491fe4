"""OneDiff Compile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..checks import Finding
from ..checks.options import check_options
from ..compilers import PROOFS, Session, Settings
from ..host.compile_facts import asked
from ..host.example_inputs import find_batched, find_reach
from ..host.known_values import known, model_given, name_given, switch_given
from ..host.prompt_ends import CANCEL
from ..host.server import host, new_record, schema, ui
from ..host.user_settings import compile_seconds
from ..node_ids import COMPILE
from ..patching.wrappers import attach, attached
from ..processors.attention_patch import AttentionPatch
from ..status import Record
from .compiling_node import RUN, STOP, CompilingNode, backend_input, if_unfit_input

SCOPES = ("blocks", "attention", "model")
EFFORTS = ("fast start", "max speed")


class OneDiffCompile(CompilingNode):
    """Compiles a model's blocks through OneDiff while it samples, and keeps them when they are right and faster."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=COMPILE,
            display_name="OneDiff Compile",
            category="OneDiff",
            description="Compiles the model's blocks through OneDiff. A few steps are timed uncompiled and compared; "
            "the faster way is kept.",
            search_aliases=[
                "torch.compile",
                "speed up",
                "faster",
                "accelerate",
                "inductor",
                "oneflow",
                "nexfort",
                "ModelSpeedup",
            ],
            not_idempotent=True,
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model"),
                backend_input(),
                io.Combo.Input(
                    "scope",
                    options=list(SCOPES),
                    default="blocks",
                    tooltip="blocks: each block in one piece, equal blocks once. attention: attention modules only. "
                    "model: blocks and the parts around them, such as embeddings and output.",
                ),
                io.Combo.Input(
                    "effort",
                    options=list(EFFORTS),
                    default="fast start",
                    tooltip="max speed: the compiler tries more variants, and takes longer.",
                ),
                if_unfit_input(),
                io.Boolean.Input(
                    "keep_faster",
                    default=True,
                    tooltip="On: leave uncompiled what compiling does not speed up. Off: compile it anyway.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls, model: Any, backend: Any, scope: Any, effort: Any, if_unfit: Any, keep_faster: Any
    ) -> io.NodeOutput:
        record = new_record(
            cls.hidden, backend=backend, scope=scope, effort=effort, if_unfit=if_unfit, keep_faster=keep_faster
        )
        model_given("OneDiff Compile", COMPILE, model, record)
        findings: list[Finding] = []
        settings = Settings(
            backend=name_given(COMPILE, "backend", backend, "auto", findings),
            scope=known(COMPILE, "scope", scope, SCOPES, findings),
            effort=known(COMPILE, "effort", effort, EFFORTS, findings),
            stop_if_unfit=known(COMPILE, "if_unfit", if_unfit, (RUN, STOP), findings) == STOP,
            keep_faster=switch_given(COMPILE, "keep_faster", keep_faster, True, findings),
        )
        return io.NodeOutput(compiled_model(model, settings, record, findings), ui=ui(record))


def compiled_model(model: Any, settings: Settings, record: Record, findings: list[Finding]) -> Any:
    """A clone of ``model`` whose blocks are compiled while it samples, for the seconds that the user set; ``record``
    says what became of it."""
    settings = replace(settings, compile_seconds=compile_seconds())
    compiled = model.clone()
    findings = [*findings, *check_options(asked(compiled, settings))]
    session = Session(
        settings,
        record,
        host(),
        compiled.load_device,
        tuple(findings),
        find_reach(compiled),
        find_batched(compiled),
        proofs=PROOFS,
    )
    PROOFS.wait_for_imports(CANCEL.check)  # the check imports Dynamo, and so does a backend that starts
    session.prepare(
        compiled.get_model_object("diffusion_model"),
        attached(compiled, AttentionPatch),
        compiled.model.get_dtype_inference(),
    )
    for earlier in attached(model, Session):
        earlier.give_way(str(record["node"]))
    attach(compiled, session)
    return compiled
