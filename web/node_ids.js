// @ts-check
// The ids of the nodes, as node_ids.py has them.

export const PATCH_ATTENTION = "OneDiffPatchAttention";
export const FORWARD_CHECK = "OneDiffForwardCheck";
export const COMPILE = "OneDiffCompile";
export const SPEED_REPORT = "OneDiffSpeedReport";

/** All of them. */
export const NODES = new Set([PATCH_ATTENTION, FORWARD_CHECK, COMPILE, SPEED_REPORT]);
