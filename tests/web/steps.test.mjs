import assert from "node:assert/strict";
import { test } from "node:test";

import { bars, ceiling, steps, ticks } from "../../web/status/steps.js";
import { record, states } from "./records.mjs";

const of = (kind, ...times) => times.map((ms) => ({ ms, kind }));

test("steps come with how they were run", () => {
  assert.deepEqual(steps(states.compiled).slice(0, 3), [
    { ms: 251.3, kind: "uncompiled" },
    { ms: 41_032.6, kind: "compiling" },
    { ms: 148.1, kind: "compiled" },
  ]);
});

test("a plain list of numbers, as older servers send it, still is a plot", () => {
  assert.deepEqual(steps(record({ speed: { steps_ms: [3, 4] } })), of("unknown", 3, 4));
  assert.deepEqual(steps(record({ speed: { steps_ms: [3, 4], steps_kind: ["compiled", "<b>"] } })), [
    { ms: 3, kind: "compiled" },
    { ms: 4, kind: "unknown" },
  ]);
});

test("steps of another size than the last are told apart, and do not make the scale", () => {
  const speed = { steps_ms: [900, 900, 100, 120], steps_kind: [], steps_size: ["1×4×128×128", "1×4×128×128", "1×4×64×64", "1×4×64×64"] };
  const shown = steps(record({ speed }));
  assert.deepEqual(
    shown.map(({ other }) => Boolean(other)),
    [true, true, false, false],
  );
  assert.equal(ceiling(shown), 120);
  const drawn = bars(shown, { width: 40, height: 10 });
  assert.deepEqual(
    drawn.map(({ other, cut }) => [Boolean(other), cut]),
    [
      [true, true],
      [true, true],
      [false, false],
      [false, false],
    ],
  );
});

test("what is no time is no step", () => {
  assert.deepEqual(steps(record({ speed: { steps_ms: [1, null, "2", NaN, -3, 4] } })), of("unknown", 1, 4));
  assert.deepEqual(steps(record({ speed: { steps_ms: "many" } })), []);
  assert.deepEqual(steps(null), []);
});

test("no more than the last forty", () => {
  const many = steps(record({ speed: { steps_ms: Array.from({ length: 100 }, (_, index) => index) } }));
  assert.equal(many.length, 40);
  assert.equal(many[39].ms, 99);
});

test("steps that compiled do not flatten the others", () => {
  assert.equal(ceiling([...of("uncompiled", 240), ...of("compiling", 41_000), ...of("compiled", 148)]), 240);
  assert.equal(ceiling(of("compiling", 41_000)), 41_000);
  assert.equal(ceiling([]), 0);
});

test("one disturbed step is cut off, not the scale", () => {
  const shown = of("compiled", 100, 100, 100, 5000);
  assert.equal(ceiling(shown), 300);
  const drawn = bars(shown, { width: 400, height: 10 });
  assert.deepEqual(
    drawn.map(({ cut }) => cut),
    [false, false, false, true],
  );
  assert.equal(drawn[3].height, 10);
});

test("bars fill the plot from the right, stand on its floor and stay inside", () => {
  const drawn = bars(of("compiled", 50, 100, 0), { width: 100, height: 10, slots: 10, gap: 2 });
  assert.deepEqual(
    drawn.map(({ x, y, width, height }) => [x, y, width, height]),
    [
      [71, 5, 8, 5],
      [81, 0, 8, 10],
      [91, 9, 8, 1],
    ],
  );
  const full = bars(of("compiled", ...Array(99).fill(7)), { width: 200, height: 10 });
  assert.equal(full.length, 40);
  assert.ok(full[0].x >= 0 && full[39].x + full[39].width <= 200);
});

test("an axis has round numbers that reach the top", () => {
  assert.deepEqual(ticks(148), [0, 50, 100, 150]);
  assert.deepEqual(ticks(240), [0, 100, 200, 300]);
  assert.deepEqual(ticks(0.42), [0, 0.2, 0.4, 0.6]);
  for (const odd of [0, -1, NaN, Infinity]) assert.deepEqual(ticks(odd), [0]);
  for (let top = 0.013; top < 1e6; top *= 1.37) {
    const axis = ticks(top);
    assert.ok(axis[axis.length - 1] >= top && axis.length <= 6, String(top));
  }
});
