// A line whose node has other values now than in its last run.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createBoard } from "../../web/status/board.js";
import { createStore } from "../../web/status/store.js";
import { graphOf, node } from "./graph.mjs";
import { english, states, WORKFLOW } from "./records.mjs";

function page() {
  const store = createStore(() => 0);
  const root = graphOf(
    {
      patch: { type: "OneDiffPatchAttention", out: ["MODEL"] },
      compile: { type: "OneDiffCompile", in: { MODEL: ["patch", "MODEL"] } },
    },
    WORKFLOW,
  );
  const board = createBoard({ store, words: () => english, root: () => root });
  const [patch, compile] = [node(root, "patch"), node(root, "compile")];
  Object.assign(patch, { title: "My patch", widgets: [{ name: "processor", value: "sdpa" }, { name: "status" }] });
  Object.assign(compile, { widgets: [{ name: "keep_faster", value: true }] });
  store.put({ ...states.patched, node: "patch", settings: { processor: "sdpa", sites: "all" } });
  store.put({ ...states.compiled, node: "compile", settings: { keep_faster: true } });
  return { store, patch, compile, line: (one) => board.look(one).line, told: (one) => board.look(one).details[0] };
}

test("a change of a value marks the line of the node, and of those behind it, until they run again", () => {
  const { store, patch, compile, line, told } = page();
  assert.match(line(patch).text, /^10 sites patched/);
  assert.match(line(compile).text, /^compiled/);
  patch.widgets[0].value = "custom/mine";
  assert.match(line(patch).text, /^before your change · 10 sites patched/);
  assert.deepEqual([line(patch).symbol, line(patch).tone], ["◷", "past"]);
  assert.match(line(compile).text, /^before your change · compiled/);
  assert.match(told(compile), /^“My patch” has other settings now/);
  patch.widgets[0].value = "sdpa";
  assert.match(line(compile).text, /^compiled/, "it was taken back");
  compile.widgets[0].value = false;
  assert.match(line(patch).text, /^10 sites/, "what stands behind changes nothing before");
  assert.match(line(compile).text, /^before your change/);
  store.put({ ...states.compiled, node: "compile", settings: { keep_faster: false } });
  assert.match(line(compile).text, /^compiled/);
});

test("a value that ComfyUI turns into the input's type is no change", () => {
  const { store, compile, line } = page();
  const settings = { keep_faster: true, steps: 4, blocks: "5", sites: "all" };
  store.put({ ...states.compiled, node: "compile", settings });
  const set = (values) =>
    (compile.widgets = Object.entries({ ...settings, ...values }).map(([name, value]) => ({ name, value })));
  for (const values of [{ keep_faster: 1 }, { keep_faster: "true" }, { steps: "4" }, { blocks: 5 }, { sites: null }]) {
    set(values);
    assert.match(line(compile).text, /^compiled/, JSON.stringify(values));
  }
  for (const values of [{ keep_faster: 0 }, { steps: 5 }, { blocks: "" }, { sites: "self" }]) {
    set(values);
    assert.match(line(compile).text, /^before your change/, JSON.stringify(values));
  }
});

test("a run in progress, a linked input and a record of an earlier version are left alone", () => {
  const { store, patch, compile, line } = page();
  patch.widgets[0].value = "custom/mine";
  store.put({ ...states.compiling, node: "compile", settings: { keep_faster: true } });
  assert.match(line(compile).text, /^compiling/);
  patch.inputs = [{ name: "processor", link: 7 }];
  assert.match(line(patch).text, /^10 sites/);
  patch.inputs = [];
  const { settings, ...earlier } = { ...states.patched, node: "patch", settings: null };
  store.put(earlier);
  assert.match(line(patch).text, /^10 sites/);
  assert.equal(settings, null);
});
