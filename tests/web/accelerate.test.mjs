// “Accelerate with OneDiff”: which links get the nodes, and where these stand.

import assert from "node:assert/strict";
import { test } from "node:test";

import { cross, offset, place, runsUnder } from "../../web/accelerate/layout.js";
import { acceleratedText, createMenus } from "../../web/accelerate/menus.js";
import { loads, plan } from "../../web/accelerate/plan.js";
import { giveBack, makeRoom } from "../../web/accelerate/room.js";
import { graphOf, node } from "./graph.mjs";
import { english } from "./records.mjs";

const MODEL = ["MODEL"];
const load = { type: "CheckpointLoaderSimple", out: ["MODEL", "CLIP", "VAE"] };
const takes = (from, more) => ({ in: { MODEL: [from, "MODEL"] }, ...more });
const sampler = (from) => takes(from, { type: "KSampler", out: ["LATENT"] });
const ours = (type, from, more = {}) => takes(from, { type, out: MODEL, ...more });
const [PATCH, COMPILE] = ["OneDiffPatchAttention", "OneDiffCompile"];

/** What would be put where: "lora → PATCH, COMPILE → sampler". */
const wanted = (root, loader) =>
  plan(root, loader).insertions.map(({ origin, types, targets }) =>
    [origin, types.join("+"), targets.map((target) => target.node.id).join("+")].join(" → "),
  );

test("the pair comes after the LoRAs and before every sampler that takes the model from there", () => {
  const root = graphOf({
    load,
    lora: takes("load", { type: "LoraLoaderModelOnly", out: MODEL }),
    base: sampler("lora"),
    again: sampler("lora"),
    plain: sampler("load"),
    sigmas: takes("lora", { type: "BasicScheduler", out: ["SIGMAS"] }),
    guider: takes("lora", { type: "CFGGuider", out: ["GUIDER"] }),
    save: takes("lora", { type: "ModelSave" }),
  });
  assert.deepEqual(wanted(root), [
    `lora → ${PATCH}+${COMPILE} → base+again+guider`,
    `load → ${PATCH}+${COMPILE} → plain`,
  ]);
});

test("what is there already is not put in twice, and is switched on", () => {
  const root = graphOf({
    load,
    patch: ours(PATCH, "load", { mode: 4 }),
    compile: ours(COMPILE, "patch"),
    sampler: sampler("compile"),
  });
  assert.deepEqual(wanted(root), []);
  assert.deepEqual(
    plan(root).off.map(({ id }) => id),
    ["patch"],
  );
});

test("old nodes that compile count: only the patch is put in, and behind a loader nothing", () => {
  const old = graphOf({ load, speedup: ours("ModelSpeedup", "load"), sampler: sampler("speedup") });
  assert.deepEqual(wanted(old), [`load → ${PATCH} → speedup`]);
  const cached = graphOf({ load, deep: ours("ModuleDeepCacheSpeedup", "load", { mode: 4 }), sampler: sampler("deep") });
  assert.deepEqual(plan(cached).off.map(({ id }) => id), ["deep"]);
  const loader = graphOf({ load: { ...load, type: "OneDiffCheckpointLoaderSimple" }, sampler: sampler("load") });
  assert.deepEqual(plan(loader), { insertions: [], off: [], samplers: 1 });
  assert.deepEqual(wanted(loader, node(loader, "load")), []);
});

test("the missing half of the pair goes to its place: patched before it is compiled", () => {
  const compiled = graphOf({ load, compile: ours(COMPILE, "load"), a: sampler("compile"), b: sampler("compile") });
  assert.deepEqual(wanted(compiled), [`load → ${PATCH} → compile`]);
  const patched = graphOf({ load, patch: ours(PATCH, "load"), sampler: sampler("patch") });
  assert.deepEqual(wanted(patched), [`patch → ${COMPILE} → sampler`]);
});

test("inside a subgraph it is put before the sampler there", () => {
  const inner = graphOf({ sampler: sampler(-10) }, "inner");
  inner.getLink(1).origin_slot = 0;
  const root = graphOf({
    load,
    group: takes("load", { type: "Sampling", out: ["LATENT"], subgraph: inner }),
  });
  const [insertion, ...more] = plan(root).insertions;
  assert.equal(insertion.graph, inner);
  assert.equal(insertion.origin, -10);
  assert.deepEqual(more, []);
});

test("what is there already inside a subgraph that hands the model on counts", () => {
  const inner = graphOf({ load, patch: ours(PATCH, "load"), compile: ours(COMPILE, "patch") }, "inner");
  inner.leave("compile", "MODEL", 0);
  const root = graphOf({ group: { type: "Fast", out: MODEL, subgraph: inner }, sampler: sampler("group") });
  assert.deepEqual(wanted(root), []);
});

test("from a loader's menu only its own model", () => {
  const root = graphOf({
    load,
    other: { type: "UNETLoader", out: MODEL },
    a: sampler("load"),
    b: sampler("other"),
  });
  assert.deepEqual(wanted(root, node(root, "other")), [`other → ${PATCH}+${COMPILE} → b`]);
  assert.deepEqual(
    root.nodes.filter(loads).map(({ id }) => id),
    ["load", "other"],
  );
});

test("a sampler that is switched off, or has no model, gets nothing", () => {
  const off = { ...sampler("load"), mode: 4 };
  const root = graphOf({ load, off, alone: { type: "KSampler", out: ["LATENT"] } });
  assert.deepEqual(plan(root), { insertions: [], off: [], samplers: 0 });
});

test("the menus offer what fits the node", () => {
  const root = graphOf({ load, compile: ours(COMPILE, "load"), sampler: sampler("compile") });
  const menus = createMenus({ words: () => english, changes: {}, open() {}, forget() {}, show() {}, toast() {} });
  const offered = (one) => menus.node({ ...one, comfyClass: one.type }).flatMap((entry) => entry?.content ?? []);
  assert.deepEqual(offered(node(root, "load")), ["Accelerate with OneDiff"]);
  assert.deepEqual(offered(node(root, "compile")), [
    "Show OneDiff report",
    "Clear OneDiff measurements",
    "Remove all OneDiff nodes",
  ]);
  assert.deepEqual(offered(node(root, "sampler")), []);
});

test("what was done is said, and what to do next", () => {
  const root = { name: "root" };
  root.rootGraph = root;
  const next = "Queue the workflow: the first picture takes longer, because it compiles.";
  const said = (added, off, samplers) => acceleratedText({ added, off, samplers }, english);
  assert.equal(said([{ graph: root }, { graph: root }], [], 1), `2 nodes added before the samplers. ${next}`);
  const inner = { name: "Fast Flux", rootGraph: root };
  assert.ok(said([{ graph: inner }], [], 1).includes("They are in the subgraph “Fast Flux”."));
  assert.equal(said([], [{}], 1), `1 node switched on. ${next}`);
  assert.equal(said([], [], 1), "Every model in this workflow already goes through OneDiff.");
  assert.equal(said([], [], 0), "There is no sampler with a model in this workflow.");
});

/** The default workflow of ComfyUI, as far as its geometry goes. */
const DEFAULT = {
  boxes: [
    { id: "load", x: 0, y: 400, width: 315, height: 130 },
    { id: "positive", x: 400, y: 150, width: 420, height: 190 },
    { id: "negative", x: 400, y: 380, width: 420, height: 190 },
    { id: "latent", x: 460, y: 600, width: 315, height: 140 },
    { id: "sampler", x: 860, y: 150, width: 315, height: 290 },
    { id: "decode", x: 1210, y: 150, width: 210, height: 80 },
  ],
  wires: [
    { from: "load", start: [315, 464], to: "positive", end: [400, 194] },
    { from: "load", start: [315, 464], to: "negative", end: [400, 424] },
    { from: "load", start: [315, 484], to: "decode", end: [1210, 214] },
    { from: "positive", start: [820, 194], to: "sampler", end: [860, 214] },
    { from: "negative", start: [820, 424], to: "sampler", end: [860, 234] },
    { from: "latent", start: [775, 644], to: "sampler", end: [860, 254] },
    { from: "sampler", start: [1175, 194], to: "decode", end: [1210, 194] },
  ],
  giver: { id: "load", at: [315, 444] },
  takers: [{ id: "sampler", at: [860, 194] }],
};
const ROW = [1, 2].map(() => ({ width: 300, height: 230, input: [0, 44], output: [300, 44] }));

test("the new nodes lie on nothing, no link runs under them and theirs cross no other", () => {
  const { at, moves } = place({ ...DEFAULT, row: ROW });
  assert.equal(at.length, 2);
  const move = (x) => x + offset(moves, x);
  const boxes = DEFAULT.boxes.map((box) => ({ ...box, x: move(box.x) }));
  const moved = (id) => boxes.find((box) => box.id === id).x - DEFAULT.boxes.find((box) => box.id === id).x;
  const shift = (id, [x, y]) => [x + moved(id), y];
  const wires = DEFAULT.wires.map((w) => ({ ...w, start: shift(w.from, w.start), end: shift(w.to, w.end) }));
  const made = at.map(([x, y], index) => ({ x, y, ...ROW[index] }));
  const fresh = [
    { start: [315, 444], end: [at[0][0], at[0][1] + 44] },
    { start: [at[0][0] + 300, at[0][1] + 44], end: [at[1][0], at[1][1] + 44] },
    { start: [at[1][0] + 300, at[1][1] + 44], end: shift("sampler", [860, 194]) },
  ];
  for (const box of made) {
    for (const other of boxes)
      assert.ok(
        box.x >= other.x + other.width || other.x >= box.x + 300 || box.y >= other.y + other.height || other.y >= box.y + 230,
        `on ${other.id}`,
      );
    for (const wire of wires) assert.ok(!runsUnder(wire, box), `${wire.from} → ${wire.to} runs under a new node`);
  }
  for (const one of fresh) {
    for (const wire of wires) assert.ok(!cross(one, wire), `crosses ${wire.from} → ${wire.to}`);
    for (const box of boxes.filter(({ id }) => id !== "load" && id !== "sampler")) assert.ok(!runsUnder(one, box), box.id);
    assert.ok(one.start[0] < one.end[0], "it reads from left to right");
  }
});

test("where there is room, nothing is moved", () => {
  const far = DEFAULT.boxes.map((box) => (box.x >= 860 ? { ...box, x: box.x + 600 } : box));
  const takers = [{ id: "sampler", at: [1460, 194] }];
  assert.deepEqual(place({ ...DEFAULT, boxes: far, wires: [], takers, row: ROW }).moves, []);
});

/** Nodes at these places, 100 wide, and a group around the sampler and what follows. */
function placed() {
  const nodes = Object.entries({ load: 0, sampler: 200, decode: 400 }).map(([id, x]) => ({ id, pos: [x, 0], size: [100, 50] }));
  const group = { id: 1, pos: [190, -40], size: [320, 100] };
  return { nodes, groups: [group], reroutes: new Map([[7, { id: 7, pos: [350, 10] }]]), group };
}
const boxOf = ({ id, pos, size }) => ({ id, x: pos[0], y: pos[1] - 30, width: size[0], height: size[1] + 30 });
const xs = (graph) => [...graph.nodes, ...graph.reroutes.values(), ...graph.groups].map(({ pos }) => pos[0]);
const MOVES = [{ from: 150, by: 500 }];

test("what gave way goes back, as a file would hold it", () => {
  const graph = placed();
  const before = xs(graph);
  const noted = JSON.parse(JSON.stringify(makeRoom(graph, MOVES)));
  assert.deepEqual(xs(graph), [0, 700, 900, 850, 690]);
  giveBack(graph, noted, boxOf);
  assert.deepEqual(xs(graph), before);
  const around = { ...placed(), groups: [{ id: 2, pos: [-10, -40], size: [520, 100] }] };
  const grown = makeRoom(around, MOVES);
  assert.deepEqual([around.groups[0].pos[0], around.groups[0].size[0]], [-10, 1020]);
  giveBack(around, grown, boxOf);
  assert.deepEqual([around.groups[0].pos[0], around.groups[0].size[0]], [-10, 520]);
});

test("what was moved since stays, and so does all where another node stands in the way", () => {
  const graph = placed();
  const noted = makeRoom(graph, MOVES);
  graph.nodes[2].pos = [900, 300];
  giveBack(graph, noted, boxOf);
  assert.deepEqual(xs(graph), [0, 200, 900, 350, 190]);
  const full = placed();
  const again = makeRoom(full, MOVES);
  full.nodes.push({ id: "new", pos: [250, 0], size: [100, 50] });
  giveBack(full, again, boxOf);
  assert.deepEqual(xs(full), [0, 700, 900, 250, 850, 690]);
});

test("whatever a file holds in its place moves nothing and breaks nothing", () => {
  const odd = [null, 7, "x", {}, [[]], [["node", "sampler"]], [["node", "sampler", "200", 0, 1]], [["node", "sampler", 200, 0, NaN]]];
  for (const noted of [...odd, [["node", "none", 200, 0, 50]], Array(1e5).fill(["group", 9, 0, 0, 1])]) {
    const graph = placed();
    giveBack(graph, noted, boxOf);
    assert.deepEqual(xs(graph), xs(placed()), JSON.stringify(noted)?.slice(0, 60));
  }
});
