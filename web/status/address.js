// @ts-check
// Which execution ids a node on the canvas has.

/**
 * What is used of the host's graphs and nodes.
 * @typedef {{nodes: GraphNode[], id?: unknown, rootGraph?: Graph}} Graph
 * @typedef {{id: unknown, graph?: Graph | null, subgraph?: Graph}} GraphNode
 */

/**
 * "12" for a node of the root graph; for a node of a subgraph one id for each place where the subgraph is used,
 * e.g. ["3:12", "7:12", "9:2:12"]. Empty for a node that is in no graph.
 * @param {Graph} root
 * @param {GraphNode} node
 * @returns {string[]}
 */
export function executionIds(root, node) {
  if (!node.graph) return [];
  return pathsTo(root, node.graph, "", new Set()).map((path) => `${path}${node.id}`);
}

/**
 * @param {Graph} graph
 * @param {Graph} target
 * @param {string} path
 * @param {Set<Graph>} above a subgraph cannot hold itself, but a file can claim so
 * @returns {string[]}
 */
function pathsTo(graph, target, path, above) {
  if (graph === target) return [path];
  if (above.has(graph)) return [];
  const seen = new Set([...above, graph]);
  return graph.nodes.flatMap((node) =>
    node.subgraph ? pathsTo(node.subgraph, target, `${path}${node.id}:`, seen) : [],
  );
}
