import assert from "node:assert/strict";
import { test } from "node:test";

import { advice } from "../../web/panel/advice.js";
import { report } from "../../web/panel/report.js";
import { json, markdown } from "../../web/panel/text.js";
import { describe } from "../../web/status/text.js";
import { chinese, english, record, states } from "./records.mjs";

const of = (status, words = english, bypassed = false) =>
  report(
    { record: status, bypassed, line: describe(status, words, { bypassed }), details: ["From the file."] },
    "OneDiff Compile",
    words,
  );
const section = (status, id) => of(status).sections.find((one) => one.id === id);
const fact = (status, id, name) => section(status, id)?.facts.find(([key]) => key === name)?.[1];

test("a compiled model: gain, cost, blocks, sameness, memory, backend and machine", () => {
  const { compiled } = states;
  assert.equal(of(compiled).line.text, "compiled · 1.62× · 148 ms a compiled step · inductor");
  assert.deepEqual(
    of(compiled).sections.map(({ title }) => title),
    ["Speed", "Blocks", "Same picture?", "Peak memory", "Backend", "Model and machine"],
  );
  assert.equal(fact(compiled, "speed", "Gain"), "1.62× the uncompiled speed");
  assert.equal(fact(compiled, "speed", "Compiling took"), "37 s (from scratch)");
  assert.equal(fact(compiled, "speed", "Earned back after"), "21 pictures");
  assert.equal(fact(compiled, "blocks", "Compiled"), "38 of 38");
  assert.equal(fact(compiled, "parity", "First compiled step"), "the same, within the tolerance");
  assert.equal(fact(compiled, "memory", "Compiled"), "4801 MB");
  assert.equal(fact(compiled, "backend", "Used"), "inductor 2.11.0");
  assert.equal(fact(compiled, "machine", "Versions"), "torch 2.11.0");
  assert.equal(section(compiled, "speed").plot, true);
});

test("a speed report that was noisy says so, whose model it was, and that it was compiled earlier", () => {
  const { noisy } = states;
  assert.equal(fact(noisy, "speed", "Gain"), "1.07×, but noisy: steps differ by more than that");
  assert.equal(fact(noisy, "speed", "Compiling took"), "37 s (in an earlier run)");
  assert.equal(fact(noisy, "machine", "Model"), "sd15.safetensors, UNetModel");
  assert.deepEqual(of(noisy).advice, ["Measure again while nothing else runs on this machine, or with more steps."]);
});

test("findings by severity, each with path, class, place and remedy", () => {
  const { groups } = section(states.findings, "check");
  assert.deepEqual(
    groups.map(({ title }) => title),
    ["2 errors", "1 warning"],
  );
  assert.deepEqual(groups[0].items[0], {
    tone: "bad",
    label: "Error",
    where: "input_blocks.1.1.attn2.processor · AttnProcessor · models/custom.py:12",
    text: "has no forward. nn.Module calls forward.",
    fix: "rename __call__ to forward",
  });
});

test("every uncompiled block, break and recompile is there with its reason, however many", () => {
  const compile = {
    regions: 90,
    regions_compiled: 0,
    regions_uncompiled: Array.from({ length: 90 }, (_, index) => ({ path: `blocks.${index}`, reason: "a hook" })),
    graphs: 2,
    graph_breaks: [{ where: "attention.py:300", reason: "open() cannot be traced" }],
    recompiles: [{ region: "double_blocks.0", reason: "batch size changed from 1 to 2" }],
  };
  const { groups } = section(record({ state: "partial", compile }), "blocks");
  assert.deepEqual(
    groups.map(({ title, items }) => [title, items.length]),
    [
      ["90 blocks run uncompiled", 90],
      ["1 graph break", 1],
      ["1 recompile", 1],
    ],
  );
  assert.deepEqual(groups[2].items[0], { where: "double_blocks.0", text: "batch size changed from 1 to 2" });
});

test("what runs inside compiled blocks: where it comes from, in how many, and how long", () => {
  const operators = [
    { what: "attention override", where: "ComfyUI-KJNodes.nodes:sage", blocks: 9, ms: 1.25 },
    { what: "replacement of attn2", where: "pack:ip", blocks: 1, ms: null },
  ];
  const { compiled } = states;
  const { groups } = section({ ...compiled, compile: { ...compiled.compile, operators } }, "blocks");
  assert.deepEqual(groups, [
    {
      title: "2 functions run uncompiled inside compiled blocks",
      items: [
        { where: "ComfyUI-KJNodes.nodes:sage", text: "attention override in 9 blocks, 1.25 ms a step" },
        { where: "pack:ip", text: "replacement of attn2 in 1 block" },
      ],
    },
  ]);
});

test("what patches attention, and where", () => {
  const { facts, groups } = section(states.patched, "patches");
  assert.deepEqual(facts, [["Computed by", "sdpa at 10 sites"]]);
  assert.equal(groups[0].title, "Where sdpa is used: 10 sites");
  assert.equal(groups[0].items[3].where, "input_blocks.3.1");
});

test("what auto tried, what it took and gained, and why other kernels were not tried", () => {
  const { autoChosen } = states;
  assert.equal(fact(autoChosen, "patches", "Attention"), "2.74× as fast");
  assert.equal(fact(autoChosen, "patches", "A model call"), "1.77× the speed, 310 ms instead of 550 ms (computed)");
  assert.equal(fact(autoChosen, "patches", "Chosen"), "by trying, 0.7 s in the first step (quality: exact)");
  const [tried, others] = section(autoChosen, "patches").groups;
  assert.equal(tried.title, "What auto tried, at 1 size");
  assert.deepEqual(tried.items, [
    {
      where: "input_blocks.1.1.transformer_blocks.0.attn1 · float32 2×8 4096×4096 40",
      text: "ComfyUI: 148 ms, slower; sdpa: 53 ms, error 2.0e-7, taken",
    },
  ]);
  const unfit = "device cpu is not among cuda; dtype float32 is not among bfloat16, float16";
  assert.deepEqual(others.items, [{ where: "sage", text: unfit }]);
  assert.equal(
    fact(states.autoApproximate, "patches", "Chosen"),
    "as an earlier start found (quality: fast)",
  );
});

const tried = (processor, verdict, reason = null, ms = null, error = null) => ({ processor, verdict, reason, ms, error });

/** Two sizes of calls, with a candidate of every kind. */
const choices = [
  {
    site: "a",
    shape: "float16 2×8 4096×4096 40",
    processor: "sdpa",
    candidates: [
      tried("host", "no faster", "slower", 90.2),
      tried("sdpa", "taken", null, 30.4, 1.2e-7),
      tried("flash", "no faster", "no faster", 95.1, 3e-4),
      tried("rough", "wrong", "it is wrong (1.0e-02 from float32)", null, 0.01),
      tried("broken", "wrong", "it gives NaN or Inf"),
      tried("sage", "failed", "it raises RuntimeError: no kernel; image"),
      tried("sage3", "not tried", "the package sageattn3 is not installed: build a from b."),
    ],
  },
  {
    site: "b",
    shape: "float16 2×8 64×64 160",
    processor: null,
    candidates: [
      tried("host", "taken", null, 1.1),
      tried("flash", "not tried", "head size 160 > 128, the most that it supports"),
      tried("sage3", "not tried", "the package sageattn3 is not installed: build a from b."),
    ],
  },
];

test("what was tried and refused is not among what was not tried, and says what came of it", () => {
  const groups = (words) =>
    of(record({ state: "patched", patches: { ...states.autoChosen.patches, choices } }), words)
      .sections.find(({ id }) => id === "patches")
      .groups.slice(0, 2)
      .map(({ items }) => items.map(({ where, text }) => [where, text]));
  assert.deepEqual(groups(english), [
    [
      [
        "a · float16 2×8 4096×4096 40",
        "ComfyUI: 90 ms, slower; sdpa: 30 ms, error 1.2e-7, taken; flash: 95 ms, error 3.0e-4, no faster; " +
          "rough: error 0.01, wrong; broken: gives NaN or Inf; sage: it raises RuntimeError: no kernel; image",
      ],
      ["b · float16 2×8 64×64 160", "ComfyUI: 1.10 ms, taken; flash: head size 160 > 128, the most that it supports"],
    ],
    [["sage3", "the package sageattn3 is not installed: build a from b."]],
  ]);
  const [[[, first], [, second]], [[, missing]]] = groups(chinese);
  for (const word of ["较慢", "误差 1.2e-7, 采用", "并不更快", "结果错误", "NaN 或 Inf", "它抛出 RuntimeError: no kernel; image"])
    assert.ok(first.includes(word), word);
  assert.match(second, /flash：头大小 160 > 128，即它支持的最大值/);
  assert.equal(missing, "未安装软件包 sageattn3：请从 b 构建 a。");
});

test("why a processor of one's own has no gain is said, and what would show it", () => {
  const own = { ...states.patched, patches: { sites: [{ site: "a", processor: "custom/mine:Mine" }], foreign: [], untimed: true } };
  assert.match(fact(own, "patches", "A model call"), /^gain not timed: .* Speed Report measures this one too\.$/);
  assert.equal(fact(states.patched, "patches", "A model call"), undefined);
  const rejected = { ...states.rejected, patches: { ...states.rejected.patches, untimed: true } };
  assert.equal(fact(rejected, "patches", "A model call"), undefined, "what took its place is timed");
});

test("where nothing is gained it says calmly what would gain", () => {
  assert.match(advice(states.autoSame, english)[0], /^Nothing to do: ComfyUI's own attention is the fastest here\. A larger/);
  assert.deepEqual(advice(states.autoChosen, english), ["Nothing to do."]);
});

test("a Speed Report of three ways says what all nodes gain together", () => {
  const { compiled } = states;
  const three = { ...compiled, speed: { ...compiled.speed, without_ms: 480, patch_speedup: 2, total_speedup: 3.24 } };
  assert.equal(fact(three, "speed", "All nodes together"), "3.24× as fast");
  assert.equal(fact(three, "speed", "A step without these nodes"), "480 ms");
  assert.equal(fact(compiled, "speed", "All nodes together"), undefined);
  const computed = { ...three, speed: { ...three.speed, computed: true } };
  assert.equal(fact(computed, "speed", "All nodes together"), "3.24× as fast (computed)");
  assert.equal(fact(computed, "speed", "A step without these nodes"), "480 ms (computed)");
});

test("each state says what to do", () => {
  const said = Object.fromEntries(Object.entries(states).map(([name, status]) => [name, advice(status, english)]));
  assert.match(said.idle[0], /Queue the workflow/);
  assert.deepEqual(said.compiled, ["Nothing to do."]);
  assert.match(said.compiling[0], /^Nothing to do\. The picture/);
  assert.deepEqual(said.findings, [
    "AttnProcessor (custom.py:12): rename __call__ to forward",
    "Out (custom.py:40): rename it",
  ]);
  assert.deepEqual(said.rejected, [
    "SoftCap (softcap.py:16): Join the heads: out.transpose(1, 2).reshape(b, n, heads * dim).",
  ]);
  assert.ok(!JSON.stringify(section(states.rejected, "check").facts).includes("Modules"), "it walked over none");
  assert.match(said.slower[0], /both were timed/);
  assert.match(said.differs[0], /different picture/);
  assert.match(said.uncompiled[0], /do what the reason says/);
  assert.match(said.failed[0], /run uncompiled/);
  assert.match(advice(null, english)[0], /Queue the workflow/);
  assert.match(advice(states.compiled, english, true)[0], /switched off/);
  const idle = record({ state: "idle", backend: { replaced_by: "14" } });
  assert.match(advice(idle, english)[0], /You can remove this one/);
  for (const [name, sentences] of Object.entries(said)) assert.ok(sentences.every(Boolean) && sentences.length, name);
});

test("a node without a record says what else is known of it", () => {
  assert.deepEqual([of(null).advice, of(null).sections], [["From the file."], []]);
  assert.match(of(null, english, true).advice[0], /switched off/);
});

test("Markdown has the same as the panel, and nothing of a model becomes markup or a mention", () => {
  const text = markdown(of(states.findings), english);
  assert.match(text, /^## OneDiff Compile: AttnProcessor: has no forward · 2 errors, 1 warning/);
  assert.match(text, /\n### Check\n\n- \*\*Modules\*\*: 686\n/);
  assert.match(text, /`input_blocks.1.1.attn2.processor · AttnProcessor · models\/custom.py:12`: has no forward\. /);
  assert.match(text, /→ rename \\_\\_call\\_\\_ to forward/);
  const findings = [
    { severity: "error", path: "a`b", what: "<img src=x onerror=alert(1)> @someone [x](y)", fix: null },
  ];
  const hostile = markdown(of(record({ state: "checked", check: { findings } })), english);
  assert.ok(!/[^\\]<img|@someone|[^\\]\[x|a`b/.test(hostile), hostile);
});

test("long lists end in a number in Markdown, for a bug report is read by people", () => {
  const regions_uncompiled = Array.from({ length: 90 }, (_, index) => ({ path: `blocks.${index}`, reason: "off" }));
  const text = markdown(of(record({ state: "partial", compile: { regions_uncompiled } })), english);
  assert.match(text, /blocks\.39/);
  assert.doesNotMatch(text, /blocks\.40/);
  assert.match(text, /… and 50 more\./);
});

test("JSON is the record", () => {
  assert.deepEqual(JSON.parse(json(states.compiled)), states.compiled);
  assert.equal(json(null), "null\n");
});

test("odd values leave gaps, no broken words", () => {
  const odd = record({
    state: "compiled",
    model: "a model",
    backend: 7,
    check: { findings: [null, "text", { severity: 7, path: { a: 1 } }], modules: "many" },
    patches: { sites: "many", foreign: [null, { what: ["x"] }] },
    compile: { regions_uncompiled: 3, graph_breaks: [null, 7], seconds: "soon" },
    speed: { steps_ms: {}, eager_ms: "1", per_second: Infinity },
    parity: { passed: "yes" },
    memory: [],
    machine: { torch: null, backends: { inductor: "2.11.0", x: null } },
    measured_at: "yesterday",
  });
  for (const words of [english, chinese]) {
    const text = markdown(of(odd, words), words);
    assert.doesNotMatch(text, /undefined|null|NaN|\[object|panel\.|advice\./);
    assert.match(text, /inductor 2\.11\.0/);
  }
});

test("Chinese has words for every title, fact and advice", () => {
  for (const [name, status] of Object.entries(states)) {
    const { sections, advice: said } = of(status, chinese);
    for (const { title, facts } of sections) {
      assert.match(title, /[\u4e00-\u9fff]/, name);
      for (const [key] of facts) assert.match(key, /[\u4e00-\u9fff]/, `${name}: ${key}`);
    }
    if (!["uncompiled", "findings", "patchedOddly", "rejected"].includes(name)) assert.match(said[0], /[\u4e00-\u9fff]/, name);
  }
});

test("a run that stopped, and a node without effect, read the same in the panel and in Markdown", () => {
  const stopped = of(states.stoppedAt);
  assert.match(markdown(stopped, english), /^## OneDiff Compile: stopped at 1\/17 · goes on with the next new picture\n\n> Nothing to do/);
  assert.equal(fact(states.stoppedAt, "blocks", "Compiled"), "1 of 17");
  const background = /: compiling in the background · used from the next picture\n\n> Nothing to do: the compiler goes on/;
  assert.match(markdown(of(states.inBackground), english), background);
  const around = markdown(of(states.calledAround), english);
  assert.match(around, /^## OneDiff Compile: no effect: “DeepCache” runs in the model's place\n\n> “DeepCache” computes/);
  assert.match(markdown(of(states.patchOverridden), english), /\*\*Called at\*\*: 0 of 1/);
  assert.match(markdown(of(states.notUsed, chinese), chinese), /未被使用/);
});

test("blocks that the model does not call have a list of their own", () => {
  const compile = { ...states.compiled.compile, regions_not_called: ["pulid_ca.0", "pulid_ca.1"] };
  const { groups } = section({ ...states.compiled, compile }, "blocks");
  assert.deepEqual(groups.map(({ title, items }) => [title, items[0].where]), [["2 blocks not called by the model", "pulid_ca.0"]]);
});
