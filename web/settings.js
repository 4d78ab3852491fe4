// @ts-check
// The settings under “OneDiff”. Their names in other languages are in locales/<language>/settings.json.

/** Where compiled code is kept between starts; ComfyUI's server reads them when a graph compiles. */
const cacheSettings = [
  {
    id: "OneDiff.CompileCache.Folder",
    category: ["OneDiff", "Compile cache", "Folder"],
    name: "Folder of the compile cache",
    tooltip:
      "A full path on the server; “onediff_compile_cache” is created in it. Empty: ComfyUI's user folder. “off”: nothing is kept.",
    type: "text",
    defaultValue: "",
  },
  {
    id: "OneDiff.CompileCache.Limit",
    category: ["OneDiff", "Compile cache", "Limit"],
    name: "Size of the compile cache in MB",
    tooltip: "When it grows larger, what has not been used for the longest time is deleted.",
    type: "number",
    defaultValue: 2048,
    attrs: { min: 16, step: 256 },
  },
];

const compileSetting = {
  id: "OneDiff.Compile.Seconds",
  category: ["OneDiff", "Compiling", "Seconds"],
  name: "Seconds of compiling in one picture",
  tooltip:
    "Blocks that are left then wait for the next picture. 0: as “effort” of the node says, 300 with fast start and 1200 with max speed.",
  type: "number",
  defaultValue: 0,
  attrs: { min: 0, step: 30 },
};

/**
 * What the server keeps, with a button each. They have no value.
 * @param {{cache: () => HTMLElement, models: () => HTMLElement}} views
 */
const keptSettings = (views) => [
  {
    id: "OneDiff.CompileCache.Kept",
    category: ["OneDiff", "Compile cache", "Kept"],
    name: "Compile cache now",
    type: views.cache,
    defaultValue: "",
  },
  {
    id: "OneDiff.Measurements.Kept",
    category: ["OneDiff", "Measurements", "Kept"],
    name: "Models whose step times are kept",
    type: views.models,
    defaultValue: "",
  },
];

/**
 * The host says the value of each once at the start, and whenever it changes.
 * @param {{display: (value: "full" | "short" | "none") => void, mark: (value: boolean) => void}} changed
 * @param {{cache: () => HTMLElement, models: () => HTMLElement}} views of what the server keeps
 * @returns {any[]} as `registerExtension` takes them
 */
export const settings = (changed, views) => [
  {
    id: "OneDiff.Status.MarkSamplers",
    category: ["OneDiff", "Status on the canvas", "MarkSamplers"],
    name: "Mark samplers whose model runs uncompiled",
    tooltip: "A small mark on each sampler that gets its model from a Compile node which could not compile it.",
    type: "boolean",
    defaultValue: true,
    onChange: (/** @type {unknown} */ value) => changed.mark(value !== false),
  },
  {
    id: "OneDiff.Status.Display",
    category: ["OneDiff", "Status on the canvas", "Display"],
    name: "Status line on nodes",
    tooltip: "The report is also in the sidebar and in the menu.",
    type: "combo",
    options: [
      { text: "Full line", value: "full" },
      { text: "Short line", value: "short" },
      { text: "None", value: "none" },
    ],
    defaultValue: "full",
    onChange: (/** @type {unknown} */ value) => changed.display(displayOf(value)),
  },
  compileSetting,
  ...cacheSettings,
  ...keptSettings(views),
];

/** @param {() => void} changed */
export const receiptSetting = (changed) => ({
  id: "OneDiff.Receipt",
  category: ["OneDiff", "Workflow file", "Receipt"],
  name: "Keep the last measurement in the workflow file",
  tooltip: "Whoever opens the workflow, or a picture made with it, sees what you measured.",
  type: "combo",
  options: [
    { text: "On", value: "on" },
    { text: "Without the device's name", value: "no device" },
    { text: "Off", value: "off" },
  ],
  defaultValue: "on",
  onChange: changed,
});

/** @param {unknown} value of a setting, which may come from another version @returns {"full" | "short" | "none"} */
export const displayOf = (value) => (value === "short" || value === "none" ? value : "full");
