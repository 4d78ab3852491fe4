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

/**
 * The host says the value of each once at the start, and whenever it changes.
 * @param {{display: (value: "full" | "short" | "none") => void, mark: (value: boolean) => void}} changed
 * @returns {any[]} as `registerExtension` takes them
 */
export const settings = (changed) => [
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
  ...cacheSettings,
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
