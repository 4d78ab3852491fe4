// @ts-check
// The old nodes as an extension of the host: their values as they were saved, what they stand for, and the menu.

import { nodeCommand, replacedToast } from "./menu.js";
import { replaceOld } from "./replace.js";
import { CATEGORY, inOrder, OLD } from "./table.js";

const HEIGHT = 34;

/** Lists of files: a name that is not there is shown as one that is missing. */
const FILES = new Set(["ckpt_name", "control_net_name"]);

/** @param {any} node @returns {boolean} whether it is an old node, and this pack's */
export const isOld = (node) => {
  const definition = node?.constructor?.nodeData;
  return Boolean(definition && definition.name in OLD && definition.category === CATEGORY);
};

/**
 * @param {Object} host
 * @param {any} host.app
 * @param {() => import("../words.js").Words} host.words
 * @param {(toast: {severity: string, summary: string, detail?: string, life?: number}) => void} host.toast
 */
export function createOldNodes({ app, words, toast }) {
  /** @param {any[]} [nodes] all of them when left out */
  async function replace(nodes) {
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
    (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
    const root = app.rootGraph ?? app.graph;
    const keys = nodes && new Set(nodes.map(({ graph, id }) => key(graph === root ? null : graph.id, id)));
    const { workflow, ...done } = replaceOld(root.serialize(), {
      chosen: ({ type, id }, graph) => ours(type) && (!keys || keys.has(key(graph, id))),
      styles: stylesOf(),
    });
    if (done.replaced) {
      // As undo does it, which takes it back in one step.
      await tracker.updateState([workflow], tracker.undoQueue);
      tracker.redoQueue.length = 0;
    }
    toast({ ...replacedToast(done, words(), title), summary: "OneDiff", life: 8000 });
  }

  const types = () => /** @type {any} */ (globalThis).LiteGraph?.registered_node_types ?? {};
  const ours = (/** @type {string} */ type) => types()[type]?.nodeData?.category === CATEGORY;
  const title = (/** @type {string} */ type) => types()[type]?.title ?? type;
  const key = (/** @type {any} */ graph, /** @type {any} */ id) => `${graph ?? ""}:${id}`;

  function stylesOf() {
    const { optional } = types().CLIPTextEncodePromptStyle?.nodeData?.input ?? {};
    const [kind, options] = optional?.style ?? [];
    return Array.isArray(kind) ? kind : (options?.options ?? []);
  }

  const command = nodeCommand(() => void replace());

  return {
    name: "OneDiff.OldNodes",
    commands: [command],
    menuCommands: [{ path: ["Extensions", "OneDiff"], commands: [command.id] }],

    /** @param {any} type @param {any} definition */
    beforeRegisterNodeDef(type, definition) {
      if (!(definition.name in OLD) || definition.category !== CATEGORY) return;
      const { configure } = type.prototype;
      type.prototype.configure = function (/** @type {any} */ info) {
        info.widgets_values = inOrder(definition.name, info.widgets_values);
        configure.call(this, info);
        for (const widget of this.widgets ?? []) offer(widget);
      };
    },

    nodeCreated(/** @type {any} */ node) {
      if (isOld(node)) addNote(node, () => node.constructor.nodeData.description);
    },

    /** @param {any} node */
    getNodeMenuItems(node) {
      if (!isOld(node)) return [];
      const say = words();
      return [
        null,
        { content: say("old.replace"), callback: () => void replace([node]) },
        { content: say("old.replace_all"), callback: () => void replace() },
      ];
    },
  };
}

/** A choice that is not in the list any more stays chosen, and is not shown as an error. @param {any} widget */
function offer(widget) {
  const { options, value, name } = widget;
  if (widget.type !== "combo" || FILES.has(name) || !Array.isArray(options?.values)) return;
  if (typeof value === "string" && value && !options.values.includes(value))
    options.values = [...options.values, value];
}

/** What the node stands for, in two rows at most. @param {any} node @param {() => string} text */
function addNote(node, text) {
  const element = document.createElement("div");
  element.className = "onediff-old";
  element.textContent = text();
  element.title = text();
  const widget = node.addDOMWidget("onediff_old", "onediff_old", element, {
    serialize: false,
    margin: 4,
    getMinHeight: () => HEIGHT + 8,
  });
  widget.serialize = false;
  widget.label = " ";
  widget.computeLayoutSize = undefined;
  widget.computeSize = () => [0, HEIGHT + 8];
  const [width, least] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], least)]);
}
