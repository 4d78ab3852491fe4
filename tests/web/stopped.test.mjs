import assert from "node:assert/strict";
import { test } from "node:test";

import { report } from "../../web/panel/report.js";
import { shown } from "../../web/receipt/shown.js";
import { createBoard } from "../../web/status/board.js";
import { createStore } from "../../web/status/store.js";
import { graphOf, node } from "./graph.mjs";
import { chinese, english, states, WORKFLOW } from "./records.mjs";

const MODEL = ["MODEL"];
const failed = { ...states.failed, node: "check", check: states.findings.check, measured_at: "2026-06-02T10:00:00Z" };
const passed = { ...states.checked, node: "check", measured_at: "2026-06-03T10:00:00Z" };
const compiled = { ...states.compiled, node: "compile" };

function setup() {
  const graph = graphOf(
    {
      load: { type: "CheckpointLoaderSimple", out: MODEL },
      check: { type: "OneDiffForwardCheck", in: { MODEL: ["load", "MODEL"] }, out: MODEL },
      lora: { type: "LoraLoaderModelOnly", in: { MODEL: ["check", "MODEL"] }, out: MODEL },
      compile: { type: "OneDiffCompile", in: { MODEL: ["lora", "MODEL"] }, out: MODEL },
      beside: { type: "OneDiffCompile", in: { MODEL: ["load", "MODEL"] }, out: MODEL },
    },
    WORKFLOW,
  );
  node(graph, "check").title = "Forward Check";
  const store = createStore();
  const board = createBoard({ store, words: () => english, root: () => graph });
  return { graph, store, look: (id) => board.look(node(graph, id)), text: (id) => board.look(node(graph, id)).line.text };
}

const STOPPED = "did not run · “Forward Check” stopped the run";

test("a node behind a check that stopped the run says that it did not run, not what it was before", () => {
  const { store, text } = setup();
  store.put(compiled);
  store.put({ ...compiled, node: "beside" });
  store.put(failed);
  assert.equal(text("compile"), STOPPED);
  assert.match(text("beside"), /^compiled/, "another branch has nothing to do with the check");
  assert.match(text("check"), /^failed/);
  store.put(passed);
  assert.match(text("compile"), /^compiled/);
});

test("a node that never ran says it too, and one that waited for a sampler", () => {
  const { store, text } = setup();
  store.put(failed);
  assert.equal(text("compile"), STOPPED);
  store.put({ ...states.idle, node: "compile", compile: { regions: 38 } });
  assert.equal(text("compile"), STOPPED);
});

test("after the page is loaded again it still says so, also when the server counts in another order", () => {
  const { store, text } = setup();
  store.load({ b: failed, a: compiled }, store.mark());
  assert.equal(text("compile"), STOPPED);
});

test("a check that is switched off, or that came in after the measurement, stopped nothing", () => {
  const { graph, store, text } = setup();
  store.put(failed);
  store.put(compiled);
  assert.match(text("compile"), /^compiled/, "it was connected otherwise when it was measured");
  store.put(failed);
  node(graph, "check").mode = 4;
  assert.match(text("compile"), /^compiled/);
});

test("a run that goes on shows", () => {
  const { store, text } = setup();
  store.put(failed);
  store.put({ ...states.compiling, node: "compile" });
  assert.match(text("compile"), /^compiling/);
});

test("the report says what to do and whose figures those are; a switched-off node says only that", () => {
  const { graph, store, look } = setup();
  store.put(compiled);
  store.put(failed);
  const { advice } = report(look("compile"), "OneDiff Compile", english);
  assert.equal(advice.length, 2);
  assert.match(advice[0], /set its “on problem” to “report”/);
  assert.match(advice[1], /previous run/);
  node(graph, "compile").mode = 4;
  assert.equal(look("compile").line.text, "switched off");
});

test("after a restart of the server it is from before, in Chinese too", () => {
  const known = { entry: null, past: null, bypassed: false, age: 0, stopped: { title: "前向检查", stale: true } };
  assert.equal(shown(known, chinese).line.text, "重启前 · 没有运行 · “前向检查” 中止了运行");
});
