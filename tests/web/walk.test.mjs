import assert from "node:assert/strict";
import { test } from "node:test";

import { samplersToMark } from "../../web/marks.js";
import { modelsOf } from "../../web/panel/overview.js";
import { graphOf, node } from "./graph.mjs";
import { record, states } from "./records.mjs";

const MODEL = ["MODEL"];
const compile = (from, more = {}) => ({ type: "OneDiffCompile", in: { MODEL: [from, "MODEL"] }, out: MODEL, ...more });
const look =
  (status, bypassed = false) =>
  () => ({ record: status, bypassed });
const ids = (nodes) => [...nodes.keys()].map(({ id }) => id).sort();

const graph = () =>
  graphOf({
    load: { type: "CheckpointLoaderSimple", out: ["MODEL", "VAE"], file: "sd15\\base.safetensors" },
    compile: compile("lora"),
    lora: { type: "LoraLoaderModelOnly", in: { MODEL: ["patch", "MODEL"] }, out: MODEL },
    patch: { type: "OneDiffPatchAttention", in: { MODEL: ["load", "MODEL"] }, out: MODEL },
    shift: { type: "ModelSamplingFlux", in: { MODEL: ["compile", "MODEL"] }, out: MODEL },
    sampler: { type: "KSampler", in: { MODEL: ["shift", "MODEL"] }, out: ["LATENT"] },
    guider: { type: "CFGGuider", in: { MODEL: ["compile", "MODEL"] }, out: ["GUIDER"] },
    custom: { type: "SamplerCustomAdvanced", in: { GUIDER: ["guider", "GUIDER"] }, out: ["LATENT"] },
    sigmas: { type: "BasicScheduler", in: { MODEL: ["compile", "MODEL"] }, out: ["SIGMAS"] },
    decode: { type: "VAEDecode", in: { LATENT: ["sampler", "LATENT"], VAE: ["load", "VAE"] }, out: ["IMAGE"] },
    plain: { type: "KSampler", in: { MODEL: ["load", "MODEL"] }, out: ["LATENT"] },
    second: { type: "UNETLoader", out: MODEL, file: "flux.safetensors" },
    check: { type: "OneDiffForwardCheck", in: { MODEL: ["second", "MODEL"] }, out: MODEL },
    alone: { type: "OneDiffCompile", out: MODEL },
  });

test("nodes are listed by the model they work on, in the order in which it passes them", () => {
  const root = graph();
  const ours = root.nodes.filter(({ type }) => type.startsWith("OneDiff"));
  const models = modelsOf(root, ours).map(({ title, file, nodes }) => [title, file, nodes.map(({ id }) => id)]);
  assert.deepEqual(models, [
    ["CheckpointLoaderSimple", "base.safetensors", ["patch", "compile"]],
    ["UNETLoader", "flux.safetensors", ["check"]],
    ["", "", ["alone"]],
  ]);
});

test("inside a subgraph the model comes from where the subgraph is used", () => {
  const inner = graphOf({ compile: compile(-10) }, "inner");
  inner.getLink(1).origin_slot = 0;
  const root = graphOf({
    load: { type: "UNETLoader", out: MODEL, file: "flux.gguf" },
    group: { type: "Fast Flux", in: { MODEL: ["load", "MODEL"] }, out: MODEL, subgraph: inner },
  });
  const [model] = modelsOf(root, [node(inner, "compile")]);
  assert.equal(model.file, "flux.gguf");
});

test("a model that comes out of a subgraph is that of the loader inside, and passed what is in there", () => {
  const inner = graphOf({ load: { type: "UNETLoader", out: MODEL, file: "flux.gguf" }, compile: compile("load") }, "in");
  inner.leave("compile", "MODEL", 0);
  const root = graphOf({
    group: { type: "Fast Flux", out: MODEL, subgraph: inner },
    check: { type: "OneDiffForwardCheck", in: { MODEL: ["group", "MODEL"] }, out: MODEL },
  });
  const [model, ...more] = modelsOf(root, [node(root, "check"), node(inner, "compile")]);
  assert.deepEqual([model.file, model.nodes.map(({ id }) => id), more], ["flux.gguf", ["compile", "check"], []]);
});

test("a subgraph that claims to hand its own model on ends", () => {
  const inner = graphOf({}, "in");
  const root = graphOf({
    group: { type: "Loop", out: MODEL, subgraph: inner },
    check: { type: "OneDiffForwardCheck", in: { MODEL: ["group", "MODEL"] }, out: MODEL },
  });
  inner.nodes.push({ ...node(root, "group"), graph: inner });
  inner.getLink = () => ({ origin_id: "group", origin_slot: 0 });
  inner.outputs = [{ linkIds: [1] }];
  assert.equal(modelsOf(root, [node(root, "check")]).length, 1);
});

test("a loop in a damaged file ends", () => {
  const root = graphOf({ a: compile("b"), b: compile("a") });
  assert.equal(modelsOf(root, root.nodes).length > 0, true);
  assert.equal(samplersToMark(root, root.nodes, look(states.uncompiled)).size, 0);
});

test("samplers behind an uncompiled model are pointed at, also behind a guider; others are not", () => {
  const root = graph();
  const ours = [node(root, "compile"), node(root, "patch")];
  assert.deepEqual(ids(samplersToMark(root, ours, look(states.uncompiled))), ["custom", "sampler"]);
  assert.deepEqual(ids(samplersToMark(root, ours, look(states.failed))), ["custom", "sampler"]);
  for (const status of [null, states.idle, states.compiled, states.partial, states.compiling])
    assert.equal(samplersToMark(root, ours, look(status)).size, 0);
});

test("uncompiled because that is faster, or bypassed, is no reason to point", () => {
  const root = graph();
  const ours = [node(root, "compile")];
  assert.equal(samplersToMark(root, ours, look(states.slower)).size, 0);
  assert.equal(samplersToMark(root, ours, look(states.uncompiled, true)).size, 0);
  assert.equal(samplersToMark(root, ours, look(states.differs)).size, 2);
});

test("a later Compile node answers for what comes behind it, unless it is bypassed", () => {
  const chain = (mode) =>
    graphOf({
      load: { out: MODEL },
      first: compile("load"),
      later: compile("first", { mode }),
      sampler: { type: "KSampler", in: { MODEL: ["later", "MODEL"] }, out: ["LATENT"] },
    });
  for (const [mode, marked] of [
    [0, 0],
    [4, 1],
  ]) {
    const root = chain(mode);
    assert.equal(samplersToMark(root, [node(root, "first")], look(states.uncompiled)).size, marked);
  }
});

test("a model that leaves a subgraph is followed to every place where that is used", () => {
  const inner = graphOf({ load: { out: MODEL }, compile: compile("load") }, "inner");
  inner.leave("compile", "MODEL", 0);
  const root = graphOf({
    one: { type: "Fast Flux", out: MODEL, subgraph: inner },
    two: { type: "Fast Flux", out: MODEL, subgraph: inner },
    a: { type: "KSampler", in: { MODEL: ["one", "MODEL"] }, out: ["LATENT"] },
    b: { type: "KSampler", in: { MODEL: ["two", "MODEL"] }, out: ["LATENT"] },
  });
  assert.deepEqual(ids(samplersToMark(root, [node(inner, "compile")], look(states.uncompiled))), ["a", "b"]);
});

test("a subgraph that takes the model in is pointed at itself", () => {
  const inner = graphOf({ sampler: { type: "KSampler", out: ["LATENT"] } }, "inner");
  const root = graphOf({
    load: { out: MODEL },
    compile: compile("load"),
    group: { type: "Sampling", in: { MODEL: ["compile", "MODEL"] }, out: ["IMAGE"], subgraph: inner },
  });
  assert.deepEqual(ids(samplersToMark(root, [node(root, "compile")], look(record({ state: "failed" })))), ["group"]);
});

test("an old node of OneDiff's that compiles points at its samplers too, and answers for an earlier one", () => {
  const root = graphOf({
    load: { type: "OneDiffCheckpointLoaderSimple", out: MODEL },
    speedup: { type: "ModelSpeedup", in: { MODEL: ["load", "MODEL"] }, out: MODEL },
    sampler: { type: "KSampler", in: { MODEL: ["speedup", "MODEL"] }, out: ["LATENT"] },
  });
  assert.deepEqual(ids(samplersToMark(root, [node(root, "speedup")], look(states.uncompiled))), ["sampler"]);
  assert.equal(samplersToMark(root, [node(root, "load")], look(states.uncompiled)).size, 0);
});
