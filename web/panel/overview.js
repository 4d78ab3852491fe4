// @ts-check
// All OneDiff nodes of a workflow, by the model they work on.

import { wayOf } from "../graph/walk.js";

/** @typedef {import("../graph/walk.js").WalkNode} WalkNode */

/**
 * @template {WalkNode} N
 * @param {import("../graph/walk.js").WalkGraph} root
 * @param {N[]} nodes OneDiff's, in any order
 * @returns {{title: string, file: string, nodes: N[]}[]} one a loading node: its title and the file that it loads, both
 *   empty for nodes that get no model, and the OneDiff nodes behind it, in the order in which the model passes them
 */
export function modelsOf(root, nodes) {
  /** @type {Map<WalkNode | null, [N, number][]>} */
  const groups = new Map();
  for (const node of nodes) {
    const way = wayOf(root, node);
    const loader = way.length > 1 ? way[way.length - 1] : null;
    groups.set(loader, [...(groups.get(loader) ?? []), [node, way.length]]);
  }
  return [...groups].map(([loader, members]) => ({
    title: loader ? String(loader.title || loader.type || "") : "",
    file: loader ? fileOf(loader) : "",
    nodes: members.sort(([, a], [, b]) => a - b).map(([node]) => node),
  }));
}

/** @param {WalkNode} loader */
function fileOf(loader) {
  const named = (loader.widgets ?? []).find(({ value }) => typeof value === "string" && /\.\w{2,12}$/.test(value));
  return named ? String(named.value).replace(/^.*[\\/]/, "") : "";
}
