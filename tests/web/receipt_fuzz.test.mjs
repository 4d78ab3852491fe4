// Whatever a workflow file has in the place of a receipt: it is read, or left alone, and never breaks the page.

import assert from "node:assert/strict";
import { test } from "node:test";

import { describeReceipt, readReceipt, receiptDetails } from "../../web/receipt/receipt.js";
import { details } from "../../web/status/details.js";
import { english } from "./records.mjs";

const TRIES = Number(process.env.ONEDIFF_FUZZ ?? 5000);

/** Numbers from 0 to 1, the same ones each time (mulberry32). */
function numbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let value = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296;
  };
}

const GOOD = {
  summary: "compiled · inductor · 1.62× · 38 blocks",
  speed: { eager_ms: 240, compiled_ms: 148, speedup: 1.62, kept: "compiled", steps_ms: [240, 148], unit: "step" },
  parity: { max_abs: 1e-4, relative: 1e-5, cosine: 1, tolerance: 1e-3, passed: true },
  machine: { comfyui: "0.30.0", torch: "2.11.0", device: "NVIDIA H200" },
  measured_at: "2026-11-29T10:00:00+00:00",
};
const LEAVES = [
  ...[null, true, false, 0, -1, 1e308, -0, 1e-300, "", "1", "a".repeat(1000), "\u202e\u0007<img src=x>", "__proto__"],
  ...["2026-13-45", "0000-01-01T00:00:00Z", "9999999999999", [], {}, [[]], "compiled", "run", "${1}", "{by}", "\ud800"],
];

function anything(random, depth = 0) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  if (depth > 4 || random() < 0.5) return pick(LEAVES);
  const size = Math.floor(random() * 5);
  if (random() < 0.5) return Array.from({ length: size }, () => anything(random, depth + 1));
  const names = [...Object.keys(GOOD), ...Object.keys(GOOD.speed), "toString", "__proto__", "constructor", "length"];
  return Object.fromEntries(Array.from({ length: size }, () => [pick(names), anything(random, depth + 1)]));
}

/** The good one with some values replaced, or anything. */
function changed(random) {
  if (random() < 0.2) return anything(random);
  const copy = structuredClone(GOOD);
  for (let count = 1 + random() * 4; count > 0; count--) {
    const at = random() < 0.5 ? copy : Object.values(copy)[Math.floor(random() * 5)];
    if (typeof at !== "object" || at === null) continue;
    const names = Object.keys(at);
    if (names.length) at[names[Math.floor(random() * names.length)]] = anything(random);
  }
  return copy;
}

const words = (text) => {
  assert.equal(typeof text, "string");
  assert.ok(text.length < 1000, text.length);
  assert.doesNotMatch(text, /NaN|undefined|Infinity|\[object|[\u0000-\u001f\u202a-\u202e]/, text);
};

test("whatever stands in a file is read, bounded and said in words, or left alone", () => {
  const random = numbers(26);
  let read = 0;
  for (let i = 0; i < TRIES; i++) {
    const value = changed(random);
    const receipt = readReceipt(value);
    if (receipt === null) continue;
    read++;
    const text = JSON.stringify(receipt);
    assert.equal(JSON.stringify(readReceipt(JSON.parse(text))), text, "what is read reads the same again");
    assert.ok(text.length < 3000);
    for (const mine of [true, false]) {
      const line = describeReceipt(receipt, english, mine);
      words(line.text);
      for (const text of receiptDetails(receipt, english, mine, details)) words(text);
    }
  }
  assert.ok(read > TRIES / 2, `${read} of ${TRIES} were read`);
});
