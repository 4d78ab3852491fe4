import assert from "node:assert/strict";
import { test } from "node:test";

import { backendLine, createBackends } from "../../web/panel/backends.js";
import { chinese, english } from "./records.mjs";

const rows = {
  works: { name: "inductor", available: true, version: "2.11.0", reason: "compiled and ran.", speed: 1.2 },
  slow: { name: "oneflow", available: true, version: "0.9.0", reason: "compiled and ran, 4 times slower", speed: 0.25, slower: true },
  missing: { name: "nexfort", available: false, version: null, reason: "nexfort needs an NVIDIA GPU: use inductor." },
};

test("each backend says whether it works and why not, with what to do", () => {
  const read = Object.values(rows).map((row) => {
    const { symbol, name, state, why } = backendLine(row, english);
    return `${symbol} ${name}: ${state} · ${why}`;
  });
  assert.deepEqual(read, [
    "✓ inductor 2.11.0: works · compiled and ran.",
    "▼ oneflow 0.9.0: works, but slowly · compiled and ran, 4 times slower.",
    "○ nexfort: not available · nexfort needs an NVIDIA GPU: use inductor.",
  ]);
  assert.equal(backendLine(rows.missing, chinese).state, "不可用");
});

test("whether one is slow is the server's to say", () => {
  assert.equal(backendLine({ ...rows.works, speed: 0.9, slower: true }, english).symbol, "▼");
  assert.equal(backendLine({ ...rows.works, speed: 0.1, slower: false }, english).symbol, "✓");
  assert.equal(backendLine({ ...rows.works, speed: 0.1 }, english).symbol, "✓", "an earlier version's row");
});

test("an odd row does no harm", () => {
  for (const odd of [null, undefined, 3, {}, { available: true, speed: "fast", reason: ["x"] }])
    assert.equal(backendLine(odd, english).why, "");
});

/** A server whose answers arrive when the test says so. */
function setup() {
  const open = [];
  const asked = [];
  const backends = createBackends({
    ask: () => (asked.push("ask"), new Promise((resolve) => open.push(resolve))),
    again: async () => asked.push("again"),
    changed: () => {},
  });
  return { backends, asked, open };
}

test("what is known stays while it is asked for anew; no answer is said", async () => {
  const { backends, open } = setup();
  const first = backends.load();
  assert.deepEqual(backends.known(), { asking: true, rows: null });
  open[0]({ backends: [rows.works] });
  await first;
  const second = backends.load();
  assert.deepEqual(backends.known(), { asking: true, rows: [rows.works] });
  open[1](null);
  await second;
  assert.deepEqual(backends.known(), { asking: false, rows: null });
});

test("trying again lets the server forget first, and only once at a time", async () => {
  const { backends, asked, open } = setup();
  const retried = backends.retry();
  await backends.retry();
  await new Promise(setImmediate);
  open[0]({ backends: [rows.missing] });
  await retried;
  assert.deepEqual(asked, ["again", "ask"]);
  assert.deepEqual(backends.known().rows, [rows.missing]);
});

test("of two answers the later question's counts", async () => {
  const { backends, open } = setup();
  const loads = [backends.load(), backends.load()];
  open[1]({ backends: [rows.works] });
  open[0]({ backends: [rows.missing] });
  await Promise.all(loads);
  assert.deepEqual(backends.known().rows, [rows.works]);
});
