import assert from "node:assert/strict";
import { test } from "node:test";

import { createReceipts } from "../../web/receipt/file.js";
import { createOwn } from "../../web/receipt/own.js";
import { describeReceipt, readReceipt, receiptDetails, shapeReceipt } from "../../web/receipt/receipt.js";
import { shown } from "../../web/receipt/shown.js";
import { amendStates } from "../../web/receipt/tracker.js";
import { details } from "../../web/status/details.js";
import { chinese, english, states, WORKFLOW } from "./records.mjs";

const receipt = shapeReceipt(states.compiled, "on");
const entry = (record, stale = false) => ({ record, stale, order: 1, at: 0, outcome: record });

test("a receipt has the fields that the interface names, and no more", () => {
  assert.deepEqual(Object.keys(receipt), ["summary", "speed", "parity", "machine", "model", "measured_at"]);
  assert.equal(receipt.speed.speedup, 1.62);
  assert.equal(receipt.machine.device, "NVIDIA H100");
  assert.deepEqual(readReceipt(JSON.parse(JSON.stringify(receipt))), receipt);
});

test("before the first run, during one, and when switched off there is none", () => {
  for (const state of ["idle", "checking", "compiling", "measuring"]) assert.equal(shapeReceipt(states[state], "on"), null);
  assert.equal(shapeReceipt(states.compiled, "off"), null);
});

test("without the device's name nothing names it", () => {
  const kept = JSON.stringify(shapeReceipt(states.compiled, "no device"));
  assert.ok(!kept.includes("H100"));
  assert.ok(kept.includes("2.11.0"));
});

test("the author's line and the own earlier one tell themselves apart from what this machine measured", () => {
  assert.match(describeReceipt(receipt, english, false).text, /^author measured 1\.62× · NVIDIA H100 · 148 ms a compiled step · /);
  assert.match(describeReceipt(receipt, english, true).text, /^measured earlier: 1\.62× · /);
  assert.match(describeReceipt(receipt, chinese, false).text, /^作者测得 1\.62× · /);
  assert.equal(describeReceipt(receipt, english, false).tone, "past");
  const said = receiptDetails(receipt, english, false, details).join("\n");
  assert.match(said, /^Measured by the author of this workflow on /);
  assert.match(said, /A step takes 148 ms compiled/);
  assert.match(said, /queue the workflow/);
});

test("what all nodes gained is said, as computed where it is, and what was not clear is no figure for others", () => {
  const both = shapeReceipt({ ...states.bothGain, machine: { device: "AMD EPYC" } }, "on");
  assert.deepEqual(readReceipt(JSON.parse(JSON.stringify(both))), both);
  assert.equal(
    describeReceipt(both, english, false).text,
    "author: about 2.84× together · AMD EPYC · attention 1.75×, compiled 1.62× · 148 ms a compiled step",
  );
  const alone = shapeReceipt(states.patchAlone, "on");
  assert.match(describeReceipt(alone, english, false).text, /^author: about 1\.63× from attention · 150 ms an unc/);
  assert.match(describeReceipt(alone, chinese, true).text, /^此前：替换注意力约 1\.63× · /);
  assert.equal(readReceipt({ speed: { total_speedup: 2, computed: "yes" } }).speed.computed, undefined);
  assert.equal(shapeReceipt(states.noisy, "on").speed.speedup, undefined);
  const unclear = { ...states.compiled, speed: { ...states.compiled.speed, verdict: null, pairs: 3 } };
  assert.equal(shapeReceipt(unclear, "on").speed.speedup, undefined);
});

test("it says on which size that was, whatever else a file holds there", () => {
  const sized = shapeReceipt({ ...states.compiled, speed: { ...states.compiled.speed, steps_size: ["1×4×8×8", "2×4×64×64"] } }, "on");
  assert.equal(sized.speed.size, "2×4×64×64");
  assert.deepEqual(readReceipt(JSON.parse(JSON.stringify(sized))), sized);
  assert.match(receiptDetails(sized, english, false, details).join("\n"), /Steps on latents of 2×4×64×64\./);
  assert.ok(readReceipt({ speed: { speedup: 2, size: "x".repeat(1e6) } }).speed.size.length <= 60);
  assert.equal(readReceipt({ speed: { speedup: 2, size: {} } }).speed.size, undefined);
});

test("the model is named by class and size, whatever else a file holds there", () => {
  assert.deepEqual(receipt.model, { class: "UNetModel", dtype: "float16", parameters: 859_520_964 });
  assert.match(receiptDetails(receipt, english, false, details).join("\n"), /Model: UNetModel, 860 M parameters, float16\./);
  const model = { class: "<b>x</b>".repeat(1000), parameters: 1e99, file: "/home/me/secret.safetensors", dtype: 4 };
  const read = readReceipt({ summary: "x", model }).model;
  assert.deepEqual(Object.keys(read), ["class"]);
  assert.ok(read.class.length <= 200);
  for (const odd of [7, "x", [], null, { parameters: 5 }, { class: {} }])
    assert.equal(readReceipt({ summary: "x", model: odd }).model, undefined, JSON.stringify(odd));
});

test("a receipt of a step that is faster uncompiled, and one without figures", () => {
  const slower = shapeReceipt(states.slower, "on");
  assert.match(describeReceipt(slower, english, false).text, /^author: compiled 9 % slower · /);
  assert.match(describeReceipt(slower, english, false).text, /3\.00 s an uncompiled step/);
  const { verdict: _, ...figures } = slower.speed;
  const old = describeReceipt(readReceipt({ ...slower, speed: figures }), english, false).text;
  assert.match(old, /^author kept it uncompiled · 3\.00 s an uncompiled step/, "an earlier version's, without a verdict");
  assert.equal(readReceipt({ speed: { ...figures, verdict: "<b>" } }).speed.verdict, undefined);
  const none = readReceipt({ summary: "checked 686 modules, no problems" });
  assert.equal(describeReceipt(none, english, false).text, "author · checked 686 modules, no problems");
});

const HOSTILE = {
  "nothing": undefined,
  "a number": 7,
  "a string": "<img src=x onerror=alert(1)>",
  "a list": [{ summary: "x" }],
  "no fields": {},
  "wrong types": { summary: { toString: 1 }, speed: "fast", parity: [], machine: 3, measured_at: {} },
  "fields of wrong types": { speed: { speedup: "1.6", eager_ms: null, steps_ms: "all", kept: 4 }, machine: { device: [] } },
  "not a number": { speed: { speedup: NaN, eager_ms: Infinity, compiled_ms: -Infinity } },
  "negative": { speed: { speedup: -3, compiled_ms: -1, per_second: 0 } },
  "too large": { speed: { speedup: 1e300, eager_ms: 1e12 } },
  "a bad date": { measured_at: "9999999-99-99" },
};

for (const [name, value] of Object.entries(HOSTILE))
  test(`a file with ${name} in the receipt's place shows nothing of it`, () => assert.equal(readReceipt(value), null));

test("what can be used of a hostile receipt is bounded and is text", () => {
  const read = readReceipt({
    summary: `<script>alert(1)</script>\u202e\n${"x".repeat(1e6)}`,
    speed: { speedup: 1.5, steps_ms: [1, "2", NaN, -1, ...Array(1000).fill(5)], onclick: "alert(1)" },
    parity: { passed: true, relative: NaN, max_abs: 0.1, evil: {} },
    machine: { device: "<b>GPU</b>".repeat(1000), home: "/home/me" },
    measured_at: "2026-06-01T10:00:00+00:00",
    extra: 1,
  });
  assert.ok(read.summary.length <= 200 && !/[\u202e\n]/.test(read.summary));
  assert.deepEqual(Object.keys(read.speed), ["speedup", "steps_ms"]);
  assert.ok(read.speed.steps_ms.length <= 40);
  assert.deepEqual(read.parity, { passed: true, max_abs: 0.1 });
  assert.deepEqual(Object.keys(read.machine), ["device"]);
  assert.ok(read.machine.device.length <= 200);
  assert.ok(JSON.stringify(read).length < 1500);
});

test("keys of a prototype are neither read nor written", () => {
  const hostile = JSON.parse('{"__proto__": {"summary": "inherited"}, "constructor": {"prototype": {"polluted": 1}}}');
  assert.equal(readReceipt(hostile), null);
  assert.equal(readReceipt(JSON.parse('{"summary": "x", "speed": {"__proto__": {"speedup": 9}}}')).speed, null);
  const read = readReceipt(JSON.parse('{"summary": "x", "machine": {"__proto__": "y", "device": "GPU"}}'));
  assert.deepEqual(Object.keys(read.machine), ["device"]);
  assert.equal({}.polluted, undefined);
});

test("deep nesting costs nothing", () => {
  let deep = {};
  for (let level = 0; level < 100_000; level += 1) deep = { deep };
  assert.equal(readReceipt({ speed: deep, machine: deep, parity: { passed: true, relative: deep } }), null);
});

test("this machine's record comes before the file's receipt; what is switched off says so", () => {
  const past = { receipt, mine: false };
  const line = (known) => shown({ entry: null, past: null, bypassed: false, age: 0, ...known }, english).line.text;
  assert.equal(line({}), "not run yet");
  assert.match(line({ past }), /^author measured/);
  assert.match(line({ past, entry: entry(states.idle) }), /^author measured/);
  assert.equal(line({ past, entry: entry(states.measuring) }), "measuring");
  assert.match(line({ past, entry: entry(states.slower) }), /^off: compiled is 9 % slower/);
  assert.equal(line({ past, bypassed: true }), "switched off");
  assert.match(line({ past, entry: entry(states.compiled, true) }), /^before restart · compiled · 1\.62×/);
});

test("receipts that this browser wrote are known again after a restart of the server, others are not", () => {
  const kept = new Map();
  const storage = () => ({ getItem: (name) => kept.get(name) ?? null, setItem: (name, text) => kept.set(name, text) });
  createOwn(storage).add(receipt);
  assert.equal(createOwn(storage).has(receipt), true);
  assert.equal(createOwn(storage).has({ ...receipt, machine: { device: "another" } }), false);
  assert.equal(createOwn(storage).has({ ...receipt, measured_at: "2026-06-01T12:00:00+00:00" }), false);
  assert.equal(createOwn(storage).has({ ...receipt, measured_at: null }), false);
  kept.set("OneDiff.Receipts", '{"not": "a list"}');
  assert.equal(createOwn(storage).has(receipt), false);
  const broken = createOwn(() => {
    throw new Error("no storage");
  });
  for (let hour = 0; hour < 24; hour += 1)
    broken.add({ ...receipt, measured_at: `2026-06-02T${String(hour).padStart(2, "0")}:30:00+00:00` });
  broken.add(receipt);
  assert.equal(broken.has(receipt), true);
});

function setup(properties = {}) {
  const graph = { id: WORKFLOW, nodes: [] };
  const node = { id: 12, graph, properties };
  const saved = () => ({ id: WORKFLOW, nodes: [{ id: 12, properties: structuredClone(properties) }, { id: 13 }] });
  const tracker = { activeState: saved(), initialState: saved() };
  const page = { entry: null, setting: "on" };
  const receipts = createReceipts({
    known: () => [[node, page.entry]],
    root: () => graph,
    tracker: () => tracker,
    setting: () => page.setting,
    storage: () => ({ getItem: () => null, setItem: () => {} }),
  });
  return { node, tracker, page, receipts };
}

test("writing a receipt leaves the graph equal to the states that the host compares it with", () => {
  const { node, tracker, page, receipts } = setup();
  receipts.write();
  assert.deepEqual(node.properties, {});
  page.entry = entry(states.compiled);
  receipts.write();
  assert.deepEqual(node.properties.onediff, receipt);
  assert.deepEqual(tracker.activeState.nodes[0].properties, node.properties);
  assert.deepEqual(tracker.initialState.nodes[0].properties, node.properties);
  assert.deepEqual(tracker.activeState.nodes[1], { id: 13 });
  assert.equal(receipts.past(node).mine, true);
  // After undo the host compares with an older state.
  tracker.activeState = { id: WORKFLOW, nodes: [{ id: 12, properties: {} }] };
  receipts.write();
  assert.deepEqual(tracker.activeState.nodes[0].properties, node.properties);
});

test("switched off, own receipts go; those of others stay until this machine has measured", () => {
  const own = setup();
  own.page.entry = entry(states.compiled);
  own.receipts.write();
  own.page.setting = "off";
  own.receipts.write();
  assert.deepEqual(own.node.properties, {});
  assert.deepEqual(own.tracker.initialState.nodes[0].properties, {});
  const other = setup({ onediff: receipt });
  other.page.setting = "off";
  other.receipts.write();
  assert.deepEqual(other.node.properties.onediff, receipt);
  other.page.entry = entry(states.slower);
  other.receipts.write();
  assert.deepEqual(other.node.properties, {});
});

test("a node keeps its receipt when a workflow is loaded, and loses it when it is copied", () => {
  const { node, receipts } = setup({ onediff: receipt });
  receipts.load(true);
  receipts.configured(node);
  assert.equal(receipts.past(node).mine, false);
  receipts.load(false);
  receipts.configured(node);
  assert.equal(receipts.past(node), null);
});

test("states of another workflow and odd states are left alone; nodes of subgraphs are found", () => {
  const written = [{ graph: "sub", node: 5, receipt }];
  const state = { id: "root", nodes: [{ id: 5 }], definitions: { subgraphs: [{ id: "sub", nodes: [{ id: 5 }] }] } };
  amendStates({ activeState: state }, "another", written);
  assert.deepEqual(state.definitions.subgraphs[0].nodes[0], { id: 5 });
  amendStates({ activeState: state }, "root", written);
  assert.deepEqual(state.nodes[0], { id: 5 });
  assert.deepEqual(state.definitions.subgraphs[0].nodes[0].properties.onediff, receipt);
  for (const odd of [null, undefined, {}, { activeState: { id: "root" } }]) amendStates(odd, "root", written);
});

test("the file says that a run stopped, or that a node had no effect, and boasts of nothing", () => {
  const say = (record) => describeReceipt(shapeReceipt(record, "on"), english, false).text;
  assert.equal(say(states.stoppedAt), "author · stopped at 1/17 · goes on with the next new picture");
  assert.equal(say(states.calledAround), "author · no effect: “DeepCache” runs in the model's place");
  assert.equal(shapeReceipt(states.stoppedEarly, "on"), null);
});
