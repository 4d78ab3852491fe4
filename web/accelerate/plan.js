// @ts-check
// Between which nodes of a workflow the pair that accelerates belongs. Changes nothing.

import { allNodes, wayOf } from "../graph/walk.js";
import { COMPILING } from "../migration/table.js";
import { COMPILE, PATCH_ATTENTION, SPEED_REPORT } from "../node_ids.js";
import { SWITCHED_OFF } from "../status/stopped.js";

/** @typedef {import("../graph/walk.js").WalkNode} WalkNode */
/** @typedef {import("../graph/walk.js").WalkGraph} WalkGraph */

/**
 * Nodes to be put behind one output: what took the model from there takes it from the last of them.
 * @typedef {Object} Insertion
 * @property {WalkGraph} graph
 * @property {unknown} origin id of the node that hands the model on; in a subgraph also that of its input
 * @property {number} slot of that node
 * @property {string[]} types of the new nodes, in the order in which the model passes them
 * @property {{node: WalkNode, slot: number}[]} targets
 */

/** Outputs of nodes that look at a model without sampling it. */
const FIGURES = new Set(["SIGMAS", "FLOAT", "INT", "STRING", "BOOLEAN", "*"]);

/**
 * What is missing: each model passes Patch Attention Processors and OneDiff Compile directly before its samplers.
 * @param {WalkGraph} root
 * @param {WalkNode | null} [loader] only the model that this node loads
 * @returns {{insertions: Insertion[], off: WalkNode[], samplers: number}} off: nodes of ours that are there, but
 *   switched off
 */
export function plan(root, loader = null) {
  /** @type {Map<string, Insertion>} */
  const insertions = new Map();
  /** @type {Map<WalkGraph, number>} */
  const graphs = new Map();
  /** @type {Set<WalkNode>} */
  const off = new Set();
  let samplers = 0;
  for (const sampler of allNodes(root).filter(samples)) {
    for (const [slot, input] of (sampler.inputs ?? []).entries()) {
      if (input.type !== "MODEL" || input.link == null) continue;
      const way = wayOf(root, sampler, input);
      if (loader && way.at(-1) !== loader) continue;
      samplers += 1;
      for (const node of way) if (isOurs(node) && SWITCHED_OFF.has(node.mode ?? 0)) off.add(node);
      const compile = way.find(compiles);
      const types = [
        ...(way.some(({ type }) => type === PATCH_ATTENTION) ? [] : [PATCH_ATTENTION]),
        ...(compile ? [] : [COMPILE]),
      ];
      // Patched before it is compiled, where a Compile node is there already.
      // One that loads the model, too, has nothing before it.
      const at = compile ? modelSlot(compile) : slot;
      if (types.length && at >= 0) put(compile ?? sampler, at, types);
    }
  }
  return { insertions: [...insertions.values()], off: [...off], samplers };

  /** @param {WalkNode} node @param {number} slot @param {string[]} types */
  function put(node, slot, types) {
    const graph = node.graph;
    const link = graph?.getLink(node.inputs?.[slot]?.link);
    if (!graph || !link) return;
    if (!graphs.has(graph)) graphs.set(graph, graphs.size);
    const key = JSON.stringify([graphs.get(graph), link.origin_id, link.origin_slot, types]);
    const made = { graph, origin: link.origin_id, slot: link.origin_slot, types, targets: [] };
    const insertion = insertions.get(key) ?? made;
    insertions.set(key, insertion);
    if (!insertion.targets.some((target) => target.node === node && target.slot === slot))
      insertion.targets.push({ node, slot });
  }
}

/** @param {WalkNode} node */
const compiles = ({ type }) => type === COMPILE || COMPILING.has(String(type));

/** @param {WalkNode} node */
const isOurs = (node) => compiles(node) || node.type === PATCH_ATTENTION;

/** @param {WalkNode} node */
const modelSlot = (node) => (node.inputs ?? []).findIndex(({ type }) => type === "MODEL");

/**
 * Whether a node samples with the model that it takes, or hands it on in another form, as a guider does.
 * @param {WalkNode} node
 */
function samples(node) {
  if (node.subgraph || node.type === SPEED_REPORT || SWITCHED_OFF.has(node.mode ?? 0)) return false;
  const given = (node.outputs ?? []).map(({ type }) => String(type));
  return given.includes("LATENT") || (!given.includes("MODEL") && given.some((type) => !FIGURES.has(type)));
}

/**
 * Whether a node only loads a model: it hands one on and takes none.
 * @param {WalkNode} node
 */
export const loads = (node) =>
  !node.subgraph &&
  (node.outputs ?? []).some(({ type }) => type === "MODEL") &&
  !(node.inputs ?? []).some(({ type, link }) => type === "MODEL" || (type === "*" && link != null));
