import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as nodeIds from "../../web/node_ids.js";
import { advice } from "../../web/panel/advice.js";
import { details } from "../../web/status/details.js";
import { describe } from "../../web/status/text.js";
import { chinese, english, record, states } from "./records.mjs";

const line = (name, at) => {
  const { symbol, text } = describe(states[name], english, at);
  return `${symbol} ${text}`;
};

test("there is a record for each state that the server knows", () => {
  const source = readFileSync(new URL("../../status/record.py", import.meta.url), "utf8");
  const known = [...source.match(/STATES = \(([^)]*)\)/)[1].matchAll(/"(\w+)"/g)].map(([, state]) => state);
  assert.deepEqual([...new Set(Object.values(states).map(({ state }) => state))].sort(), known.sort());
});

test("the ids of the nodes are those that the server has", () => {
  const source = readFileSync(new URL("../../node_ids.py", import.meta.url), "utf8");
  const known = Object.fromEntries([...source.matchAll(/^(\w+) = "(\w+)"$/gm)].map(([, name, id]) => [name, id]));
  const { NODES, ...named } = nodeIds;
  assert.deepEqual(named, known);
  const { LOAD_PROCESSOR, IP_ADAPTER, ...withLine } = known;
  assert.deepEqual([...NODES], Object.values(withLine));
});

test("what all nodes gain together comes before its parts, where the patch gains something", () => {
  const { compiled } = states;
  const line = (speed) => describe({ ...compiled, speed: { ...compiled.speed, ...speed } }, english).text;
  assert.equal(
    line({ patch_speedup: 1.75, total_speedup: 2.84, computed: false }),
    "compiled · 2.84× together · attention 1.75×, compiled 1.62× · 148 ms a compiled step · inductor",
  );
  assert.match(line({ patch_speedup: 1.75, total_speedup: 2.84, computed: true }), /^compiled · about 2\.84× together/);
  assert.equal(line({ patch_speedup: 1.01, total_speedup: 1.64 }), describe(compiled, english).text);
  const unclear = line({ patch_speedup: 1.75, total_speedup: 2.8, verdict: null, pairs: 3 });
  assert.match(unclear, /not clear yet/, "no figure while it is not clear");
});

test("each state reads as a person would say it", () => {
  const read = Object.fromEntries(Object.keys(states).map((name) => [name, line(name)]));
  assert.deepEqual(read, {
    idle: "○ not run yet",
    patched: "✓ 10 sites patched · sdpa",
    autoDeciding: "○ auto: chooses in the first step",
    autoChosen: "✓ 32 sites patched · auto: sdpa · attention 2.74×",
    autoApproximate: "✓ 1 site patched · auto: sage · attention 1.90× · error 3.1 %",
    autoSame: "= auto: no gain · nothing was replaced",
    autoLeft: "= auto: left alone · another node's attention stays",
    autoUntried: "= auto: nothing tried · nothing was replaced",
    patchedOddly: "! 1 warning · sdpa",
    rejected:
      "✗ SoftCap not used · returns a result of shape (2, 256, 80) instead of (2, 256, 320) · sdpa instead · softcap.py:16",
    checked: "✓ no problems · 686 modules",
    passed: "○ not accelerated yet; the picture is right",
    findings: "✗ AttnProcessor: has no forward · 2 errors, 1 warning",
    starting: "… starting the compiler",
    checking: "… checking 412/686 · middle_block.1",
    compiling: "… compiling 7/38 · 12 s · input_blocks.1.0",
    measuring: "… measuring",
    compiled: "▲ compiled · 1.62× · 148 ms a compiled step · inductor",
    partial: "◐ partly compiled 36/38 · 1.40× · 171 ms a compiled step · inductor",
    byChoice: "▲ compiled 36/38 · 1.40× · 171 ms a compiled step · inductor",
    stoppedAt: "◐ stopped at 1/17 · goes on with the next new picture",
    stoppedEarly: "◐ stopped · goes on with the next new picture",
    inBackground: "◐ compiling in the background · used from the next picture",
    notUsed: "▽ not used: nothing sampled this model",
    patchNotUsed: "▽ not used: nothing sampled this model",
    calledAround: "▽ no effect: “DeepCache” runs in the model's place",
    patchCalledAround: "▽ no effect: the model was not called as ComfyUI calls it",
    patchOverridden: "▽ no effect: “SageAttention” computes attention instead",
    patchInPart: "◐ 1 of 4 sites patched · the others: “AttentionCouple”",
    held: "… a call has not returned · 45 s · slow.py:12: Cancel, or wait",
    heldCancelled: "… Cancel cannot end it · 3 s · slow.py:12: restart ComfyUI, or wait",
    slower: "▽ off: compiled is 9 % slower · 3.00 s an uncompiled step",
    noGain: "= compiled, no gain · 1.01× · 149 ms a compiled step · inductor",
    noisy: "✓ compiled · noisy, no clear difference · 140 ms a compiled step · inductor",
    unclear: "▽ uncompiled · no clear gain (16 comparisons)",
    patchAlone: "▽ about 1.63× from attention · compiling gains nothing here",
    bothGain: "▲ compiled · about 2.84× together · attention 1.75×, compiled 1.62× · 148 ms a compiled step · inductor",
    differs: "▽ uncompiled · result differs too much",
    uncompiled: "▽ uncompiled · no C++ compiler was found",
    failed: "✗ failed · AttnProcessor has no forward",
  });
});

test("whose attention runs inside compiled blocks is said, unless it is ComfyUI's own", () => {
  const under = (...places) => {
    const operators = places.map((where) => ({ what: "attention override", where, blocks: 9, ms: 1.3 }));
    const { compiled } = states;
    return describe({ ...compiled, compile: { ...compiled.compile, operators } }, english).text;
  };
  const plain = "compiled · 1.62× · 148 ms a compiled step · inductor";
  const kj = "ComfyUI-KJNodes.nodes.model_optimization_nodes:sage";
  assert.equal(under(kj), "compiled · 1.62× · 148 ms a compiled step · with attention from KJNodes · inductor");
  assert.match(under(kj, "ComfyUI_IPAdapter_plus.CrossAttentionPatch:Attn2Replace"), /from KJNodes, IPAdapter_plus ·/);
  assert.equal(under("comfy.model_patcher:ModelAttentionBackend", "comfy_extras.nodes_pag:perturbed"), plain);
  assert.equal(under(null), plain);
});

test("a node that never ran, and one that is switched off, say so", () => {
  assert.equal(describe(null, english).text, "not run yet");
  assert.equal(line("compiled", { bypassed: true }), "– switched off");
});

test("states differ by their symbol, not only by colour", () => {
  const outcomes = ["idle", "checked", "patchedOddly", "compiling", "compiled", "partial", "uncompiled", "failed"];
  assert.equal(new Set(outcomes.map((name) => describe(states[name], english).symbol)).size, outcomes.length);
});

test("what the server calls no gain does not look like one, whatever the figure is", () => {
  const at = (speedup, verdict) => {
    const { symbol, tone, text } = describe(record({ state: "compiled", speed: { speedup, verdict } }), english);
    return [symbol, tone, text];
  };
  assert.deepEqual(at(1.2, "same"), ["=", "plain", "compiled, no gain · 1.20×"]);
  assert.deepEqual(at(1.01, "faster"), ["▲", "good", "compiled · 1.01×"]);
  assert.deepEqual(at(0.99, "slower"), ["▼", "warn", "compiled, but slower · 0.99×"]);
});

test("figures without a verdict, of an earlier version, are shown without one", () => {
  const compiled = describe(record({ state: "compiled", speed: { speedup: 0.7, compiled_ms: 100 } }), english);
  assert.deepEqual([compiled.symbol, compiled.tone], ["✓", "plain"]);
  assert.equal(compiled.text, "compiled · 0.70× · 100 ms a compiled step");
  const speed = { eager_ms: 70, compiled_ms: 100, speedup: 0.7, kept: "uncompiled" };
  const summary = "uncompiled: compiled steps took 43 % longer";
  const { text } = describe(record({ state: "uncompiled", summary, speed }), english);
  assert.equal(text, "uncompiled · compiled steps took 43 % longer", "the server's own words then");
});

test("before steps were compared, or while they differ more than the ways do, nothing is green", () => {
  const at = (speed) => {
    const { symbol, text } = describe({ ...states.compiled, speed }, english);
    return `${symbol} ${text}`;
  };
  assert.equal(at({ compiled_ms: 2250, speedup: null, verdict: null, pairs: 0 }), "✓ compiled · 2.25 s a compiled step · inductor");
  const unclear = { compiled_ms: 2250, speedup: 1.22, verdict: null, pairs: 3 };
  assert.equal(at(unclear), "✓ compiled · not clear yet (3 comparisons) · 2.25 s a compiled step · inductor");
  assert.equal(at({ ...unclear, pairs: 1 }), "✓ compiled · not clear yet (1 comparison) · 2.25 s a compiled step · inductor");
});

test("uncompiled by a hair is no gain and no warning", () => {
  const speed = { eager_ms: 100, compiled_ms: 102, speedup: 0.98, verdict: "same", kept: "uncompiled", clear: true };
  const backend = { used: "inductor", reason: "compiled, it took longer than uncompiled." };
  const kept = record({ state: "uncompiled", backend, speed });
  assert.equal(describe(kept, english).text, "uncompiled · compiled, it took longer than uncompiled.");
  assert.equal(describe(kept, english).tone, "plain");
  assert.deepEqual(advice(kept, english), [english("advice.unclear")]);
});

test("that no gain was seen is no warning, other reasons are", () => {
  assert.equal(describe(states.unclear, english).tone, "plain");
  assert.deepEqual(advice(states.unclear, english), [english("advice.unclear")]);
  assert.equal(describe(states.uncompiled, english).tone, "warn");
  const alsoDiffers = { ...states.unclear, parity: states.differs.parity }; // one block, which was left out
  assert.equal(describe(alsoDiffers, english).text, describe(states.unclear, english).text);
  assert.deepEqual(advice(alsoDiffers, english), [english("advice.unclear")]);
  const nowhere = { regions: 2, regions_compiled: 0, regions_uncompiled: [], regions_without_gain: 2 };
  const left = record({ state: "uncompiled", summary: "uncompiled: not worth it", compile: nowhere });
  assert.equal(describe(left, english).tone, "plain");
  assert.deepEqual(advice(left, english), [english("advice.no_gain_here")]);
});

test("blocks left out because they gain nothing are no warning, other ones beside them are", () => {
  assert.equal(describe(states.byChoice, english).tone, "good");
  assert.deepEqual(advice(states.byChoice, english), [english("advice.by_choice")]);
  const { compile } = states.byChoice;
  const also = { ...compile, regions_uncompiled: [...compile.regions_uncompiled, { path: "out", reason: "a hook is on it" }] };
  const mixed = { ...states.byChoice, compile: also };
  assert.deepEqual([describe(mixed, english).symbol, describe(mixed, english).tone], ["◐", "warn"]);
  assert.deepEqual(advice(mixed, english), [english("advice.partial")]);
  const same = { ...states.byChoice, speed: { speedup: 1.01, verdict: "same" } };
  assert.equal(describe(same, english).text, "compiled, no gain · 1.01× · inductor");
  const slower = { ...states.byChoice, speed: { speedup: 0.9, verdict: "slower" } };
  assert.equal(describe(slower, english).tone, "warn");
  assert.deepEqual(advice(slower, english), [english("advice.still_timed")]);
  const always = record({ state: "compiled", speed: { speedup: 0.9, verdict: "slower", kept: "compiled" } });
  assert.deepEqual(advice(always, english), [english("advice.compiled_slower")]);
  assert.deepEqual(advice({ ...always, speed: { speedup: 0.9, verdict: "slower" } }, english), [english("advice.still_timed")]);
});

test("a failed check names class and fault first", () => {
  const failed = record({ state: "failed", summary: "failed: other", check: states.findings.check });
  assert.equal(describe(failed, english).text, "failed · AttnProcessor: has no forward");
});

test("elapsed time runs on between two messages of the server", () => {
  assert.match(line("compiling", { age: 3.9 }), / 16 s /);
  assert.match(line("compiling", { age: 63 }), / 1 min 15 s /);
  assert.doesNotMatch(line("checking"), / s /);
});

test("uncompiled and much faster reads as a factor", () => {
  const speed = { eager_ms: 279, compiled_ms: 2324, verdict: "slower", kept: "uncompiled" };
  assert.equal(
    describe(record({ state: "uncompiled", speed }), english).text,
    "off: compiled is 8.33× slower · 279 ms an uncompiled step",
  );
});

test("a node that has run before anything was sampled waits for the sampler", () => {
  assert.equal(
    describe(record({ state: "idle", compile: { regions: 15, regions_compiled: 0 } }), english).text,
    "waiting for the sampler",
  );
});

test("the first of two Compile nodes in a row does not wait for a sampler that never asks it", () => {
  const idle = { state: "idle", compile: { regions: 15 } };
  assert.equal(
    describe(record({ ...idle, backend: { used: "inductor", replaced_by: "14" } }), english).text,
    "left to a later Compile node",
  );
  assert.equal(
    describe(record({ ...idle, backend: { used: "inductor", replaced_by: null } }), english).text,
    "waiting for the sampler",
  );
});

test("kept compiled although slower does not look like a gain", () => {
  const { symbol, tone, text } = describe(
    record({ state: "compiled", speed: { speedup: 0.91, verdict: "slower", compiled_ms: 110, kept: "compiled" } }),
    english,
  );
  assert.equal(`${symbol} ${text}`, "▼ compiled, but slower · 0.91× · 110 ms a compiled step");
  assert.equal(tone, "warn");
});

test("the short line keeps the state, and the gain where there is one", () => {
  const short = (name) => {
    const { parts, short } = describe(states[name], english);
    return parts.slice(0, short ?? 1).map(({ text }) => text);
  };
  assert.deepEqual(short("compiled"), ["compiled", "1.62×"]);
  assert.deepEqual(short("compiling"), ["compiling 7/38"]);
  assert.deepEqual(short("uncompiled"), ["uncompiled"]);
});

test("only the last words of a line may be shortened, so figures are whole or absent", () => {
  for (const [name, status] of Object.entries(states)) {
    const { parts } = describe(status, english);
    const elastic = parts.findIndex((part) => part.elastic);
    assert.ok(elastic === -1 || elastic === parts.length - 1, name);
  }
  assert.deepEqual(
    describe(states.compiled, english).parts.some((part) => part.elastic),
    false,
  );
});

test("what the server leaves out leaves no gap", () => {
  assert.equal(describe(record({ state: "compiled" }), english).text, "compiled");
  assert.equal(describe(record({ state: "partial", compile: { regions: 38 } }), english).text, "partly compiled");
  assert.equal(describe(record({ state: "uncompiled" }), english).text, "uncompiled");
  assert.equal(describe(record({ state: "failed", summary: "failed" }), english).text, "failed");
  assert.equal(describe(record({ state: "checked" }), english).text, "no problems");
  assert.equal(describe(record({ state: "patched" }), english).text, "no site patched");
  assert.equal(
    describe(record({ state: "compiled", speed: { speedup: null, compiled_ms: "fast" } }), english).text,
    "compiled",
  );
});

test("regions may come as a number or as a list", () => {
  const compile = { regions: ["a", "b", "c"], regions_compiled: ["a"], regions_uncompiled: [] };
  assert.equal(describe(record({ state: "partial", compile }), english).text, "partly compiled 1/3");
});

test("without a summary the reason comes from what did not compile, then from the backend", () => {
  const left = { regions_uncompiled: [{ path: "out", reason: "a hook is on it" }] };
  assert.equal(describe(record({ state: "uncompiled", compile: left }), english).text, "uncompiled · a hook is on it");
  assert.equal(
    describe(record({ state: "uncompiled", backend: { used: null, reason: "onediff is not installed" } }), english)
      .text,
    "uncompiled · onediff is not installed",
  );
});

test("a state of a newer server shows the server's own words", () => {
  assert.equal(
    describe(record({ state: "quantised", summary: "quantised · 8 bit" }), english).text,
    "quantised · 8 bit",
  );
});

test("text of the server stays one line of printable length", () => {
  const { text } = describe(
    record({ state: "failed", summary: `failed: a\n  b\u0000c\u202e${"x".repeat(5000)}` }),
    english,
  );
  assert.match(text, /^failed · a b c x+…$/);
  assert.ok(text.length < 450);
});

test("Chinese has words for every state", () => {
  assert.equal(describe(states.compiled, chinese).text, "已编译 · 1.62× · 编译后每步 148 毫秒 · inductor");
  assert.equal(describe(states.findings, chinese).text, "AttnProcessor: has no forward · 2 个错误，1 个警告");
  for (const name of [
    "idle",
    "patched",
    "checked",
    "checking",
    "compiling",
    "measuring",
    "compiled",
    "partial",
    "slower",
    "differs",
    "uncompiled",
    "failed",
  ]) {
    assert.match(describe(states[name], chinese).parts[0].text, /[\u4e00-\u9fff]/, name);
  }
});

test("a run that stopped is no choice and no trouble; while it goes on it is live again", () => {
  assert.equal(describe(states.stoppedAt, english).tone, "plain");
  assert.equal(describe({ ...states.compiling, compile: states.stoppedAt.compile }, english).symbol, "…");
  assert.equal(describe({ ...states.compiled, compile: { ...states.compiled.compile, stopped: null } }, english).symbol, "▲");
  assert.match(advice(states.stoppedAt, english)[0], /goes on where this one stopped/);
  assert.match(describe(states.stoppedAt, chinese).text, /^停在 1\/17 · /);
});

test("what to do about a node without effect names the one that took its place", () => {
  assert.match(advice(states.calledAround, english)[0], /^“DeepCache” computes the model in its own way/);
  assert.match(advice(states.patchNotUsed, english)[0], /directly before the sampler/);
  assert.equal(describe({ ...states.patched, unused: { why: "of a newer server" } }, english).symbol, "▽");
  const reasons = ["strength", "weight", "range", "mask", "no step"].map((because) => ({ why: "adds nothing", because }));
  const lines = reasons.map((unused) => describe({ ...states.patched, unused }, english));
  assert.deepEqual(new Set(lines.map(({ symbol, tone }) => `${symbol} ${tone}`)), new Set(["▽ warn"]));
  assert.match(lines[3].text, /^no effect: the mask is black/);
  assert.match(lines[4].text, /^no effect: no step lies between start_percent and end_percent/);
  assert.match(describe({ ...states.patched, unused: reasons[0] }, chinese).text, /文件的 strength 为 0/);
  assert.equal(describe({ ...states.compiling, unused: states.notUsed.unused }, english).symbol, "…", "a new run");
  assert.equal(describe({ ...states.failed, unused: states.notUsed.unused }, english).symbol, "✗");
});

test("a node that took part in some of the steps says in how many, before what it gained", () => {
  const unused = { why: "some steps", steps: 1, of: 12, by: "DeepCache", where: "deepcache:DeepCache.apply" };
  for (const state of [states.compiled, states.patched]) {
    const line = describe({ ...state, unused }, english);
    assert.equal(line.symbol, "◐");
    assert.equal(line.tone, "warn");
    assert.equal(line.parts[0].text, "took part in 1 of 12 steps");
  }
  assert.equal(describe({ ...states.compiling, unused }, english).symbol, "…");
  assert.match(describe({ ...states.compiled, unused }, chinese).text, /^参与了 12 步中的 1 步/);
  assert.equal(details({ ...states.compiled, unused }, english)[0], "it took part in 1 of 12 steps; “DeepCache” did the others.");
});

test("what attention gains is said where it is not clear what compiling does, and where that is left out", () => {
  const gain = { patch_speedup: 1.63, total_speedup: 1.63 };
  const line = (/** @type {any} */ state) => describe({ ...state, speed: { ...state.speed, ...gain } }, english).text;
  assert.equal(
    line(states.noisy),
    "compiled · 1.63× from attention · noisy, no clear difference · 140 ms a compiled step · inductor",
  );
  assert.equal(line(states.unclear), "1.63× from attention · uncompiled: no clear gain (16 comparisons)");
  assert.equal(line(states.slower), "1.63× from attention · off: compiled is 9 % slower");
});

test("a black picture comes first", () => {
  for (const state of [states.patched, states.compiled]) {
    const line = describe({ ...state, not_finite: true }, english);
    assert.deepEqual([line.symbol, line.tone], ["✗", "bad"]);
    assert.match(line.text, /^black picture: NaN or Inf/);
  }
  assert.match(describe({ ...states.patched, not_finite: true }, chinese).text, /^黑图/);
});

test("that steps leave blocks out stands behind the state, in the tooltip too", () => {
  const approximate = { by: "DeepCache", off: 0.0312, steps: 13, of: 20 };
  const line = (/** @type {any} */ fields, words = english) => describe({ ...states.compiled, ...fields }, words).text;
  assert.match(line({ approximate }), /^compiled · approximate, steps 3 % off · 1\.62×/);
  assert.match(line({ approximate: { ...approximate, off: 0.0031 } }), /approximate, steps 0\.3 % off/);
  assert.match(line({ approximate: { ...approximate, off: null } }), /^compiled · approximate · /);
  assert.match(line({ approximate }, chinese), / · 近似结果，每步偏差 3 % · /);
  assert.equal(line({ approximate: { ...approximate, steps: 0 } }), line({}), "no step did");
  const told = details({ ...states.compiled, approximate }, english).join("\n");
  assert.match(told, /DeepCache left the deep blocks out in 13 of 20 steps/);
  assert.match(told, /in such a step is about 3 % off the exact one\. How far the picture is off is not known\./);
});
