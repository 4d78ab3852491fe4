"""ComfyUI's Cancel."""

from __future__ import annotations

import comfy.model_management

from ..patching.user_code import Cancel

#: An Exception up to ComfyUI 0.18.2, a BaseException since.
CANCEL = Cancel(
    comfy.model_management.throw_exception_if_processing_interrupted,
    comfy.model_management.InterruptProcessingException,
)
