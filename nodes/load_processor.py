"""Load Attention Processor."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..checks import Finding
from ..host.known_values import number_given
from ..host.loading.files import fingerprint, listed, load_file
from ..host.server import schema
from ..node_ids import LOAD_PROCESSOR
from ..processors.loaded.unusable import Unusable
from ..status.plain import short_id
from .processor_type import MOST, ProcessorType

TITLE = "Load Attention Processor"


class OneDiffLoadProcessor(io.ComfyNode):
    """Reads a processor with its weights from a safetensors file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=LOAD_PROCESSOR,
            display_name=TITLE,
            category="OneDiff",
            description="Loads an attention processor with trained weights: IP-Adapter, Custom Diffusion, or your own.",
            search_aliases=[
                "ip adapter",
                "ipadapter",
                "custom diffusion",
                "safetensors",
                "attention processor",
                "onediff",
            ],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=listed(),
                    tooltip="The .safetensors files in models/attention_processors and models/ipadapter. IP-Adapter's "
                    "published files for SD 1.5 and SDXL work as they are.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-MOST,
                    max=MOST,
                    step=0.01,
                    tooltip="How much the loaded processor counts. 0: as without it.",
                ),
            ],
            outputs=[ProcessorType.Output(display_name="processor")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool:
        """What cannot be used is said when the node runs, never by a refused prompt."""
        return True

    @classmethod
    def fingerprint_inputs(cls, file: Any = None, **kwargs: Any) -> str:
        """A file is read again when it has changed."""
        return fingerprint(file)

    @classmethod
    def execute(cls, file: Any, strength: Any = 1.0) -> io.NodeOutput:
        findings: list[Finding] = []
        strength = number_given(LOAD_PROCESSOR, "strength", strength, 1.0, -MOST, MOST, findings)
        try:
            loaded = load_file(file)
        except Unusable as error:
            raise ValueError(f"{TITLE} (node {short_id(str(cls.hidden.unique_id))}): {error}") from error
        return io.NodeOutput(loaded.with_strength(strength, findings))
