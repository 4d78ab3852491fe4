import assert from "node:assert/strict";
import { test } from "node:test";

import { createEntered } from "../../web/presence/entered.js";

const root = { id: "root", nodes: [] };
const graph = () => ({ id: "sub", nodes: [], rootGraph: root });

test("a node of a subgraph has the id of the use that was opened last", () => {
  const entered = createEntered();
  const outer = graph();
  const inner = graph();
  const node = { id: 12, graph: inner };
  assert.equal(entered.id(node), null);
  entered.open(outer, { id: 3, graph: root });
  entered.open(inner, { id: 7, graph: outer });
  assert.equal(entered.id(node), "3:7:12");
  entered.open(outer, { id: 4, graph: root });
  assert.equal(entered.id(node), "4:7:12");
  assert.equal(entered.id({ id: 12, graph: root }), "12");
  assert.equal(entered.id({ id: 12 }), null);
});

test("a subgraph that claims to hold itself ends", () => {
  const entered = createEntered();
  const loop = graph();
  entered.open(loop, { id: 1, graph: loop });
  assert.equal(entered.id({ id: 2, graph: loop }), null);
});
