"""The ids of the nodes, as workflow files and prompts name them: published, so they never change.

`web/node_ids.js` has the same for the pages; a test compares the two.
"""

from __future__ import annotations

PATCH_ATTENTION = "OneDiffPatchAttention"
FORWARD_CHECK = "OneDiffForwardCheck"
COMPILE = "OneDiffCompile"
SPEED_REPORT = "OneDiffSpeedReport"
