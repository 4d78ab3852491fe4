// @ts-check
// A subgraph may be used several times; a person looks at it through the use that they opened.

/** @typedef {import("../status/address.js").Graph} Graph */
/** @typedef {import("../status/address.js").GraphNode} GraphNode */

const DEEPEST = 64; // a file can claim that a subgraph holds itself

export function createEntered() {
  /** @type {WeakMap<Graph, GraphNode>} */
  const doors = new WeakMap();
  return {
    /** @param {Graph} subgraph @param {GraphNode} node the use that was opened */
    open: (subgraph, node) => doors.set(subgraph, node),

    /**
     * Execution id of a node as a person came to it: "7:12" after opening the subgraph by node 7. Null when it is not
     * known how they came, as after a reload inside of a subgraph.
     * @param {GraphNode} node
     * @returns {string | null}
     */
    id(node) {
      let path = String(node.id);
      let graph = node.graph;
      for (let depth = 0; graph && depth < DEEPEST; depth += 1) {
        if (!graph.rootGraph || graph.rootGraph === graph) return path;
        const door = doors.get(graph);
        if (!door) return null;
        path = `${door.id}:${path}`;
        graph = door.graph;
      }
      return null;
    },
  };
}
