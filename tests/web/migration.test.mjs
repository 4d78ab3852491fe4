import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { replacedToast } from "../../web/migration/menu.js";
import { replaceOld } from "../../web/migration/replace.js";
import { inOrder, OLD, valuesOf } from "../../web/migration/table.js";
import { english } from "./records.mjs";

/** @returns {any} a saved node */
const node = (id, type, inputs = {}, outputs = {}, values = [], more = {}) => ({
  ...{ id, type, pos: [100 * id, 0], size: [300, 100], flags: {}, order: 0, mode: 0 },
  inputs: Object.entries(inputs).map(([name, link]) => ({ name, type: name.toUpperCase(), link })),
  outputs: Object.entries(outputs).map(([name, links]) => ({ name, type: name, links })),
  ...{ properties: { "Node name for S&R": type }, widgets_values: values, ...more },
});

/** @returns {any} a saved workflow */
const workflow = (nodes, links) => ({
  ...{ last_node_id: 50, last_link_id: 90, nodes, links, groups: [], config: {}, extra: {}, version: 0.4 },
});

const short = ({ type, widgets_values: values, mode }) => [type, values, mode];

/** @returns {any[]} nodes that are not stock */
const speedup = (values, booster = null) => [
  node(1, "UNETLoader", {}, { MODEL: [1] }),
  node(2, "ModelSpeedup", { model: 1, custom_booster: booster }, { MODEL: [2, 3] }, values, { title: "Model Speedup" }),
  node(3, "KSampler", { model: 2 }, {}),
  node(4, "KSampler", { model: 3 }, {}),
];
const LINKS = [
  [1, 1, 0, 2, 0, "MODEL"],
  [2, 2, 0, 3, 0, "MODEL"],
  [3, 2, 0, 4, 0, "MODEL"],
];

/** Links with the ids of nodes that were replaced as they were before. */
const asBefore = (after, before) => {
  const ids = new Map(after.nodes.map(({ id }, index) => [id, before.nodes[index]?.id]));
  return after.links.map(([id, from, slot, to, ...rest]) => [id, ids.get(from) ?? from, slot, ids.get(to) ?? to, ...rest]);
};

test("Model Speedup of every version becomes OneDiff Compile, with its links", () => {
  const compile = (mode) => ["OneDiffCompile", ["auto", "blocks", "fast start", "run uncompiled", true], mode];
  for (const [values, mode] of [[["enable"], 0], [["disable"], 4], [[true], 0], [[false], 0], [[true, "disable"], 4]]) {
    const before = workflow(speedup(values), LINKS);
    const { workflow: after, replaced, stays } = replaceOld(before);
    assert.deepEqual([replaced, stays], [1, []]);
    assert.deepEqual(asBefore(after, before), LINKS);
    assert.notEqual(after.nodes[1].id, 2, "Nodes 2.0 would show the old badges");
    assert.deepEqual(short(after.nodes[1]), compile(mode), JSON.stringify(values));
    assert.deepEqual(after.nodes[1].inputs, [{ name: "model", type: "MODEL", link: 1 }]);
    assert.equal(after.nodes[1].title, undefined);
    assert.equal(after.nodes[1].properties["Node name for S&R"], "OneDiffCompile");
  }
});

const boosted = (type, values) =>
  workflow(
    [
      ...speedup([true], 4),
      node(5, "OneDiffModelBooster", { quantization_booster: 6, torchcompile_booster: 5 }, { CUSTOM_BOOSTER: [4] }),
      node(6, type, {}, { TorchCompileBooster: [5] }, values),
      node(7, "OneDiffOnlineQuantizationBooster", {}, { QuantizationBooster: [6] }, [100, 100, 100, 300]),
    ],
    [...LINKS, [4, 5, 0, 2, 1, "CUSTOM_BOOSTER"], [5, 6, 0, 5, 1, "TorchCompileBooster"], [6, 7, 0, 5, 0, "Q"]],
  );

test("boosters become the settings of OneDiff Compile, and go away", () => {
  for (const [type, values, settings] of [
    ["OneDiffTorchCompileBooster", [false, null, "inductor", "default", false, ""], ["inductor", "fast start", 0]],
    ["OneDiffTorchCompileBooster", [true, true, "inductor", "max-autotune", false, ""], ["inductor", "max speed", 0]],
    ["OneDiffTorchCompileBooster", [false, null, "inductor", "default", true, ""], ["inductor", "fast start", 4]],
    ["OneDiffNexfortBooster", [false, true, "max-optimize:low-precision", ""], ["nexfort", "max speed", 0]],
    ["OneDiffNexfortBooster", [false, true, "jit:benchmark", "option", ""], ["nexfort", "fast start", 0]],
  ]) {
    const before = boosted(type, values);
    const { workflow: after, replaced } = replaceOld(before);
    assert.deepEqual(after.nodes.map(({ type: one }) => one), ["UNETLoader", "OneDiffCompile", "KSampler", "KSampler"]);
    const [backend, , effort] = after.nodes[1].widgets_values;
    assert.deepEqual([backend, effort, after.nodes[1].mode], settings, type);
    assert.equal(replaced, 4);
    assert.deepEqual(asBefore(after, before), LINKS);
  }
});

test("boosters that another node still takes stay, and so does what asks for DeepCache", () => {
  const both = boosted("OneDiffNexfortBooster", [false, true, "jit", ""]);
  const given = { control_net: null, cnet_stack: 8, custom_booster: 7 };
  both.nodes.push(node(8, "ControlnetSpeedup", given, { CONTROL_NET: [], CONTROL_NET_STACK: [] }));
  both.nodes.push(node(9, "A stack", {}, { CONTROL_NET_STACK: [8] }));
  both.links.push([7, 5, 0, 8, 2, "CUSTOM_BOOSTER"], [8, 9, 0, 8, 1, "CONTROL_NET_STACK"]);
  both.nodes[4].outputs[0].links.push(7);
  const { workflow: after, stays } = replaceOld(both);
  assert.deepEqual(stays, ["ControlnetSpeedup"]);
  const left = after.nodes.map(({ type }) => type).slice(4);
  const boosters = ["OneDiffModelBooster", "OneDiffNexfortBooster", "OneDiffOnlineQuantizationBooster"];
  assert.deepEqual(left, [...boosters, "ControlnetSpeedup", "A stack"]);
  assert.deepEqual(after.nodes[4].outputs[0].links, [7]);

  const cached = boosted("OneFlowDeepcacheBooster", [3, 0, 1, 0, 1000]);
  cached.nodes[4].inputs[1].name = "deepcache_booster";
  assert.equal(replaceOld(cached).workflow.nodes[1].type, "ModelSpeedup");
});

/** What a person is told after a command. */
const told = (before, options) => {
  const { severity, detail } = replacedToast(replaceOld(before, options), english, (type) => type);
  return [severity, detail];
};

test("a DeepCache booster that is said to be kept is there afterwards", () => {
  const before = workflow([node(1, "OneFlowDeepcacheBooster", {}, { DeepCacheBooster: [] }, [3, 0, 1, 0, 1000])], []);
  const { workflow: after, replaced, stays } = replaceOld(before);
  assert.deepEqual([after.nodes.length, replaced, stays], [1, 0, ["OneFlowDeepcacheBooster"]]);
});

test("where nothing is replaced, it says so and why", () => {
  const none = "There are no old OneDiff nodes to replace.";
  assert.deepEqual(told(workflow([node(1, "KSampler")], [])), ["info", none]);
  const values = [false, true, "jit", ""];
  const chosen = ({ id }) => id === 6;
  assert.deepEqual(told(boosted("OneDiffNexfortBooster", values), { chosen }), [
    ...["info", "Kept, because other nodes still use them: OneDiffNexfortBooster."],
  ]);
  const stays = workflow([node(1, "CompareModel", { torch_model: null }, {})], []);
  assert.deepEqual(told(stays), ["info", "Kept, because there is no replacement yet: CompareModel."]);
});

test("what was replaced is said, with the settings that today's nodes do not have", () => {
  assert.deepEqual(told(workflow(speedup([true]), LINKS)), ["success", "Replaced 1 old node. You can undo this."]);
  const loader = (type, values) => told(workflow([node(1, type, {}, { MODEL: [], CLIP: [], VAE: [] }, values)], []));
  const int8 = "The model keeps its own precision: int8 is no longer available.";
  const one = "Replaced 1 old node. You can undo this.";
  assert.deepEqual(loader("OneDiffCheckpointLoaderSimple", ["a", "disable"]), ["success", one]);
  assert.deepEqual(loader("OneDiffCheckpointLoaderSimple", ["a", "enable"]), ["success", one]);
  assert.deepEqual(loader("OneDiffQuantCheckpointLoaderSimple", ["a", "enable"]), ["info", `${one} ${int8}`]);
  const [severity, detail] = told(boosted("OneDiffNexfortBooster", [false, true, "jit", ""]));
  assert.deepEqual([severity, detail], ["info", `Replaced 4 old nodes. You can undo this. ${int8}`]);
});

test("a loader becomes two nodes: the checkpoint, and what compiles its model", () => {
  const load = (type, values) =>
    workflow(
      [
        node(1, type, {}, { MODEL: [1], CLIP: [2], VAE: [3] }, values, {
          properties: { cnr_id: "onediff", onediff: {} },
        }),
        node(2, "KSampler", { model: 1 }),
        node(3, "CLIPTextEncode", { clip: 2 }),
        node(4, "VAEDecode", { vae: 3 }),
      ],
      [
        [1, 1, 0, 2, 0, "MODEL"],
        [2, 1, 1, 3, 0, "CLIP"],
        [3, 1, 2, 4, 0, "VAE"],
      ],
    );
  const { workflow: after } = replaceOld(load("OneDiffCheckpointLoaderSimple", ["a.safetensors", "disable"]));
  assert.deepEqual(short(after.nodes[0]), ["CheckpointLoaderSimple", ["a.safetensors"], 0]);
  assert.equal(after.nodes[4].type, "OneDiffCompile");
  assert.deepEqual(after.nodes[0].properties, { "Node name for S&R": "CheckpointLoaderSimple" });
  const [{ id: loader }, , , , { id: compile }] = after.nodes;
  const added = after.links[3][0];
  assert.deepEqual(after.links, [
    [1, compile, 0, 2, 0, "MODEL"],
    [2, loader, 1, 3, 0, "CLIP"],
    [3, loader, 2, 4, 0, "VAE"],
    [added, loader, 0, compile, 0, "MODEL"],
  ]);
  assert.ok(after.last_node_id >= after.nodes[4].id && after.last_link_id >= added);
  assert.deepEqual(after.nodes[0].outputs.map(({ links }) => links), [[added], [2], [3]]);

  const off = replaceOld(load("OneDiffQuantCheckpointLoaderSimpleAdvanced", ["a", "m.pt", "disable", "enable"]));
  assert.deepEqual(off.workflow.nodes.map(({ mode }) => mode), [0, 0, 0, 0, 4, 4]);
  const { nodes, links } = replaceOld(load("OneDiffCheckpointLoaderSimple", ["a.safetensors", "enable"])).workflow;
  assert.deepEqual(short(nodes[5]), ["OneDiffCompileVAE", ["auto", "run uncompiled"], 0]);
  assert.deepEqual(links[2], [3, nodes[5].id, 0, 4, 0, "VAE"]);
  assert.deepEqual(links[4].slice(1), [nodes[0].id, 2, nodes[5].id, 0, "VAE"]);
  assert.ok(nodes[5].pos[1] > nodes[4].pos[1] + 200, "below the other one");
  const { workflow: video } = replaceOld(load("ImageOnlyOneDiffQuantCheckpointLoaderAdvanced", ["a", "", "enable"]));
  assert.equal(video.nodes[0].type, "ImageOnlyCheckpointLoader");
});

test("VAE and ControlNet Speedup become the nodes that compile those, and the loader two", () => {
  for (const [type, input, kind, today] of [
    ["VaeSpeedup", "vae", "VAE", "OneDiffCompileVAE"],
    ["ControlnetSpeedup", "control_net", "CONTROL_NET", "OneDiffCompileControlNet"],
    ["ControlNetSpeedup", "control_net", "CONTROL_NET", "OneDiffCompileControlNet"],
  ]) {
    const values = type === "ControlNetSpeedup" ? ["disable"] : [true];
    const before = workflow(
      [
        node(1, "Loader", {}, { [kind]: [1] }),
        node(2, type, { [input]: 1 }, { [kind]: [2] }, values),
        node(3, "Taker", { [input]: 2 }),
      ],
      [
        [1, 1, 0, 2, 0, kind],
        [2, 2, 0, 3, 0, kind],
      ],
    );
    const { workflow: after, replaced } = replaceOld(before);
    const mode = values[0] === "disable" ? 4 : 0;
    assert.deepEqual([short(after.nodes[1]), replaced], [[today, ["auto", "run uncompiled"], mode], 1]);
    const { id } = after.nodes[1];
    assert.deepEqual(after.links, [
      [1, 1, 0, id, 0, kind],
      [2, id, 0, 3, 0, kind],
    ]);
  }
  const loader = node(1, "OneDiffControlNetLoader", {}, { CONTROL_NET: [1] }, ["a.safetensors"]);
  const taker = node(2, "ControlNetApply", { control_net: 1 });
  const { workflow: after } = replaceOld(workflow([loader, taker], [[1, 1, 0, 2, 0, "CONTROL_NET"]]));
  const [load, , compile] = after.nodes;
  assert.deepEqual(short(load), ["ControlNetLoader", ["a.safetensors"], 0]);
  assert.deepEqual(short(compile), ["OneDiffCompileControlNet", ["auto", "run uncompiled"], 0]);
  assert.deepEqual(after.links[0], [1, compile.id, 0, 2, 0, "CONTROL_NET"]);
  assert.deepEqual(after.links[1].slice(1), [load.id, 0, compile.id, 0, "CONTROL_NET"]);
});

test("what is not needed any more goes away, and its links go on", () => {
  const { workflow: after } = replaceOld(
    workflow(
      [
        node(1, "UNETLoader", {}, { MODEL: [1] }),
        node(2, "ModelGraphLoader", { model: 1 }, { MODEL: [2, 4] }, ["a.graph"]),
        node(3, "BatchSizePatcher", { model: 2, latent_image: 3 }, { MODEL: [5] }),
        node(4, "EmptyLatentImage", {}, { LATENT: [3, 6] }),
        node(5, "KSampler", { model: 5, latent_image: 6 }),
        node(6, "ModelGraphSaver", { samples: null, model: 4 }, {}, ["unet"]),
      ],
      [
        [1, 1, 0, 2, 0, "MODEL"],
        [2, 2, 0, 3, 0, "MODEL"],
        [3, 4, 0, 3, 1, "LATENT"],
        [4, 2, 0, 6, 1, "MODEL"],
        [5, 3, 0, 5, 0, "MODEL"],
        [6, 4, 0, 5, 1, "LATENT"],
      ],
    ),
  );
  assert.deepEqual(after.nodes.map(({ type }) => type), ["UNETLoader", "EmptyLatentImage", "KSampler"]);
  assert.deepEqual(after.links, [
    [5, 1, 0, 5, 0, "MODEL"],
    [6, 4, 0, 5, 1, "LATENT"],
  ]);
  assert.deepEqual([after.nodes[0].outputs[0].links, after.nodes[1].outputs[0].links], [[5], [6]]);
});

test("prompts with a style become two text encoders, unless the style is there", () => {
  const styled = workflow(
    [
      node(1, "CLIPLoader", {}, { CLIP: [1] }),
      node(2, "CLIPTextEncodePromptStyle", { clip: 1 }, { positive: [2], negative: [3] }, [
        ...["a cat", "blur", "Watercolor", false, true, true],
      ]),
      node(3, "KSampler", { positive: 2, negative: 3 }),
    ],
    [
      [1, 1, 0, 2, 0, "CLIP"],
      [2, 2, 0, 3, 0, "CONDITIONING"],
      [3, 2, 1, 3, 1, "CONDITIONING"],
    ],
  );
  const { workflow: after } = replaceOld(styled, { styles: ["(No style)", "Ink"] });
  const [, positive, , negative] = after.nodes;
  assert.deepEqual([short(positive), short(negative)], [
    ["CLIPTextEncode", ["a cat"], 0],
    ["CLIPTextEncode", ["blur"], 0],
  ]);
  assert.deepEqual(after.links.map(([, from, slot, to]) => [from, slot, to]), [
    [1, 0, positive.id],
    [positive.id, 0, 3],
    [negative.id, 0, 3],
    [1, 0, negative.id],
  ]);
  assert.equal(positive.outputs.length, 1);
  assert.deepEqual(replaceOld(styled, { styles: ["Watercolor"] }).stays, ["CLIPTextEncodePromptStyle"]);
});

test("Quant K Sampler becomes KSampler with the same values", () => {
  const values = [5, "fixed", 20, 8, "euler", "normal", 1, "Quantization Settings", 8, "enable", "enable", 0.1, 0.1, 0];
  const before = workflow([node(1, "QuantKSampler", {}, { LATENT: [] }, values)], []);
  assert.deepEqual(short(replaceOld(before).workflow.nodes[0]), [
    ...["KSampler", [5, "fixed", 20, 8, "euler", "normal", 1], 0],
  ]);
});

test("in a subgraph its ends keep their links, and only the node that was chosen is replaced", () => {
  const inner = {
    id: "sub",
    state: { lastNodeId: 2, lastLinkId: 2 },
    nodes: [
      node(2, "ModelSpeedup", { model: 1 }, { MODEL: [2] }, [true]),
      node(3, "BatchSizePatcher", { model: 2 }, { MODEL: [3] }),
    ],
    links: [
      { id: 1, origin_id: -10, origin_slot: 0, target_id: 2, target_slot: 0, type: "MODEL", parentId: 7 },
      { id: 2, origin_id: 2, origin_slot: 0, target_id: 3, target_slot: 0, type: "MODEL" },
      { id: 3, origin_id: 3, origin_slot: 0, target_id: -20, target_slot: 0, type: "MODEL" },
    ],
    inputs: [{ name: "model", linkIds: [1] }],
    outputs: [{ name: "MODEL", linkIds: [3] }],
  };
  const outer = node(9, "sub", {}, {}, [], { properties: { proxyWidgets: [["2", "backend"], ["3", "x"]] } });
  const before = { ...workflow([...speedup([true]), outer], LINKS), definitions: { subgraphs: [inner] } };
  const chosen = ({ id }, graph) => graph === "sub" && id === 3;
  const { workflow: one } = replaceOld(before, { chosen });
  assert.deepEqual(one.nodes, before.nodes.map((each) => one.nodes.find(({ id }) => id === each.id)));
  assert.equal(one.nodes[1].type, "ModelSpeedup");
  const [sub] = one.definitions.subgraphs;
  const ends = sub.links.map(({ id, origin_id: from, target_id: to }) => [id, from, to]);
  assert.deepEqual(ends, [[1, -10, 2], [3, 2, -20]]);
  assert.equal(sub.links[0].parentId, 7, "the points that a link goes through stay");
  const everything = replaceOld(before).workflow;
  const all = everything.definitions.subgraphs[0];
  const [[promoted]] = everything.nodes[4].properties.proxyWidgets;
  assert.equal(promoted, String(all.nodes[0].id), "a value that the subgraph shows");
  assert.deepEqual(all.nodes.map(({ type }) => type), ["OneDiffCompile"]);
  assert.deepEqual([all.inputs[0].linkIds, all.outputs[0].linkIds], [[1], [3]]);
  const enters = { ...inner.links[0], target_id: 3 };
  const alone = { ...inner, nodes: [inner.nodes[1]], links: [enters, inner.links[2]] };
  const only = { ...before, definitions: { subgraphs: [alone] } };
  only.definitions.subgraphs[0].nodes[0].inputs[0].link = 1;
  const through = replaceOld(only);
  assert.deepEqual(through.stays, ["BatchSizePatcher"], "no link leads straight through a subgraph");
  assert.equal(through.workflow.definitions.subgraphs[0].nodes.length, 1);
});

test("values of each version are read by their names", () => {
  const read = (type, values) => valuesOf({ type, widgets_values: values });
  assert.deepEqual(read("SVDSpeedup", ["disable"]), { inplace: true, cache_name: "svd", static_mode: "disable" });
  assert.deepEqual(read("SVDSpeedup", [false, "x"]), { inplace: false, cache_name: "x" });
  const images = (values) => read("ShowImageDiff", values);
  assert.deepEqual(images(["0.8", "disable", "A"]), { ssim_threshold: "0.8", raise_if_diff: "disable", image_id: "A" });
  const version1 = { ssim_threshold: "", raise_if_diff: "enable", image_id: "A", rtol: "1e-3", atol: "1e-4" };
  assert.deepEqual(images(["1e-3", "1e-4", "enable", "A"]), version1);
  assert.deepEqual(images(["1e-3", "1e-4", "0.9", "enable", "A"]), { ...version1, ssim_threshold: "0.9" });
  assert.deepEqual(images(inOrder("ShowImageDiff", ["1e-3", "1e-4", "enable", "A"])), version1, "once is enough");
  assert.deepEqual(read("ModuleDeepCacheSpeedup", ["enable", true, 3, 0, 1, 0, 1000]).cache_interval, 3);
});

test("the ids and the order of values are those that the server has", () => {
  const published = JSON.parse(readFileSync(new URL("../nodes/published.json", import.meta.url), "utf8"));
  const widgets = new Set(["COMBO", "INT", "FLOAT", "STRING", "BOOLEAN"]);
  const old = Object.entries(published).filter(([, { inputs }]) =>
    Object.values(inputs).every(([, , required]) => required !== "required"),
  );
  assert.deepEqual(Object.keys(OLD), old.map(([name]) => name));
  for (const [name, { inputs }] of old) {
    const names = Object.entries(inputs).filter(([, [kind]]) => widgets.has(kind)).map(([one]) => one);
    assert.deepEqual(OLD[name].values?.filter((one) => one !== "control_after_generate"), names, name);
  }
});
