import assert from "node:assert/strict";
import { test } from "node:test";

import { details } from "../../web/status/details.js";
import { english, record, states } from "./records.mjs";

test("a compiled model: what ran, what it gained, and how exact it is", () => {
  const said = details(states.compiled, english);
  assert.deepEqual(said.slice(0, 6), [
    "Model: UNetModel, 860 M parameters, float16, cuda:0.",
    "Backend: inductor 2.11.0. The only backend that works on this machine.",
    "38 of 38 blocks run compiled. Graphs: 17; graph breaks: 0; recompiles: 0. Compiling took 37 s.",
    "A step takes 240 ms uncompiled. A step takes 148 ms compiled. That is 1.62× the speed. The time spent on compiling is earned back after 21 pictures.",
    "Compiled blocks differ from uncompiled ones by 1.2e-6; up to 0.001 is allowed.",
    "Peak memory: 5012 MB uncompiled, 4801 MB compiled.",
  ]);
  assert.match(said[6], /^Measured .+ on NVIDIA H100\.$/);
});

test("another backend than the one asked for is said, with the reason", () => {
  const backend = { requested: "oneflow", used: "inductor", version: null, reason: "oneflow is not installed." };
  assert.deepEqual(details(record({ state: "compiled", backend }), english), [
    "Backend: inductor, not oneflow as asked for. oneflow is not installed.",
  ]);
});

test("findings: worst first, with path, place and remedy", () => {
  assert.deepEqual(details(states.findings, english), [
    "Checked 686 modules and 32 attention sites: 2 errors, 1 warning.",
    "Error · input_blocks.1.1.attn2.processor (AttnProcessor, models/custom.py:12): has no forward. nn.Module calls forward. rename __call__ to forward.",
    "Error · input_blocks.2.1.attn2.processor (AttnProcessor, models/custom.py:12): has no forward.",
    "Warning · out (Out, models/custom.py:40): overrides __call__. compilers call forward. rename it.",
  ]);
});

test("each block that runs uncompiled is named with its reason", () => {
  const said = details(states.partial, english);
  assert.ok(said.includes("Runs uncompiled · middle_block.1: another node patches it."));
  assert.ok(said.includes("Runs uncompiled · out.0: AttnProcessor has no forward."));
});

test("breaks and recompiles are told with their reasons", () => {
  const compile = {
    graphs: 2,
    graph_breaks: [{ where: "attention.py:300", reason: "open() cannot be traced" }],
    recompiles: [{ region: "double_blocks.0", reason: "batch size changed from 1 to 2" }],
  };
  assert.deepEqual(details(record({ state: "compiled", compile }), english), [
    "Graphs: 2; graph breaks: 1; recompiles: 1.",
    "Graph break · attention.py:300: open() cannot be traced.",
    "Recompiled · double_blocks.0: batch size changed from 1 to 2.",
  ]);
});

test("patches: which processor at how many sites, and who else is there", () => {
  const patches = {
    sites: [
      { site: "a", processor: "sdpa" },
      { site: "b", processor: "sdpa" },
      { site: "c", processor: "reference" },
    ],
    foreign: ["an override of another node", { what: "attn2 replacement", where: "middle_block.1" }],
  };
  assert.deepEqual(details(record({ state: "patched", patches }), english), [
    "sdpa computes attention at 2 sites.",
    "reference computes attention at 1 site.",
    "Also acts on attention: an override of another node.",
    "Also acts on attention: attn2 replacement, middle_block.1.",
  ]);
});

test("a result outside the tolerance says by how much", () => {
  assert.ok(
    details(states.differs, english).includes(
      "Compiled blocks differ from uncompiled ones by 0.4, more than the 0.01 that is allowed.",
    ),
  );
  assert.ok(
    details(
      record({ state: "uncompiled", parity: { relative: null, tolerance: 0.01, passed: false } }),
      english,
    ).includes("A compiled block gave a different result from an uncompiled one."),
  );
});

test("no backend: the reason stands behind it", () => {
  assert.deepEqual(details(states.uncompiled, english), [
    "No backend is in use (auto was asked for). no C++ compiler was found",
  ]);
});

test("a long list ends in a number, for a tooltip cannot be scrolled", () => {
  const regions_uncompiled = Array.from({ length: 38 }, (_, index) => ({ path: `blocks.${index}`, reason: "off" }));
  const said = details(record({ state: "uncompiled", compile: { regions_uncompiled } }), english);
  assert.equal(said.length, 6);
  assert.equal(said[5], "… and 33 more.");
});

test("nothing known, and odd values, still read as sentences", () => {
  assert.match(details(null, english)[0], /Queue the workflow/);
  const odd = record({
    state: "compiled",
    check: { findings: [null, "text", { severity: 7 }] },
    patches: { sites: "many", foreign: null },
    compile: { regions_uncompiled: 3, graph_breaks: 0, seconds: "soon" },
    speed: { eager_ms: null },
    parity: { passed: "yes" },
    measured_at: "yesterday",
  });
  for (const line of details(odd, english)) assert.doesNotMatch(line, /undefined|null|NaN|object/);
});

test("a run that stopped says how far it came, and an unused node who took its place and where that is from", () => {
  const said = details(states.stoppedAt, english).join("\n");
  assert.match(said, /The run ended when 1 of 17 blocks were ready\. The others are compiled with the next new picture\./);
  assert.doesNotMatch(said, /run compiled/);
  assert.match(details(states.stoppedEarly, english).join("\n"), /ended before anything was compiled/);
  assert.match(details(states.inBackground, english).join("\n"), /compiler, which works in the background/);
  assert.doesNotMatch(details(states.inBackground, english).join("\n"), /The run ended/);
  assert.equal(details(states.calledAround, english)[0], "“DeepCache” runs in the model's place.");
  assert.match(details(states.calledAround, english)[1], /ComfyUI-deepcache\.DeepCache:DeepCache\.apply/);
  assert.doesNotMatch(details(states.calledAround, english).join("\n"), /blocks run compiled/);
});

test("blocks that the model does not call are counted apart", () => {
  const compile = { regions: 19, regions_compiled: 19, regions_uncompiled: [], regions_not_called: ["pulid_ca.0"] };
  const said = details(record({ state: "compiled", compile }), english).join(" ");
  assert.match(said, /19 of 19 blocks run compiled\. 1 block was not called by the model\./);
});
