// @ts-check
// What an input of a node is given now: by its own widget, or through a link by a node that holds a value.

import { allNodes } from "./walk.js";

/** @typedef {import("./walk.js").WalkGraph} WalkGraph */
/** @typedef {import("./walk.js").WalkNode} WalkNode */

/**
 * @typedef {Object} Given
 * @property {WalkNode} by the node whose widget says it, or whose output it is
 * @property {unknown} [value] left out where only a run computes it
 * @property {number} [slot] the output of `by`, where it is one
 */

/** The host's nodes that hand their own widget on. */
const CONSTANTS = new Set(
  ["Node", "Int", "Float", "String", "StringMultiline", "Boolean"].map((kind) => `Primitive${kind}`),
);
const REROUTE = "Reroute";
// A damaged file can claim that a link leads to itself.
const DEEPEST = 64;

/**
 * @param {WalkGraph} root
 * @param {WalkNode} node
 * @param {string} name of the input
 * @returns {Given | null} null where nobody can tell
 */
export function givenTo(root, node, name, depth = 0) {
  const input = (node.inputs ?? []).find((one) => one.name === name);
  if (input?.link != null) return sourceOf(root, node.graph, input.link, depth + 1);
  const widget = (node.widgets ?? []).find((one) => one.name === name);
  return widget ? { by: node, value: widget.value } : null;
}

/**
 * @param {WalkGraph} root
 * @param {WalkGraph | null | undefined} graph
 * @param {any} id of a link
 * @param {number} depth
 * @returns {Given | null}
 */
function sourceOf(root, graph, id, depth) {
  const link = graph && id != null && depth < DEEPEST ? graph.getLink(id) : null;
  if (!graph || !link) return null;
  const node = graph.getNodeById(link.origin_id);
  if (!node) return outside(root, graph, link.origin_slot, depth);
  if (node.mode) return null; // switched off: what comes instead is the host's to say
  if (node.subgraph) return sourceOf(root, node.subgraph, node.subgraph.outputs?.[link.origin_slot]?.linkIds?.[0], depth + 1);
  if (node.type === REROUTE) return sourceOf(root, graph, node.inputs?.[0]?.link, depth + 1);
  if (!CONSTANTS.has(String(node.type))) return { by: node, slot: link.origin_slot };
  return givenTo(root, node, String(node.widgets?.[0]?.name), depth + 1);
}

/**
 * What comes into a subgraph. Used more than once, it is given several things.
 * @param {WalkGraph} root
 * @param {WalkGraph} graph
 * @param {number} slot
 * @param {number} depth
 * @returns {Given | null}
 */
function outside(root, graph, slot, depth) {
  const uses = usesOf(root, graph);
  const input = uses.length === 1 ? uses[0].inputs?.[slot] : null;
  if (!input) return null;
  if (input.link != null) return sourceOf(root, uses[0].graph, input.link, depth + 1);
  const name = input.widget?.name ?? input.name;
  const widget = (uses[0].widgets ?? []).find((one) => one.name === name);
  return widget ? { by: uses[0], value: widget.value } : null;
}

/** @param {WalkGraph} root @param {WalkGraph} graph @returns {WalkNode[]} */
const usesOf = (root, graph) => allNodes(root).filter((node) => node.subgraph === graph);
