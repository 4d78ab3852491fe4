// @ts-check
// What the menus of the canvas and of nodes offer, and what is said afterwards.

import { NODES } from "../node_ids.js";
import { loads } from "./plan.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {{content: string, callback: () => void}} Entry as the host's menus take it */

/**
 * @param {Object} options
 * @param {() => Words} options.words
 * @param {ReturnType<typeof import("./change.js").createChanges>} options.changes
 * @param {(node: any) => void} options.open shows the report of a node
 * @param {() => void} options.forget lets the server forget what was measured
 * @param {(nodes: any[]) => void} options.show selects nodes
 * @param {(toast: {severity: string, summary: string, detail?: string, life?: number}) => void} options.toast
 */
export function createMenus({ words, changes, open, forget, show, toast }) {
  const menus = {
    /** @param {any} [loader] */
    accelerate(loader) {
      const done = changes.accelerate(loader);
      if (done.added.length) show(done.added);
      say(done.added.length || done.off.length ? "success" : "info", acceleratedText(done, words()));
    },

    remove() {
      const { length } = changes.remove();
      say(length ? "success" : "info", words()(length ? "accelerate.removed" : "accelerate.none", { count: length }));
    },

    /** @returns {(Entry | null)[]} null is a line between entries */
    canvas: () => [null, entry("add", () => menus.accelerate()), entry("remove", () => menus.remove())],

    /** @param {any} node @returns {(Entry | null)[]} */
    node(node) {
      if (NODES.has(node.comfyClass))
        return [
          null,
          entry("report", () => open(node)),
          entry("forget", forget),
          entry("remove", () => menus.remove()),
        ];
      return loads(node) ? [null, entry("add", () => menus.accelerate(node))] : [];
    },
  };
  return menus;

  /** @param {string} key @param {() => void} callback @returns {Entry} */
  function entry(key, callback) {
    return { content: words()(`accelerate.menu_${key}`), callback };
  }

  /** @param {string} severity @param {string} detail */
  function say(severity, detail) {
    toast({ severity, summary: "OneDiff", detail, life: 8000 });
  }
}

/**
 * What was done, and what to do next.
 * @param {{added: any[], off: any[], samplers: number}} done
 * @param {Words} words
 */
export function acceleratedText({ added, off, samplers }, words) {
  if (!samplers) return words("accelerate.no_sampler");
  const graphs = [...new Set(added.map(({ graph }) => graph))];
  const inside = graphs.filter((graph) => graph?.rootGraph && graph.rootGraph !== graph);
  const where = inside.map(({ name }) => words("accelerate.inside", { name: String(name ?? "") }));
  const said = [
    added.length && words("accelerate.added", { count: added.length }),
    ...where,
    off.length && words("accelerate.switched_on", { count: off.length }),
  ].filter(Boolean);
  return said.length ? [...said, words("accelerate.next")].join(" ") : words("accelerate.already");
}
