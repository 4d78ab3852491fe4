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

test("a run in progress, a link that leads nowhere and a record of an earlier version are left alone", () => {
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

/** A Speed Report whose "steps" comes from another node of this type, in the same graph. */
function linked(type, widgets = []) {
  const store = createStore(() => 0);
  const root = graphOf(
    {
      holds: { type, out: ["INT"] },
      other: { type: "MathExpression", out: ["INT", "INT"] },
      report: { type: "OneDiffSpeedReport", in: { INT: ["holds", "INT"] } },
    },
    WORKFLOW,
  );
  const [holds, report] = [node(root, "holds"), node(root, "report")];
  Object.assign(holds, { title: "My steps", widgets });
  Object.assign(report, { widgets: [{ name: "steps", value: 99 }] });
  Object.assign(report.inputs[0], { name: "steps", widget: { name: "steps" } });
  const board = createBoard({ store, words: () => english, root: () => root });
  const ran = (fields) => store.put({ ...states.compiled, node: "report", settings: { steps: 8 }, sources: {}, ...fields });
  const look = () => board.look(report);
  return { root, holds, report, ran, text: () => look().line.text, told: () => look().details[0] };
}

test("another value in a node that an input is linked to marks the line, and that node is named", () => {
  const widgets = [{ name: "value", value: 8 }, { name: "control_after_generate", value: "fixed" }];
  const { holds, report, ran, text, told } = linked("PrimitiveInt", widgets);
  ran({ sources: { steps: ["holds", 0] } });
  assert.match(text(), /^compiled/, "the widget behind the link counts for nothing");
  holds.widgets[0].value = 12;
  assert.match(text(), /^before your change · compiled/);
  assert.match(told(), /^“My steps” has other settings now/);
  holds.mode = 4;
  assert.match(text(), /^compiled/, "what comes instead of a node that is switched off is not known");
  holds.mode = 0;
  report.inputs[0].link = null;
  assert.match(text(), /^before your change/, "its own widget says 99");
});

test("through a reroute, and into a subgraph by its widget", () => {
  const { root, holds, report, ran, text } = linked("Reroute");
  const inner = graphOf({ report: { type: "OneDiffSpeedReport", in: { INT: ["-10", "0"] } } }, "inner");
  const far = linked("PrimitiveFloat", [{ name: "value", value: 8 }]);
  holds.inputs = [{ link: 1 }];
  root.getLink = (id) => (id === 1 ? { origin_id: "far", origin_slot: 0 } : { origin_id: "holds", origin_slot: 0 });
  root.nodes.push({ ...far.holds, id: "far", graph: root, title: "Far" });
  report.inputs[0].link = 2;
  ran({});
  assert.match(text(), /^compiled/);
  root.nodes.at(-1).widgets = [{ name: "value", value: 9 }];
  assert.match(text(), /^before your change/);

  const use = { id: "use", type: "Sub", title: "Sub", graph: root, subgraph: inner, outputs: [], widgets: [{ name: "steps", value: 8 }] };
  Object.assign(use, { inputs: [{ name: "steps", link: null, widget: { name: "steps" } }] });
  root.nodes.push(use);
  const inside = node(inner, "report");
  Object.assign(inside.inputs[0], { name: "steps" });
  const store = createStore(() => 0);
  const board = createBoard({ store, words: () => english, root: () => root });
  store.put({ ...states.compiled, node: "use:report", settings: { steps: 8 }, sources: {} });
  assert.match(board.look(inside).line.text, /^compiled/);
  use.widgets[0].value = 20;
  assert.match(board.look(inside).line.text, /^before your change/);
  root.nodes.push({ ...use, id: "again" });
  assert.match(board.look(inside).line.text, /^compiled/, "used twice, it is given two things");
});

test("of a node that computes the value only another link is a change", () => {
  const { root, report, ran, text, told } = linked("MathExpression", [{ name: "expression", value: "4 * 2" }]);
  ran({ sources: { steps: ["holds", 0] } });
  assert.match(text(), /^compiled/);
  root.getLink = () => ({ origin_id: "other", origin_slot: 0 });
  assert.match(text(), /^before your change/);
  assert.match(told(), /^“MathExpression” has other settings/);
  ran({ sources: { steps: ["other", 0] } });
  assert.match(text(), /^compiled/);
  root.getLink = () => ({ origin_id: "other", origin_slot: 1 });
  assert.match(text(), /^before your change/, "another output of it");
  ran({ sources: {} });
  assert.match(text(), /^before your change/, "it was the widget's");
  ran({ sources: null });
  assert.match(text(), /^compiled/, "a server that does not tell");
  assert.equal(report.inputs.length, 1);
});

test("links that go round in a circle end", () => {
  const { root, holds, ran, text } = linked("Reroute");
  holds.inputs = [{ link: 1 }];
  root.getLink = () => ({ origin_id: "holds", origin_slot: 0 });
  ran({});
  assert.match(text(), /^compiled/);
});

test("another checkpoint, or another strength of a LoRA, marks the lines behind it", () => {
  const store = createStore(() => 0);
  const root = graphOf(
    {
      load: { type: "CheckpointLoaderSimple", out: ["MODEL"], file: "sd15.safetensors" },
      lora: { type: "LoraLoaderModelOnly", in: { MODEL: ["load", "MODEL"] }, out: ["MODEL"] },
      compile: { type: "OneDiffCompile", in: { MODEL: ["lora", "MODEL"] } },
    },
    WORKFLOW,
  );
  const board = createBoard({ store, words: () => english, root: () => root });
  const [load, lora, compile] = ["load", "lora", "compile"].map((id) => node(root, id));
  load.widgets = [{ name: "ckpt_name", value: "sd15.safetensors" }];
  lora.widgets = [{ name: "strength_model", value: 1 }];
  const upstream = { load: { ckpt_name: "sd15.safetensors" }, lora: { strength_model: 1 }, gone: { x: 1 } };
  const put = (fields) => store.put({ ...states.compiled, node: "compile", settings: {}, ...fields });
  const text = () => board.look(compile).line.text;
  put({ upstream });
  assert.match(text(), /^compiled/);
  load.widgets[0].value = "sdxl.safetensors";
  assert.match(text(), /^before your change · compiled/);
  assert.match(board.look(compile).details[0], /^“CheckpointLoaderSimple” has other settings/);
  load.widgets[0].value = "sd15.safetensors";
  lora.widgets[0].value = 0.5;
  assert.match(text(), /^before your change/);
  lora.mode = 4;
  assert.match(text(), /^compiled/, "one that is switched off says nothing");
  lora.mode = 0;
  for (const odd of [null, undefined, 7, "x", { lora: null }, { lora: 3 }]) {
    put({ upstream: odd });
    assert.match(text(), /^compiled/, JSON.stringify(odd));
  }
});
