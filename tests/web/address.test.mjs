import assert from "node:assert/strict";
import { test } from "node:test";

import { executionIds } from "../../web/status/address.js";

/** @returns {any} */
const graph = (...nodes) => {
  const made = { nodes };
  for (const node of nodes) node.graph = made;
  return made;
};

test("a node of the root graph is known by its own id, also when that is a number", () => {
  const node = { id: 12 };
  assert.deepEqual(executionIds(graph(node), node), ["12"]);
});

test("a node of a subgraph has an id for each place where the subgraph is used", () => {
  const node = { id: "12" };
  const inner = graph(node);
  const outer = graph({ id: "2", subgraph: inner });
  const root = graph(
    { id: "3", subgraph: inner },
    { id: "7", subgraph: inner },
    { id: "9", subgraph: outer },
    { id: "12" },
  );
  assert.deepEqual(executionIds(root, node), ["3:12", "7:12", "9:2:12"]);
});

test("a node in no graph, or in a subgraph that is not used, has none", () => {
  const lost = { id: "12" };
  graph(lost);
  assert.deepEqual(executionIds(graph(), lost), []);
  assert.deepEqual(executionIds(graph(), { id: "1", graph: null }), []);
});

test("a subgraph that claims to hold itself ends", () => {
  const node = { id: "12" };
  const inner = graph(node);
  inner.nodes.push({ id: "4", subgraph: inner });
  const other = graph({ id: "5" });
  other.nodes.push({ id: "6", subgraph: other });
  assert.deepEqual(executionIds(graph({ id: "1", subgraph: other }, { id: "3", subgraph: inner }), node), ["3:12"]);
});
