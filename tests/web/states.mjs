// Records as the server sends them, one for each state. The browser tests read this file too, so it imports nothing.

export const WORKFLOW = "6a1bd4a9-4f6a-4a0e-9d65-0d63a2f4f2b1";

/** @returns {any} a record with the fields given, and null in all others */
export const record = (fields) => ({
  workflow: WORKFLOW,
  node: "12",
  settings: null,
  sources: null,
  upstream: null,
  state: "idle",
  summary: null,
  progress: null,
  model: null,
  backend: null,
  check: null,
  patches: null,
  compile: null,
  unused: null,
  not_finite: null,
  approximate: null,
  held: null,
  speed: null,
  parity: null,
  memory: null,
  machine: null,
  measured_at: null,
  ...fields,
});

const inductor = {
  requested: "auto",
  used: "inductor",
  version: "2.11.0",
  reason: "The only backend that works on this machine.",
};
const blocks = {
  regions: 38,
  regions_compiled: 38,
  regions_uncompiled: [],
  graphs: 17,
  graph_breaks: [],
  recompiles: [],
  seconds: 37.4,
  cache: "cold",
};

export const states = {
  idle: record({}),
  patched: record({
    state: "patched",
    patches: {
      sites: Array.from({ length: 10 }, (_, index) => ({ site: `input_blocks.${index}.1`, processor: "sdpa" })),
      foreign: [],
    },
  }),
  autoDeciding: record({
    state: "patched",
    patches: { sites: [{ site: "a", processor: "auto" }], foreign: [], auto: { state: "deciding", quality: "exact" } },
  }),
  autoChosen: record({
    state: "patched",
    patches: {
      sites: Array.from({ length: 32 }, (_, index) => ({ site: `input_blocks.${index}.1`, processor: "sdpa" })),
      foreign: [],
      auto: {
        state: "chosen",
        quality: "exact",
        processors: ["sdpa"],
        attention_speedup: 2.74,
        error: 2e-7,
        source: "measured",
        seconds: 0.7,
      },
      gain: { before_ms: 550, after_ms: 310, speedup: 1.774, attention_speedup: 2.74, computed: true },
      choices: [
        {
          site: "input_blocks.1.1.transformer_blocks.0.attn1",
          sites: 4,
          shape: "float32 2×8 4096×4096 40",
          processor: "sdpa",
          candidates: [
            { processor: "host", ms: 148.4, error: null, verdict: "no faster", reason: "slower" },
            { processor: "sdpa", ms: 53.4, error: 2e-7, verdict: "taken", reason: null },
            {
              processor: "sage",
              ms: null,
              error: null,
              verdict: "not tried",
              reason: "device cpu is not among cuda; dtype float32 is not among bfloat16, float16",
            },
          ],
        },
      ],
    },
  }),
  autoApproximate: record({
    state: "patched",
    patches: {
      sites: [{ site: "a", processor: "sage" }],
      foreign: [],
      auto: { state: "chosen", quality: "fast", attention_speedup: 1.9, error: 0.031, source: "disk", seconds: 0 },
    },
  }),
  autoSame: record({
    state: "patched",
    patches: { sites: [], foreign: [], auto: { state: "no gain", quality: "exact", attention_speedup: 1 } },
  }),
  autoLeft: record({
    state: "patched",
    patches: { sites: [], foreign: [], auto: { state: "left", quality: "exact" } },
  }),
  autoUntried: record({
    state: "patched",
    patches: { sites: [], foreign: [], auto: { state: "untried", quality: "exact" } },
  }),
  patchedOddly: record({
    state: "patched",
    patches: { sites: [{ site: "a", processor: "sdpa" }], foreign: [] },
    check: {
      errors: 0,
      warnings: 1,
      findings: [
        {
          severity: "warning",
          path: "",
          class: null,
          where: null,
          what: "no processor named sage",
          why: "it is not installed",
          fix: "sdpa is used instead",
        },
      ],
    },
  }),
  rejected: record({
    state: "patched",
    patches: {
      sites: [{ site: "a", processor: "sdpa" }],
      foreign: [],
      rejected: {
        processor: "custom/softcap:SoftCap",
        class: "SoftCap",
        what: "returns a result of shape (2, 256, 80) instead of (2, 256, 320)",
        where: "softcap.py:16",
      },
    },
    check: {
      modules: 0,
      sites: 32,
      errors: 1,
      warnings: 1,
      findings: [
        {
          severity: "error",
          path: "input_blocks.1.1.attn1",
          class: "SoftCap",
          where: "attention_processors/softcap.py:16",
          what: "returns a result of shape (2, 256, 80) instead of (2, 256, 320)",
          why: "The block goes on with it.",
          fix: "Join the heads: out.transpose(1, 2).reshape(b, n, heads * dim).",
          rule: "output-shape",
        },
        {
          severity: "warning",
          path: "processor",
          class: "SoftCap",
          where: "attention_processors/softcap.py:16",
          what: "custom/softcap:SoftCap is not used; sdpa is, so that the picture is finished",
          why: "It returns a result of shape (2, 256, 80) instead of (2, 256, 320).",
          fix: "Fix what the error says and queue again.",
          rule: "processor-not-used",
        },
      ],
    },
  }),
  checked: record({ state: "checked", check: { modules: 686, sites: 32, errors: 0, warnings: 0, findings: [] } }),
  passed: record({
    state: "passed",
    summary: "not accelerated yet; the picture is right",
    check: {
      modules: 0,
      sites: 0,
      errors: 0,
      warnings: 0,
      findings: [{ severity: "note", class: "VaeSpeedup", what: "not accelerated yet; the picture is right" }],
    },
  }),
  findings: record({
    state: "checked",
    check: {
      modules: 686,
      sites: 32,
      errors: 2,
      warnings: 1,
      findings: [
        {
          severity: "warning",
          path: "out",
          class: "Out",
          where: "models/custom.py:40",
          what: "overrides __call__",
          why: "compilers call forward",
          fix: "rename it",
        },
        {
          severity: "error",
          path: "input_blocks.1.1.attn2.processor",
          class: "AttnProcessor",
          where: "models/custom.py:12",
          what: "has no forward",
          why: "nn.Module calls forward",
          fix: "rename __call__ to forward",
        },
        {
          severity: "error",
          path: "input_blocks.2.1.attn2.processor",
          class: "AttnProcessor",
          where: "models/custom.py:12",
          what: "has no forward",
          why: null,
          fix: null,
        },
      ],
    },
  }),
  starting: record({ state: "starting" }),
  checking: record({ state: "checking", progress: { done: 412, total: 686, path: "middle_block.1", seconds: 0.3 } }),
  compiling: record({
    state: "compiling",
    backend: inductor,
    progress: { done: 7, total: 38, path: "input_blocks.1.0", seconds: 12.2 },
  }),
  measuring: record({ state: "measuring", backend: inductor, compile: blocks }),
  compiled: record({
    state: "compiled",
    model: { class: "UNetModel", parameters: 859_520_964, dtype: "float16", device: "cuda:0" },
    backend: inductor,
    compile: blocks,
    speed: {
      eager_ms: 240.1,
      compiled_ms: 148.2,
      speedup: 1.62,
      verdict: "faster",
      per_second: 6.7,
      steps_ms: [251.3, 41_032.6, 148.1, 240.4, 149.0, 239.8, 147.9, 148.2, 148.4, 147.7],
      steps_kind: [
        "uncompiled",
        "compiling",
        "compiled",
        "uncompiled",
        "compiled",
        "uncompiled",
        ...Array(4).fill("compiled"),
      ],
      kept: "compiled",
      breakeven_images: 20.2,
    },
    parity: { max_abs: 0.0004, relative: 0.00000123, cosine: 1, tolerance: 0.001, passed: true },
    memory: { eager_peak_mb: 5012.4, compiled_peak_mb: 4801.1 },
    machine: { torch: "2.11.0", device: "NVIDIA H100" },
    measured_at: "2026-06-01T10:00:00+00:00",
  }),
  partial: record({
    state: "partial",
    backend: inductor,
    compile: {
      ...blocks,
      regions_compiled: 36,
      regions_uncompiled: [
        { path: "middle_block.1", reason: "another node patches it" },
        { path: "out.0", reason: "AttnProcessor has no forward" },
      ],
    },
    speed: { eager_ms: 240, compiled_ms: 171, speedup: 1.4, verdict: "faster", kept: "compiled" },
  }),
  byChoice: record({
    state: "partial",
    backend: inductor,
    compile: {
      ...blocks,
      regions_compiled: 36,
      regions_uncompiled: ["input_blocks.1.0", "input_blocks.2.0"].map((path) => ({
        path,
        reason:
          "ResBlock gains too little: 2 of its 12 widths were compiled and ran 0.99× as fast as uncompiled.",
      })),
      regions_without_gain: 2,
    },
    speed: { eager_ms: 240, compiled_ms: 171, speedup: 1.4, verdict: "faster", kept: "compiled" },
  }),
  stoppedAt: record({
    state: "partial",
    summary: "stopped at 1/17 · goes on with the next new picture",
    backend: inductor,
    compile: { ...blocks, regions: 17, regions_compiled: 1, regions_without_gain: 0, stopped: { done: 1, total: 17 } },
    speed: { eager_ms: 240, compiled_ms: null, steps_ms: [251.3], steps_kind: ["uncompiled"] },
  }),
  inBackground: record({
    state: "idle",
    summary: "compiling in the background · used from the next picture",
    backend: inductor,
    compile: { ...blocks, regions: 6, regions_compiled: 0, regions_without_gain: 0, stopped: { done: 0, total: 6, beside: true } },
    speed: { eager_ms: 240, compiled_ms: null, steps_ms: [251.3], steps_kind: ["uncompiled"] },
  }),
  stoppedEarly: record({
    state: "idle",
    summary: "stopped · goes on with the next new picture",
    compile: { ...blocks, regions: 0, regions_compiled: 0, stopped: { done: 0, total: 0 } },
  }),
  notUsed: record({
    state: "uncompiled",
    summary: "not used: nothing sampled this model",
    backend: inductor,
    compile: blocks,
    unused: { why: "not sampled", by: null, where: null },
  }),
  patchNotUsed: record({
    state: "patched",
    patches: { sites: [{ site: "a", processor: "sdpa" }], foreign: [] },
    unused: { why: "not sampled", by: null, where: null },
  }),
  calledAround: record({
    state: "uncompiled",
    summary: "no effect: “DeepCache” runs in the model's place",
    backend: inductor,
    compile: blocks,
    unused: { why: "not called", by: "DeepCache", where: "ComfyUI-deepcache.DeepCache:DeepCache.apply" },
  }),
  patchCalledAround: record({
    state: "patched",
    patches: { sites: [{ site: "a", processor: "sdpa" }], foreign: [] },
    unused: { why: "not called", by: null, where: null },
  }),
  patchOverridden: record({
    state: "patched",
    patches: { sites: [{ site: "a", processor: "sdpa" }], foreign: [], reached: 0 },
    unused: { why: "not reached", by: "SageAttention", where: "sage:SageAttention.run" },
  }),
  patchInPart: record({
    state: "patched",
    patches: {
      sites: ["a", "b", "c", "d"].map((site) => ({ site, processor: "sdpa" })),
      foreign: [],
      reached: 1,
      taken: { sites: 3, by: "AttentionCouple", where: "couple:AttentionCouple.patch" },
    },
  }),
  held: record({
    state: "patched",
    patches: { sites: [{ site: "a", processor: "custom/slow:Mine" }], foreign: [] },
    held: { where: "slow.py:12", seconds: 45, cancelled: false },
  }),
  heldCancelled: record({
    state: "patched",
    patches: { sites: [{ site: "a", processor: "custom/slow:Mine" }], foreign: [] },
    held: { where: "slow.py:12", seconds: 3, cancelled: true },
  }),
  slower: record({
    state: "uncompiled",
    backend: inductor,
    speed: { eager_ms: 3000, compiled_ms: 3270, speedup: 0.917, verdict: "slower", kept: "uncompiled" },
  }),
  noGain: record({
    state: "compiled",
    backend: inductor,
    compile: blocks,
    speed: { eager_ms: 150, compiled_ms: 148.5, speedup: 1.01, verdict: "same", kept: "compiled" },
  }),
  noisy: record({
    state: "compiled",
    backend: inductor,
    model: { file: "sd15.safetensors", class: "UNetModel" },
    compile: { ...blocks, earlier: true },
    speed: { eager_ms: 150, compiled_ms: 140, speedup: 1.07, verdict: null, noisy: true, kept: null },
  }),
  unclear: record({
    state: "uncompiled",
    summary: "uncompiled: no clear gain: compiled, it ran 0.93× to 1.06× as fast (the middle half of 16 comparisons).",
    backend: {
      ...inductor,
      reason: "no clear gain: compiled, it ran 0.93× to 1.06× as fast (the middle half of 16 comparisons).",
    },
    compile: blocks,
    speed: { eager_ms: 150, compiled_ms: 149, verdict: "same", kept: "uncompiled", clear: false, pairs: 16 },
  }),
  patchAlone: record({
    state: "uncompiled",
    summary:
      "about 1.63× from patched attention · uncompiled: no gain: nothing more was compiled, as an earlier run timed it. ResBlock gains too little at this size: a compiled block ran 0.99× as fast as uncompiled.",
    backend: inductor,
    compile: { ...blocks, regions_compiled: 0, regions_without_gain: 38 },
    speed: { eager_ms: 150, verdict: "same", kept: "uncompiled", patch_speedup: 1.63, total_speedup: 1.63, computed: true },
  }),
  bothGain: record({
    state: "compiled",
    backend: inductor,
    compile: blocks,
    speed: {
      ...{ eager_ms: 240, compiled_ms: 148, speedup: 1.62, verdict: "faster", kept: "compiled" },
      ...{ without_ms: 420, patch_speedup: 1.75, total_speedup: 2.84, computed: true },
    },
  }),
  differs: record({
    state: "uncompiled",
    backend: inductor,
    speed: { eager_ms: 240, compiled_ms: 150, kept: "uncompiled" },
    parity: { max_abs: 3, relative: 0.4, tolerance: 0.01, passed: false },
  }),
  uncompiled: record({
    state: "uncompiled",
    summary: "uncompiled: no C++ compiler was found",
    backend: { requested: "auto", used: null, version: null, reason: "no C++ compiler was found" },
  }),
  failed: record({ state: "failed", summary: "failed: AttnProcessor has no forward" }),
};
