// @ts-check
// The host's undo history compares the graph with states that it keeps. A receipt that is written into the graph is
// written into the compared states too, so that it is no step of its own and no change to save.

/** The property of a node that holds its receipt. */
export const PROPERTY = "onediff";

/**
 * What is used of a workflow as the host saves it.
 * @typedef {{id?: unknown, nodes?: SavedNode[], definitions?: {subgraphs?: State[]}}} State
 * @typedef {{id?: unknown, properties?: Record<string, any>}} SavedNode
 * @typedef {{activeState?: State, initialState?: State}} Tracker
 * @typedef {{graph: unknown, node: unknown, receipt: unknown}} Written graph: id of the subgraph, null for the root
 */

/**
 * @param {Tracker | null | undefined} tracker of the workflow on the canvas
 * @param {unknown} root id of the root graph: states of another workflow are left alone
 * @param {Written[]} written
 */
export function amendStates(tracker, root, written) {
  for (const state of new Set([tracker?.activeState, tracker?.initialState])) {
    if (!state || state.id !== root) continue;
    const saved = savedNodes(state);
    for (const { graph, node, receipt } of written) {
      const found = saved.get(key(graph, node));
      if (!found || JSON.stringify(found.properties?.[PROPERTY]) === JSON.stringify(receipt)) continue;
      found.properties ??= {};
      if (receipt === undefined) delete found.properties[PROPERTY];
      else found.properties[PROPERTY] = structuredClone(receipt);
    }
  }
}

/** @param {State} state */
function savedNodes(state) {
  /** @type {Map<string, SavedNode>} */
  const found = new Map();
  /** @param {State} graph @param {unknown} id */
  const add = (graph, id) => {
    for (const node of graph.nodes ?? []) found.set(key(id, node.id), node);
  };
  add(state, null);
  for (const subgraph of state.definitions?.subgraphs ?? []) add(subgraph, subgraph.id);
  return found;
}

/** @param {unknown} graph @param {unknown} node */
const key = (graph, node) => JSON.stringify([graph, String(node)]);
