// @ts-check
// Whether a node, or one that its model passed before, has other values now than those that its figures are of.

import { SWITCHED_OFF } from "./stopped.js";

/** @typedef {import("../graph/walk.js").WalkNode} WalkNode */
/** @typedef {import("./store.js").Entry} Entry */

/**
 * @param {WalkNode[]} way the nodes that the model passed, this one first
 * @param {(node: WalkNode) => Entry | null} find
 * @returns {string | null} title of the first such node; null when there is none
 */
export function changedSince(way, find) {
  const changed = way.find((node) => !SWITCHED_OFF.has(node.mode ?? 0) && hasOthers(node, find(node)?.record.settings));
  return changed ? String(changed.title || changed.type) : null;
}

/** @param {WalkNode} node @param {unknown} settings of its last run, by input */
function hasOthers(node, settings) {
  if (typeof settings !== "object" || settings === null) return false;
  return Object.entries(settings).some(([name, value]) => {
    const isLinked = (node.inputs ?? []).some((input) => input.name === name && input.link != null);
    const widget = (node.widgets ?? []).find((one) => one.name === name);
    return !isLinked && widget !== undefined && differs(widget.value, value);
  });
}

/**
 * A file may hold a value of another type than the input's: ComfyUI turns it into that type before the node gets it.
 * @param {unknown} now of the widget @param {unknown} given to the node
 */
function differs(now, given) {
  if (now === null || now === undefined) return false;
  if (typeof given === "boolean") return Boolean(now) !== given;
  if (typeof given === "number") return Number(now) !== given;
  return String(now) !== given;
}
