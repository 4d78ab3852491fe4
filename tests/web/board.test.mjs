import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { createBoard } from "../../web/status/board.js";
import { createStore } from "../../web/status/store.js";
import { createWords } from "../../web/words.js";
import { record, states, tables, WORKFLOW } from "./records.mjs";

function setup() {
  mock.timers.enable({ apis: ["setTimeout"] });
  let now = 0;
  const store = createStore(() => now);
  const graph = { id: WORKFLOW, nodes: [] };
  const page = { locale: "en", graph };
  const board = createBoard({ store, words: () => createWords(tables, page.locale), root: () => page.graph });
  const addNode = (id) => {
    const node = { id, graph, mode: 0 };
    const line = { text: "", writes: 0, show: (shown) => ((line.text = shown.line.text), (line.writes += 1)) };
    graph.nodes.push(node);
    board.add(node, line);
    return { node, line };
  };
  const wait = (milliseconds) => {
    now += milliseconds;
    mock.timers.tick(milliseconds);
  };
  return { store, board, page, addNode, wait };
}

test("a node shows its own record, a copy of it starts afresh", (context) => {
  context.after(() => mock.timers.reset());
  const { store, addNode, wait } = setup();
  const { line } = addNode("12");
  store.put(states.compiled);
  const copy = addNode("13");
  wait(500);
  assert.match(line.text, /^compiled · 1.62×/);
  assert.equal(copy.line.text, "not run yet");
});

test("a node that is added within a pause does not stay empty until its end", async (context) => {
  context.after(() => mock.timers.reset());
  const { addNode } = setup();
  addNode("12");
  const second = addNode("13");
  await null;
  assert.equal(second.line.text, "not run yet");
});

test("another workflow on the canvas shows nothing of this one, and this one again when it comes back", (context) => {
  context.after(() => mock.timers.reset());
  const { store, board, page, addNode, wait } = setup();
  const { line } = addNode("12");
  store.put(states.compiled);
  const graph = page.graph;
  graph.id = "another";
  wait(500);
  assert.equal(line.text, "not run yet");
  graph.id = WORKFLOW;
  board.refresh();
  wait(500);
  assert.match(line.text, /^compiled/);
});

test("elapsed time goes on by itself, stands still without a server, and ends with the run", (context) => {
  context.after(() => mock.timers.reset());
  const { store, board, addNode, wait } = setup();
  const { line } = addNode("12");
  store.put(states.compiling);
  wait(3000);
  assert.match(line.text, /1[45] s/);
  board.connect(false);
  wait(500);
  const still = line.text;
  wait(20_000);
  assert.equal(line.text, still);
  board.connect(true);
  store.put(states.compiled);
  wait(1000);
  const writes = line.writes;
  wait(60_000);
  assert.equal(line.writes, writes, "nothing goes on: nothing is written");
});

test("at most two writings a second, for all nodes together", (context) => {
  context.after(() => mock.timers.reset());
  const { store, addNode, wait } = setup();
  const nodes = Array.from({ length: 50 }, (_, index) => addNode(String(index)));
  wait(1000);
  const before = nodes[7].line.writes;
  for (let step = 0; step < 100; step += 1) {
    store.put(record({ node: "7", state: "checking", progress: { done: step, total: 100, path: "", seconds: 0 } }));
    wait(20);
  }
  assert.ok(nodes[7].line.writes - before <= 5, `${nodes[7].line.writes - before} writings in two seconds`);
});

test("a removed node is not written any more; a bypassed one says so; the language can change", (context) => {
  context.after(() => mock.timers.reset());
  const { store, board, page, addNode, wait } = setup();
  const gone = addNode("12");
  const bypassed = addNode("13");
  wait(1000);
  board.remove(gone.node);
  const { writes } = gone.line;
  bypassed.node.mode = 4;
  page.locale = "zh";
  store.put(states.compiled);
  wait(500);
  assert.equal(gone.line.writes, writes);
  assert.equal(bypassed.line.text, "已停用");
});

test("an open subgraph shows the use that was opened; the newest of all uses is what is known", (context) => {
  context.after(() => mock.timers.reset());
  mock.timers.enable({ apis: ["setTimeout"] });
  const store = createStore(() => 0);
  const inner = { id: "sub", nodes: [] };
  const node = { id: 12, graph: inner, mode: 0 };
  const root = { id: WORKFLOW, nodes: [{ id: 3, subgraph: inner }, { id: 7, subgraph: inner }] };
  const page = { open: "3:12" };
  const board = createBoard({
    store,
    words: () => createWords(tables, "en"),
    root: () => root,
    entered: () => page.open,
  });
  const line = { text: "", show: (shown) => (line.text = shown.line.text) };
  board.add(node, line);
  store.put({ ...states.checked, node: "3:12" });
  store.put({ ...states.failed, node: "7:12" });
  for (const [open, text] of [
    ["3:12", /^no problems/],
    ["7:12", /^failed/],
    ["99:12", /^failed/],
    [null, /^failed/],
  ]) {
    page.open = open;
    board.refresh();
    mock.timers.tick(500);
    assert.match(line.text, text);
  }
  page.open = "3:12";
  assert.equal(board.known()[0][1].record.state, "failed");
  assert.deepEqual(board.placed(), [node]);
  root.nodes = [];
  assert.deepEqual(board.placed(), [], "its subgraph is used nowhere any more");
  assert.deepEqual(board.nodes(), [node], "its line is still there");
});

test("after a restart of the server a line says that it is from before", (context) => {
  context.after(() => mock.timers.reset());
  const { store, addNode, wait } = setup();
  const { line } = addNode("12");
  store.put(states.compiled);
  store.put(states.measuring);
  store.load({}, store.mark());
  wait(500);
  assert.match(line.text, /^before restart · compiled · 1\.62×/);
  store.put(states.slower);
  wait(500);
  assert.match(line.text, /^off: compiled is 9 % slower/);
});
