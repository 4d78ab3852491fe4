"""The ids of the nodes, as workflow files and prompts name them: published, so they never change.

`web/node_ids.js` has the same for the pages; a test compares the two.
"""

from __future__ import annotations

PATCH_ATTENTION = "OneDiffPatchAttention"
FORWARD_CHECK = "OneDiffForwardCheck"
COMPILE = "OneDiffCompile"
SPEED_REPORT = "OneDiffSpeedReport"
LOAD_PROCESSOR = "OneDiffLoadProcessor"
IP_ADAPTER = "OneDiffIPAdapter"
COMPILE_VAE = "OneDiffCompileVAE"
COMPILE_CONTROL_NET = "OneDiffCompileControlNet"

#: Ids of OneDiff's own pack that take or give a model, and do not sample it.
OLD_MODEL_NODES = frozenset(
    {
        *("ModelSpeedup", "SVDSpeedup", "ModuleDeepCacheSpeedup", "BatchSizePatcher", "ModelGraphLoader"),
        *("ModelGraphSaver", "CompareModel", "Quant8Model", "ImageOnlyOneDiffQuantCheckpointLoaderAdvanced"),
    }
)


def is_ours(node: str) -> bool:
    """Whether a class of nodes is one of ours that does not sample."""
    return node.startswith("OneDiff") or node in OLD_MODEL_NODES
