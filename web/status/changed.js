// @ts-check
// Whether a node, or one that its model passed before, has other values now than those that its figures are of.

import { givenTo } from "../graph/given.js";
import { executionIds } from "./address.js";
import { SWITCHED_OFF } from "./stopped.js";

/** @typedef {import("../graph/walk.js").WalkGraph} WalkGraph */
/** @typedef {import("../graph/walk.js").WalkNode} WalkNode */
/** @typedef {import("./store.js").Entry} Entry */
/** @typedef {import("./record.js").StatusRecord} StatusRecord */

/**
 * @param {WalkGraph} root
 * @param {WalkNode[]} way the nodes that the model passed, this one first
 * @param {(node: WalkNode) => Entry | null} find
 * @returns {string | null} title of the node that was changed, of the first such; null when there is none
 */
export function changedSince(root, way, find) {
  const upstream = find(way[0])?.record.upstream;
  for (const node of way) {
    if (SWITCHED_OFF.has(node.mode ?? 0)) continue;
    const record = find(node)?.record;
    const changed = record ? changedNode(root, node, record) : otherNode(root, node, upstream);
    if (changed) return String(changed.title || changed.type);
  }
  return null;
}

/**
 * A node without a record, as a loader or a LoRA, whose values are others.
 * @param {WalkGraph} root
 * @param {WalkNode} node
 * @param {StatusRecord["upstream"]} upstream null: of a server that does not tell
 */
function otherNode(root, node, upstream) {
  if (typeof upstream !== "object" || upstream === null) return null;
  const id = executionIds(root, node).find((one) => Object.hasOwn(upstream, one));
  return id === undefined ? null : changedNode(root, node, { settings: upstream[id], sources: null });
}

/**
 * What a node's widgets say, and what holds the values of its linked inputs, for a look whether anything has changed.
 * @param {WalkGraph} root
 * @param {WalkNode} node
 */
export const valuesNow = (root, node) => [
  ...(node.widgets ?? []).map(({ value }) => plainValue(value)),
  ...(node.inputs ?? [])
    .filter(({ link, widget }) => link != null && widget)
    .map(({ name }) => plainValue(givenTo(root, node, String(name))?.value)),
];

/** Other nodes' objects may run their code when they are shown. @param {unknown} value */
const plainValue = (value) => (["string", "number", "boolean"].includes(typeof value) ? value : null);

/**
 * @param {WalkGraph} root
 * @param {WalkNode} node
 * @param {Pick<StatusRecord, "settings" | "sources">} record of its last run: what it was given, and from which node
 * @returns {WalkNode | null} the node itself, or the one that holds the value of an input
 */
function changedNode(root, node, { settings, sources }) {
  if (typeof settings !== "object" || settings === null) return null;
  for (const [name, before] of Object.entries(settings)) {
    const given = givenTo(root, node, name);
    if (!given) continue;
    if ("value" in given ? differs(given.value, before) : comesFromElsewhere(root, given, sources, name)) return given.by;
  }
  return null;
}

/**
 * Whether an input whose value only a run computes is another node's than in the last run.
 * @param {WalkGraph} root
 * @param {import("../graph/given.js").Given} given
 * @param {StatusRecord["sources"]} sources null: of a server that does not tell
 * @param {string} name
 */
function comesFromElsewhere(root, { by, slot }, sources, name) {
  if (typeof sources !== "object" || sources === null) return false;
  const before = sources[name];
  return !Array.isArray(before) || before[1] !== slot || !executionIds(root, by).includes(before[0]);
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
