// A small graph with what the pack uses of the host's.

/**
 * @typedef {{type?: string, in?: Record<string, [string, string]>, out?: string[]}} Wiring
 * @param {Record<string, Wiring & {subgraph?: any, mode?: number, file?: string}>} nodes
 *   id → inputs as {type: [id of the node it comes from, type of its output]} and types of outputs
 */
export function graphOf(nodes, id = "graph") {
  const links = new Map();
  const graph = {
    id,
    nodes: [],
    getNodeById: (key) => graph.nodes.find((node) => node.id === key) ?? null,
    getLink: (key) => links.get(key),
  };
  for (const [key, { type = key, out = [], subgraph, mode = 0, file }] of Object.entries(nodes)) {
    const outputs = out.map((type) => ({ type, links: [] }));
    const widgets = file ? [{ value: 7 }, { value: file }] : [];
    graph.nodes.push({ id: key, type, title: type, mode, graph, subgraph, inputs: [], outputs, widgets });
  }
  for (const [key, { in: inputs = {} }] of Object.entries(nodes)) {
    const node = graph.getNodeById(key);
    for (const [type, [from, output]] of Object.entries(inputs)) {
      const origin = graph.getNodeById(from);
      const link = links.size + 1;
      const slot = origin ? origin.outputs.findIndex((one) => one.type === output) : Number(output);
      links.set(link, { origin_id: from, origin_slot: slot, target_id: key, target_slot: node.inputs.length });
      node.inputs.push({ type, link });
      origin?.outputs[slot].links.push(link);
    }
  }
  /** A link out of a subgraph: from a node's output to output `slot` of the subgraph. */
  graph.leave = (from, type, slot) => {
    const link = links.size + 1;
    const origin = graph.getNodeById(from);
    links.set(link, { origin_id: from, origin_slot: 0, target_id: -20, target_slot: slot });
    origin.outputs.find((one) => one.type === type).links.push(link);
    graph.outputs = Object.assign(graph.outputs ?? [], { [slot]: { linkIds: [link] } });
  };
  return graph;
}

export const node = (graph, id) => graph.getNodeById(id);
