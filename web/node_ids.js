// @ts-check
// The ids of the nodes, as node_ids.py has them.

export const PATCH_ATTENTION = "OneDiffPatchAttention";
export const FORWARD_CHECK = "OneDiffForwardCheck";
export const COMPILE = "OneDiffCompile";
export const SPEED_REPORT = "OneDiffSpeedReport";
export const LOAD_PROCESSOR = "OneDiffLoadProcessor";
export const IP_ADAPTER = "OneDiffIPAdapter";
export const COMPILE_VAE = "OneDiffCompileVAE";
export const COMPILE_CONTROL_NET = "OneDiffCompileControlNet";

/** Those with a status line: the nodes that a model, a VAE or a ControlNet goes through. */
export const NODES = new Set([
  ...[PATCH_ATTENTION, FORWARD_CHECK, COMPILE, SPEED_REPORT],
  ...[COMPILE_VAE, COMPILE_CONTROL_NET],
]);
