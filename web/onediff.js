// @ts-check
// The canvas extension: puts a status line on each OneDiff node and feeds it. The only file that knows the host.

// @ts-expect-error served by the host
import { api } from "../../scripts/api.js";
// @ts-expect-error served by the host
import { app } from "../../scripts/app.js";
import { createChanges } from "./accelerate/change.js";
import { createMenus } from "./accelerate/menus.js";
import { createCommands } from "./commands.js";
import { createOldNodes, isOld } from "./migration/extension.js";
import { COMPILING, OLD } from "./migration/table.js";
import { wayOf } from "./graph/walk.js";
import { createMarks, samplersToMark } from "./marks.js";
import { COMPILE, NODES } from "./node_ids.js";
import { createBackends } from "./panel/backends.js";
import { createPanel } from "./panel/dialog.js";
import { cacheText, keptView, modelTexts } from "./panel/kept.js";
import { createSidebar } from "./panel/sidebar.js";
import { createEntered } from "./presence/entered.js";
import { faces, faceText } from "./presence/faces.js";
import { createReceiptExtension } from "./receipt/extension.js";
import { settings } from "./settings.js";
import { forwardToCanvas, openWith } from "./status/pointer.js";
import { createBoard } from "./status/board.js";
import { valuesNow } from "./status/changed.js";
import { createLine } from "./status/line.js";
import { createPoll } from "./status/poll.js";
import { createStore } from "./status/store.js";
import { addStatusWidget } from "./status/widget.js";
import { worst } from "./status/worst.js";
import { createToasts } from "./toasts.js";
import { createWords } from "./words.js";

/** @type {Record<string, any>} */
let tables = {};
const words = () => createWords(tables, app.extensionManager?.setting?.get("Comfy.Locale") ?? "en");
const store = createStore();
const root = () => app.rootGraph ?? app.graph;
const classic = () => /** @type {any} */ (globalThis).LiteGraph?.vueNodesMode !== true;
const entered = createEntered();
const receipts = createReceiptExtension({
  ...{ api, app, store, board: () => board },
  nodes: new Set([...NODES, ...Object.keys(OLD)]),
});
const board = createBoard({ store, words, root, past: receipts.past, entered: entered.id });
const toast = (/** @type {any} */ message) => app.extensionManager.toast.add(message);
const panel = createPanel({ board, words });
const toasts = createToasts(toast, words);
const backends = createBackends({
  ask: () => ask("/onediff/backends"),
  again: () => clear("backends"),
  changed: () => board.refresh(),
});
const menus = createMenus({
  words,
  changes: createChanges({
    root,
    canvas: () => app.canvas,
    create: (type) => /** @type {any} */ (globalThis).LiteGraph.createNode(type),
  }),
  open: panel.open,
  forget: () => app.extensionManager.command.execute("OneDiff.ClearMeasurements"),
  show: select,
  toast,
});
const commands = createCommands({
  words,
  nodes: board.nodes,
  selected: () => Object.values(app.canvas.selected_nodes ?? {}),
  open: panel.open,
  worst: (nodes) => worst(nodes, (node) => board.look(node).line),
  overview() {
    if (!document.querySelector(".onediff-sidebar"))
      void app.extensionManager.command.execute("Workspace.ToggleSidebarTab.onediff");
  },
  accelerate: () => menus.accelerate(),
  remove: menus.remove,
  clear,
  retried: () => void backends.load(),
  toast,
});
const COMPILE_WIDTH = 290;
/** @type {import("./status/line.js").Display} */
let shown = "full";
let marking = true;
/** @type {WeakMap<any, (display: import("./status/line.js").Display) => void>} */
const displays = new WeakMap();
/** What changes on the canvas without an event in both renderers: bypassing, renaming, moving a link, other values. */
const poll = createPoll(() => {
  const graph = root();
  return JSON.stringify([
    graph.id,
    graph._version,
    app.canvas?.graph?.id,
    classic(),
    board.nodes().map((node) => wayOf(graph, node).map((one) => [one.id, one.mode, one.title, valuesNow(graph, one)])),
  ]);
}, board.refresh);

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

/** @param {string} what @returns {Promise<{cleared?: unknown, error?: unknown}>} */
async function clear(what) {
  try {
    const headers = { "Content-Type": "application/json" };
    const response = await api.fetchApi("/onediff/clear", { method: "POST", headers, body: JSON.stringify({ what }) });
    const answer = await response.json().catch(() => null);
    return answer ?? { error: `${response.status} ${response.statusText}` };
  } catch (error) {
    return { error };
  }
}

async function load() {
  const mark = store.mark();
  const answer = await ask("/onediff/status");
  if (answer !== null) store.load(answer.records, mark);
}

/**
 * What the server keeps, for the settings page.
 * @param {string} button a key of words @param {string} command clears it
 * @param {(kept: any, say: import("./words.js").Words) => string[]} texts
 */
function kept(button, command, texts) {
  const run = () => commands.find(({ id }) => id === `OneDiff.${command}`)?.function();
  return keptView({ ask: () => ask("/onediff/kept"), texts, button: `kept.${button}`, clear: run, words });
}

/** Brings a node into view, also one in a subgraph that is not open. @param {any} node */
function find(node) {
  if (node.graph !== app.canvas.graph) app.canvas.setGraph(node.graph);
  app.canvas.centerOnNode(node);
}

/** Nodes of the graph that is open, and brings the whole graph into view where one of them is not. @param {any[]} nodes */
function select(nodes) {
  const here = nodes.filter((node) => node.graph === app.canvas.graph);
  app.canvas.deselectAll();
  if (!here.length) return;
  app.canvas.selectItems(here);
  if (!here.every(isInView)) app.extensionManager.command.execute("Comfy.Canvas.FitView");
}

const BARS = 60; // the editor's own, at the top and at the left

/** @param {any} node */
function isInView({ pos, size }) {
  const { scale, offset } = app.canvas.ds;
  const { width, height } = app.canvas.canvas.getBoundingClientRect();
  const [x, y] = [(pos[0] + offset[0]) * scale, (pos[1] - 30 + offset[1]) * scale];
  return x >= BARS && y >= BARS && x + size[0] * scale <= width && y + (size[1] + 30) * scale <= height;
}

/** @param {any} node a node of the host */
function attach(node) {
  const line = createLine({ steps: node.comfyClass === COMPILE || COMPILING.has(node.comfyClass) });
  const display = addStatusWidget(node, line, words()("status.label"), classic, () => app.canvas.low_quality === true);
  if (shown !== "full") display(shown);
  displays.set(node, display);
  // Wide enough for the longest name of an input beside its value; a saved size comes later and holds.
  if (node.comfyClass === COMPILE) node.setSize([Math.max(node.size[0], COMPILE_WIDTH), node.size[1]]);

  /** @type {AbortController | undefined} */
  let attached;
  const { onAdded, onRemoved } = node;
  node.onAdded = function (/** @type {any[]} */ ...args) {
    onAdded?.apply(this, args);
    attached?.abort();
    attached = new AbortController();
    forwardToCanvas(line.element, () => app.canvas.canvas, attached.signal);
    openWith(line.element, () => panel.open(node), attached.signal);
    board.add(node, line);
    poll.start();
  };
  node.onRemoved = function (/** @type {any[]} */ ...args) {
    attached?.abort();
    board.remove(node);
    if (!board.nodes().length) poll.stop();
    onRemoved?.apply(this, args);
  };
}

/** What ComfyUI took from its cache sends no record; the server has it once the run is in its history. */
function loadAfterRuns() {
  let ended = false;
  api.addEventListener("execution_success", () => (ended = true));
  api.addEventListener("status", () => {
    if (ended) void load();
    ended = false;
  });
}

app.registerExtension(receipts.extension);
app.registerExtension(createOldNodes({ app, words, toast }));
app.registerExtension({
  name: "OneDiff.Status",
  settings: settings(
    {
      display(value) {
        shown = value;
        for (const node of board.nodes()) displays.get(node)?.(value);
        board.refresh();
      },
      mark(value) {
        marking = value;
        board.refresh();
      },
    },
    {
      cache: () => kept("clear_cache", "ClearCompileCache", (answer, say) => [cacheText(answer, say)]),
      models: () => kept("forget", "ClearMeasurements", modelTexts),
    },
  ),
  commands,
  getCanvasMenuItems: menus.canvas,
  getNodeMenuItems: menus.node,
  menuCommands: [{ path: ["Extensions", "OneDiff"], commands: commands.map(({ id }) => id) }],

  async init() {
    for (const sheet of ["./onediff.css", "./panel/panel.css"]) {
      const style = document.createElement("link");
      style.rel = "stylesheet";
      style.href = new URL(sheet, import.meta.url).href;
      document.head.append(style);
    }
    tables = (await ask("/i18n")) ?? {};
  },

  async setup() {
    const marks = createMarks({
      canvas: () => app.canvas,
      classic,
      badge: (options) => new /** @type {any} */ (globalThis).LGraphBadge(options),
    });
    api.addEventListener("onediff.status", (/** @type {CustomEvent} */ event) => {
      store.put(event.detail);
      if (event.detail?.workflow === root().id) toasts.about(event.detail);
    });
    api.addEventListener("reconnecting", () => board.connect(false));
    api.addEventListener("reconnected", () => {
      board.connect(true);
      return load();
    });
    app.ui.settings.addEventListener("Comfy.Locale.change", board.refresh);
    // Before the host builds nodes from their badges.
    app.ui.settings.addEventListener("Comfy.VueNodes.Enabled.change", marks.clear);
    const sidebar = createSidebar({ board, backends, words, root, open: panel.open, find, ...menus });
    app.extensionManager.registerSidebarTab(sidebar);
    board.watch(() => {
      const marked = marking ? samplersToMark(root(), board.nodes(), board.look) : new Map();
      const lineIn = (/** @type {any} */ node, /** @type {any} */ use) => board.look(node, use).line;
      const inside = shown === "none" ? new Map() : faces(root(), board.nodes(), lineIn);
      /** @type {Map<any, import("./marks.js").Mark>} */
      const wanted = new Map();
      for (const [sampler, { node, state }] of marked)
        wanted.set(sampler, { text: `▽ ${words()(`mark.${state}`)}`, tone: "warn", open: () => panel.open(node) });
      for (const [use, { node, line }] of inside) {
        const open = () => {
          entered.open(use.subgraph, use);
          panel.open(node);
        };
        wanted.set(use, { text: faceText(line), tone: line.tone, open });
      }
      marks.show(wanted);
    });
    loadAfterRuns();
    app.canvas.canvas.addEventListener("subgraph-opening", (/** @type {CustomEvent} */ { detail }) => {
      if (detail?.fromNode) entered.open(detail.subgraph, detail.fromNode);
      board.refresh();
    });
    void load();
  },

  nodeCreated(/** @type {any} */ node) {
    if (NODES.has(node.comfyClass) || isOld(node)) attach(node);
  },

  // Also runs on undo and when another workflow tab is shown. The host would wait for a promise.
  afterConfigureGraph() {
    void load();
  },
});
