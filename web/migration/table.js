// @ts-check
// The nodes of OneDiff's own pack: what takes their place today, and how their values were saved.

/**
 * @typedef {Object} Old
 * @property {"compile" | "compile vae" | "compile control" | "load" | "load control" | "booster" | "away" | "sample" | "style" | "stays"} today `away`: nothing has to take
 * its place; `stays`: nothing does yet
 * @property {string} [loader] what loads the checkpoint
 * @property {string} [through] the input that goes on as the output, where the node goes away
 * @property {boolean} [int8] what it was there for, and nothing does today
 * @property {string[]} [values] names of its widgets, in the order in which they are saved
 */

const CHECKPOINT = "CheckpointLoaderSimple";
const CACHE = ["cache_interval", "cache_layer_id", "cache_block_id", "start_step", "end_step"];

/** @type {Record<string, Old>} */
export const OLD = {
  ModelSpeedup: { today: "compile", values: ["inplace", "static_mode"] },
  VaeSpeedup: { today: "compile vae", values: ["inplace", "static_mode"] },
  ControlnetSpeedup: { today: "compile control", values: ["inplace"] },
  OneDiffModelBooster: { today: "booster", values: [] },
  OneDiffCheckpointLoaderSimple: { today: "load", loader: CHECKPOINT, values: ["ckpt_name", "vae_speedup"] },
  OneDiffControlNetLoader: { today: "load control", values: ["control_net_name"] },
  OneDiffNexfortBooster: { today: "booster", values: ["fullgraph", "dynamic", "mode", "docs_link"] },
  ResolutionSpeedupChecker: { today: "away", through: "samples", values: [] },
  OneDiffTorchCompileBooster: {
    today: "booster",
    values: ["fullgraph", "dynamic", "backend", "mode", "disable", "docs_link"],
  },
  CLIPTextEncodePromptStyle: {
    today: "style",
    values: ["text_positive", "text_negative", "style", "log_prompt", "style_positive", "style_negative"],
  },
  OneFlowDeepcacheBooster: { today: "stays", values: CACHE },
  OneDiffOnlineQuantizationBooster: {
    today: "booster",
    int8: true,
    values: [
      "quantized_conv_percentage",
      "quantized_linear_percentage",
      "conv_compute_density_threshold",
      "linear_compute_density_threshold",
    ],
  },
  ModuleDeepCacheSpeedup: { today: "stays", values: ["static_mode", ...CACHE] },
  OneDiffDeepCacheCheckpointLoaderSimple: {
    today: "stays",
    values: ["ckpt_name", "vae_speedup", "static_mode", ...CACHE],
  },
  BatchSizePatcher: { today: "away", through: "model", values: [] },
  SVDSpeedup: { today: "compile", values: ["inplace", "cache_name", "static_mode"] },
  VaeGraphLoader: { today: "away", through: "vae", values: ["graph"] },
  VaeGraphSaver: { today: "away", values: ["filename_prefix"] },
  ModelGraphLoader: { today: "away", through: "model", values: ["graph"] },
  ModelGraphSaver: { today: "away", values: ["filename_prefix"] },
  CompareModel: { today: "stays", values: ["check"] },
  ShowImageDiff: { today: "stays", values: ["ssim_threshold", "raise_if_diff", "image_id", "rtol", "atol"] },
  UNETLoaderInt8: { today: "stays", values: ["model_path"] },
  Quant8Model: { today: "away", int8: true, values: ["output_dir", "conv", "linear"] },
  OneDiffQuantCheckpointLoaderSimple: {
    today: "load",
    int8: true,
    loader: CHECKPOINT,
    values: ["ckpt_name", "vae_speedup"],
  },
  OneDiffQuantCheckpointLoaderSimpleAdvanced: {
    today: "load",
    int8: true,
    loader: CHECKPOINT,
    values: ["ckpt_name", "model_path", "compile", "vae_speedup"],
  },
  ImageOnlyOneDiffQuantCheckpointLoaderAdvanced: {
    today: "load",
    int8: true,
    loader: "ImageOnlyCheckpointLoader",
    values: ["ckpt_name", "model_path", "compile", "vae_speedup"],
  },
  ControlNetSpeedup: { today: "compile control", values: ["static_mode"] },
  ControlNetGraphLoader: { today: "away", through: "control_net", values: ["graph"] },
  ControlNetGraphSaver: { today: "away", values: ["filename_prefix"] },
  QuantKSampler: {
    today: "sample",
    int8: true,
    values: [
      ...["seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise"],
      ...["onediff_quant", "bits", "quantize_conv", "quantize_linear", "conv_mse_threshold", "linear_mse_threshold"],
      ...["compute_density_threshold", "save_filename_prefix", "overwrite", "static_mode"],
    ],
  },
};

/** Those that compile a model, and show its steps. */
export const COMPILING = new Set([
  ...Object.keys(OLD).filter((type) => OLD[type].today === "compile" || OLD[type].today === "load"),
  ...["ModuleDeepCacheSpeedup", "OneDiffDeepCacheCheckpointLoaderSimple"],
]);

/** What the server calls the category of all of them: another pack's node of the same id is left alone. */
export const CATEGORY = "OneDiff/old";

const SWITCH = new Set(["enable", "disable"]);
const isSwitch = (/** @type {unknown} */ value) => typeof value === "string" && SWITCH.has(value);

/**
 * Values as an earlier version saved them, in today's order.
 * @param {string} type
 * @param {unknown} saved
 */
export function inOrder(type, saved) {
  if (!Array.isArray(saved)) return saved;
  const [first, second] = saved;
  switch (type) {
    case "ModelSpeedup":
    case "VaeSpeedup":
      return isSwitch(first) ? [true, first] : saved;
    case "SVDSpeedup":
      return isSwitch(first) ? [true, "svd", first] : saved;
    case "ShowImageDiff":
      // Five of an unreleased version, or of this pack, which has the switch in second place.
      if (saved.length === 5 && !isSwitch(second)) return [saved[2], saved[3], saved[4], first, second];
      return saved.length === 4 ? ["", saved[2], saved[3], first, second] : saved;
    case "ModuleDeepCacheSpeedup":
      // An unreleased version had one more switch.
      return saved.length === 7 ? [first, ...saved.slice(2)] : saved;
    case "OneDiffNexfortBooster":
      return saved.length === 5 ? [...saved.slice(0, 3), saved[4]] : saved;
    default:
      return saved;
  }
}

/**
 * The values of a saved node by name.
 * @param {{type: string, widgets_values?: unknown}} node
 * @returns {Record<string, any>}
 */
export function valuesOf(node) {
  const saved = inOrder(node.type, node.widgets_values);
  if (!Array.isArray(saved)) return saved && typeof saved === "object" ? { ...saved } : {};
  const names = OLD[node.type].values ?? [];
  return Object.fromEntries(saved.slice(0, names.length).map((value, index) => [names[index], value]));
}
