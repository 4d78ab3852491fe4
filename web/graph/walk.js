// @ts-check
// Along the links of the host's graph: where a model comes from and where it goes.

/**
 * What is used of the host's graphs, nodes and links.
 * @typedef {{origin_id: unknown, origin_slot: number, target_id: unknown, target_slot: number}} Link
 * @typedef {{type?: unknown, link?: any, links?: any[] | null, name?: string, widget?: {name?: string}}} Slot
 * @typedef {Object} WalkGraph
 * @property {unknown} [id]
 * @property {WalkNode[]} nodes
 * @property {(id: any) => WalkNode | null} getNodeById
 * @property {(id: any) => Link | undefined | null} getLink
 * @property {{linkIds?: any[]}[]} [outputs] of a subgraph
 * @typedef {Object} WalkNode
 * @property {unknown} id
 * @property {number} [mode]
 * @property {string} [type]
 * @property {string} [title]
 * @property {Slot[]} [inputs]
 * @property {Slot[]} [outputs]
 * @property {any[]} [widgets]
 * @property {Record<string, any>} [properties]
 * @property {WalkGraph} [subgraph] of a node that is one
 * @property {WalkGraph | null} [graph] that it is in
 */

/**
 * The nodes that a model passed on its way to this one: upwards along MODEL links, out of a subgraph to where it is
 * used first.
 * @param {WalkGraph} root
 * @param {WalkNode} node
 * @param {Slot} [first] the input to begin at; left out, the first that takes a model
 * @returns {WalkNode[]} this node first, the one that loads the model last
 */
export function wayOf(root, node, first) {
  /** @type {Set<WalkNode>} */
  const way = new Set();
  for (let current = /** @type {WalkNode | null} */ (node); current && !way.has(current);) {
    const slot =
      (current === node && first) || (current.inputs ?? []).find(({ type }) => type === "MODEL" || type === "*");
    way.add(current);
    current = slot ? origin(root, current.graph, slot.link) : null;
  }
  return [...way];
}

// A damaged file can claim that a subgraph holds itself.
const DEEPEST = 64;

/**
 * Where a link comes from: out of a subgraph to where it is used first, and into one that hands the model on.
 * @param {WalkGraph} root
 * @param {WalkGraph | null | undefined} graph
 * @param {any} id of a link
 * @param {number} [depth]
 * @returns {WalkNode | null}
 */
function origin(root, graph, id, depth = 0) {
  const link = graph && id != null && depth < DEEPEST ? graph.getLink(id) : null;
  if (!graph || !link) return null;
  const node = graph.getNodeById(link.origin_id);
  const inside = node?.subgraph?.outputs?.[link.origin_slot]?.linkIds?.[0];
  if (node) return (inside != null && origin(root, node.subgraph, inside, depth + 1)) || node;
  const outer = instances(root, graph)[0];
  return outer ? origin(root, outer.graph, outer.inputs?.[link.origin_slot]?.link, depth + 1) : null;
}

/**
 * The nodes that sample with the model that a node hands on: downwards along MODEL and GUIDER links, through nodes that
 * change the model, not beyond those where `stop` says so. A subgraph that takes the model in counts as one node.
 * @param {WalkGraph} root
 * @param {WalkNode} node
 * @param {(node: WalkNode) => boolean} stop
 * @returns {WalkNode[]}
 */
export function samplersOf(root, node, stop) {
  const found = new Set();
  const seen = new Set([node]);
  const open = [node];
  for (let current = open.pop(); current; current = open.pop()) {
    for (const next of targets(root, current)) {
      if (seen.has(next)) continue;
      seen.add(next);
      if (stop(next)) continue;
      if ((next.outputs ?? []).some(({ type }) => type === "LATENT") || (next.subgraph && !passesOn(next)))
        found.add(next);
      open.push(next);
    }
  }
  return [...found];
}

const CARRIES = new Set(["MODEL", "GUIDER", "*"]);

/** @param {WalkNode} node */
const passesOn = (node) => (node.outputs ?? []).some(({ type }) => type === "MODEL");

/** @param {WalkGraph} root @param {WalkNode} node @returns {WalkNode[]} */
function targets(root, node) {
  return (node.outputs ?? []).flatMap((output, slot) =>
    CARRIES.has(String(output.type)) ? targetsOf(root, node.graph, node, slot) : [],
  );
}

/**
 * @param {WalkGraph} root
 * @param {WalkGraph | null | undefined} graph
 * @param {WalkNode} node
 * @param {number} slot
 * @returns {WalkNode[]}
 */
function targetsOf(root, graph, node, slot) {
  if (!graph) return [];
  return (node.outputs?.[slot]?.links ?? []).flatMap((id) => {
    const link = graph.getLink(id);
    if (!link) return [];
    const target = graph.getNodeById(link.target_id);
    if (target) return [target];
    return instances(root, graph).flatMap((outer) => targetsOf(root, outer.graph, outer, link.target_slot));
  });
}

/**
 * The nodes that stand for a subgraph.
 * @param {WalkGraph} root
 * @param {WalkGraph} graph
 * @returns {WalkNode[]}
 */
function instances(root, graph) {
  return allNodes(root).filter((node) => node.subgraph === graph);
}

/**
 * All nodes, also those of subgraphs, each once.
 * @param {WalkGraph} root
 * @returns {WalkNode[]}
 */
export function allNodes(root) {
  const seen = new Set([root]);
  const open = [root];
  /** @type {WalkNode[]} */
  const nodes = [];
  for (let graph = open.pop(); graph; graph = open.pop()) {
    for (const node of graph.nodes) {
      nodes.push(node);
      if (node.subgraph && !seen.has(node.subgraph)) {
        seen.add(node.subgraph);
        open.push(node.subgraph);
      }
    }
  }
  return nodes;
}
