"""IP-Adapter Processor."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..checks import Finding
from ..host.known_values import number_given
from ..host.loading.pictures import picture
from ..host.server import schema
from ..node_ids import IP_ADAPTER
from ..processors.loaded.unusable import Unusable
from ..status.plain import short_id
from .processor_type import MOST, ProcessorType

TITLE = "IP-Adapter Processor"


class OneDiffIPAdapter(io.ComfyNode):
    """Gives a loaded IP-Adapter its picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=IP_ADAPTER,
            display_name=TITLE,
            category="OneDiff",
            description="Gives a loaded IP-Adapter the picture that the result is to resemble. A second one in a row "
            "adds another picture.",
            search_aliases=["ip adapter", "ipadapter", "image prompt", "style", "onediff"],
            inputs=[
                ProcessorType.Input("processor", tooltip="An IP-Adapter file, from Load Attention Processor."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    tooltip="The picture, from CLIP Vision Encode. Several in a batch are all seen.",
                ),
                io.ClipVisionOutput.Input(
                    "negative",
                    optional=True,
                    tooltip="For plus and full-face files: a black picture, from CLIP Vision Encode. Without it, the "
                    "negative prompt is computed without any picture. Other files need none.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-MOST,
                    max=MOST,
                    step=0.01,
                    tooltip="How much the picture counts, times the file's strength. 0: as without it.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling it starts to act. 0: at the first step.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling it stops acting. 1: after the last step.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Where it acts: white. Without it, everywhere."),
            ],
            outputs=[ProcessorType.Output(display_name="processor")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool:
        """What cannot be used is said when the node runs, never by a refused prompt."""
        return True

    @classmethod
    def execute(
        cls,
        processor: Any,
        clip_vision_output: Any,
        negative: Any = None,
        weight: Any = 1.0,
        start_percent: Any = 0.0,
        end_percent: Any = 1.0,
        mask: Any = None,
    ) -> io.NodeOutput:
        findings: list[Finding] = []
        weight = number_given(IP_ADAPTER, "weight", weight, 1.0, -MOST, MOST, findings)
        start = number_given(IP_ADAPTER, "start_percent", start_percent, 0.0, 0.0, 1.0, findings)
        end = number_given(IP_ADAPTER, "end_percent", end_percent, 1.0, 0.0, 1.0, findings)
        try:
            given = picture(processor, clip_vision_output, negative, weight, start, end, mask)
        except Unusable as error:
            raise ValueError(f"{TITLE} (node {short_id(str(cls.hidden.unique_id))}): {error}") from error
        return io.NodeOutput(processor.with_picture(given, findings))
