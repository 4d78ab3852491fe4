// @ts-check
// The canvas extension: puts a status line on each OneDiff node and feeds it. The only file that knows the host.

// @ts-expect-error served by the host
import { api } from "../../scripts/api.js";
// @ts-expect-error served by the host
import { app } from "../../scripts/app.js";
import { forwardToCanvas } from "./status/pointer.js";
import { createBoard } from "./status/board.js";
import { createLine, LINE_HEIGHT } from "./status/line.js";
import { createStore } from "./status/store.js";
import { createWords } from "./words.js";

const NODES = new Set(["OneDiffPatchAttention", "OneDiffForwardCheck", "OneDiffCompile", "OneDiffSpeedReport"]);
const MARGIN = 4;

/** @type {Record<string, any>} */
let tables = {};
const words = () => createWords(tables, app.extensionManager?.setting?.get("Comfy.Locale") ?? "en");
const store = createStore();
const board = createBoard({
  store,
  words,
  root: () => app.rootGraph ?? app.graph,
});

/** @param {string} route @returns {Promise<any>} null when the server has no answer */
async function ask(route) {
  try {
    const response = await api.fetchApi(route);
    return response.ok ? await response.json() : null;
  } catch (error) {
    console.warn(`OneDiff: no answer from ${route}`, error);
    return null;
  }
}

async function load() {
  const mark = store.mark();
  const answer = await ask("/onediff/status");
  if (answer !== null) store.load(answer.records, mark);
}

/** @param {any} node a node of the host */
function attach(node) {
  const line = createLine();
  const widget = node.addDOMWidget("onediff_status", "onediff_status", line.element, {
    serialize: false,
    margin: MARGIN,
    getMinHeight: () => LINE_HEIGHT + 2 * MARGIN,
  });
  widget.serialize = false;
  widget.label = words()("status.label");
  // A fixed height in both renderers, where a DOM widget otherwise takes what the node has left.
  widget.computeLayoutSize = undefined;
  widget.computeSize = () => [0, LINE_HEIGHT + 2 * MARGIN];
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);

  /** @type {AbortController | undefined} */
  let attached;
  const { onAdded, onRemoved } = node;
  node.onAdded = function (/** @type {any[]} */ ...args) {
    onAdded?.apply(this, args);
    attached?.abort();
    attached = new AbortController();
    forwardToCanvas(line.element, () => app.canvas.canvas, attached.signal);
    board.add(node, line);
  };
  node.onRemoved = function (/** @type {any[]} */ ...args) {
    attached?.abort();
    board.remove(node);
    onRemoved?.apply(this, args);
  };
}

app.registerExtension({
  name: "OneDiff.Status",

  async init() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./onediff.css", import.meta.url).href;
    document.head.append(style);
    tables = (await ask("/i18n")) ?? {};
  },

  async setup() {
    api.addEventListener("onediff.status", (/** @type {CustomEvent} */ event) => store.put(event.detail));
    api.addEventListener("reconnecting", () => board.connect(false));
    api.addEventListener("reconnected", () => {
      board.connect(true);
      return load();
    });
    // Bypassing a node and changing the language are not events of the server.
    api.addEventListener("graphChanged", board.refresh);
    app.ui.settings.addEventListener("Comfy.Locale.change", board.refresh);
    void load();
  },

  nodeCreated(/** @type {any} */ node) {
    if (NODES.has(node.comfyClass)) attach(node);
  },

  // Also runs on undo and when another workflow tab is shown. The host would wait for a promise.
  afterConfigureGraph() {
    void load();
  },
});
