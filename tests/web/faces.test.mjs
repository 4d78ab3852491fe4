// What a subgraph shows of the OneDiff nodes inside, and what becomes of a node that goes into one.

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { faces, faceText } from "../../web/presence/faces.js";
import { createBoard } from "../../web/status/board.js";
import { createStore } from "../../web/status/store.js";
import { describe } from "../../web/status/text.js";
import { graphOf, node } from "./graph.mjs";
import { english, states, WORKFLOW } from "./records.mjs";

const inside = () =>
  graphOf(
    { patch: { type: "OneDiffPatchAttention" }, compile: { type: "OneDiffCompile" }, other: { type: "KSampler" } },
    "inner",
  );
const line = (record) => describe(record, english);
const said = (found) => [...found].map(([use, shown]) => [use.id, faceText(shown.line)]);

test("the face of a subgraph shows the worst of what is inside, however deep", () => {
  const inner = inside();
  const middle = graphOf({ deep: { type: "Deep", subgraph: inner } }, "middle");
  const root = graphOf({ use: { type: "Use", subgraph: middle }, empty: { type: "E", subgraph: graphOf({}) } });
  const ours = [node(inner, "patch"), node(inner, "compile")];
  const at = (patch, compile) => said(faces(root, ours, (one) => line(one === ours[0] ? patch : compile)));
  assert.deepEqual(at(states.patched, states.compiled), [
    ["use", "OneDiff ▲ compiled · 1.62×"],
    ["deep", "OneDiff ▲ compiled · 1.62×"],
  ]);
  assert.equal(at(states.rejected, states.compiled)[0][1], "OneDiff ✗ SoftCap not used");
  assert.deepEqual(at(null, null), [], "nothing is known yet");
});

test("two uses of one subgraph show what each of them did", () => {
  const store = createStore(() => 0);
  const inner = inside();
  const root = graphOf({ 3: { subgraph: inner }, 7: { subgraph: inner } }, WORKFLOW);
  const board = createBoard({ store, words: () => english, root: () => root });
  store.put({ ...states.compiled, node: "3:compile" });
  store.put({ ...states.slower, node: "7:compile" });
  const compile = node(inner, "compile");
  assert.match(board.look(compile, node(root, "3")).line.text, /^compiled/);
  assert.match(board.look(compile, node(root, "7")).line.text, /^off/);
});

test("a node that goes into a subgraph keeps what was known of it, also when the server is asked again", (context) => {
  context.after(() => mock.timers.reset());
  mock.timers.enable({ apis: ["setTimeout"] });
  const store = createStore(() => 0);
  const inner = graphOf({ 12: { type: "OneDiffCompile" } }, "inner");
  const root = graphOf({ 12: { type: "OneDiffCompile" } }, WORKFLOW);
  const board = createBoard({ store, words: () => english, root: () => root });
  const shown = {};
  const show = (name) => ({ show: (what) => (shown[name] = what) });
  const [before, after] = [node(root, "12"), node(inner, "12")];
  board.add(before, show("before"));
  store.put(states.compiled);
  mock.timers.tick(500);
  board.remove(before);
  root.nodes = [{ id: "5", type: "Sub", subgraph: inner, graph: root, inputs: [], outputs: [] }];
  board.add(after, show("after"));
  mock.timers.tick(500);
  assert.match(shown.after.line.text, /^compiled · 1.62×/);
  store.load({ any: states.compiled }, store.mark());
  mock.timers.tick(500);
  assert.match(shown.after.line.text, /^compiled · 1.62×/, "the server still has it under the old id");
  store.load({}, store.mark());
  mock.timers.tick(500);
  assert.match(shown.after.line.text, /^before restart/);
});

test("a node of another workflow with the same id takes nothing over", (context) => {
  context.after(() => mock.timers.reset());
  mock.timers.enable({ apis: ["setTimeout"] });
  const store = createStore(() => 0);
  const page = { root: graphOf({ 12: { type: "OneDiffCompile" } }, WORKFLOW) };
  const board = createBoard({ store, words: () => english, root: () => page.root });
  const before = node(page.root, "12");
  board.add(before, { show() {} });
  store.put(states.compiled);
  mock.timers.tick(500);
  board.remove(before);
  const inner = graphOf({ 12: { type: "OneDiffCompile" } }, "inner");
  page.root = graphOf({ 5: { type: "Sub", subgraph: inner } }, "another");
  let text = "";
  board.add(node(inner, "12"), { show: (what) => (text = what.line.text) });
  mock.timers.tick(500);
  assert.equal(text, "not run yet");
});

test("bars have their legend, and are cleared when the node is switched off", (context) => {
  context.after(() => mock.timers.reset());
  mock.timers.enable({ apis: ["setTimeout"] });
  const store = createStore(() => 0);
  const root = graphOf({ 12: { type: "OneDiffCompile" } }, WORKFLOW);
  const board = createBoard({ store, words: () => english, root: () => root });
  let shown;
  board.add(node(root, "12"), { show: (what) => (shown = what) });
  store.put(states.compiled);
  mock.timers.tick(500);
  assert.ok(shown.steps.length > 0);
  assert.ok(shown.details.some((text) => text.startsWith("The bars are the last steps")));
  node(root, "12").mode = 4;
  board.refresh();
  mock.timers.tick(500);
  assert.deepEqual([shown.steps, shown.uncompiledMs], [[], null]);
  assert.ok(!shown.details.some((text) => text.startsWith("The bars")));
});
