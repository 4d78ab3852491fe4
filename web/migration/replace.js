// @ts-check
// A workflow, as it is saved, with today's nodes in place of old ones. Links keep their ids, so that reroutes and the
// ends of subgraphs stay as they are.

import { COMPILE, COMPILE_CONTROL_NET, COMPILE_VAE } from "../node_ids.js";
import { createRoom, graphsOf, newIds } from "./room.js";
import { OLD, valuesOf } from "./table.js";

/** @typedef {import("./room.js").Saved} Saved */
/** @typedef {ReturnType<typeof createRoom>} Room */

const BYPASSED = 4;

/** How high OneDiff Compile is, in canvas units. */
const COMPILE_HEIGHT = 250;
const THOROUGH = /max-(autotune|optimize)/;
const OFF = new Set(["disable", false]);

/**
 * What came of it, the types of old nodes that are left included.
 * @typedef {Object} Done
 * @property {any} workflow
 * @property {number} replaced
 * @property {string[]} stays nothing takes their place yet
 * @property {string[]} used boosters that other nodes still take
 * @property {"int8"[]} lost what replaced nodes were asked for, and today's cannot do
 */

/**
 * @param {any} workflow
 * @param {Object} options
 * @param {(node: Saved, graph: string | null) => boolean} [options.chosen] which old nodes; graph: the subgraph's id
 * @param {string[]} [options.styles] styles that this machine has: a node that uses one stays
 * @returns {Done}
 */
export function replaceOld(workflow, { chosen = () => true, styles = [] } = {}) {
  const copy = JSON.parse(JSON.stringify(workflow));
  const ids = newIds(copy);
  let replaced = 0;
  /** @type {Set<string>} */
  const stays = new Set();
  /** @type {Set<string>} */
  const used = new Set();
  /** @type {Set<"int8">} */
  const lost = new Set();
  for (const [graph, id] of graphsOf(copy)) {
    const room = createRoom(graph, ids);
    const isChosen = (/** @type {Saved} */ node) => node.type in OLD && chosen(node, id);
    const nodes = graph.nodes.filter(isChosen);
    for (const node of nodes.filter((/** @type {Saved} */ one) => !isBooster(one))) {
      const asked = unableTo(node);
      if (!replaceOne(node, room, styles)) continue;
      replaced += 1;
      for (const one of asked) lost.add(one);
    }
    for (const booster of dropBoosters(room, isChosen)) {
      replaced += 1;
      for (const one of unableTo(booster)) lost.add(one);
    }
    for (const node of room.nodes().filter(isChosen)) (isBooster(node) ? used : stays).add(node.type);
    room.write();
    for (const [other] of graphsOf(copy)) for (const one of other.nodes) if (one.type === id) promote(one, room.renamed);
  }
  for (const [graph] of graphsOf(copy)) ids.write(graph);
  return { workflow: copy, replaced, stays: [...stays], used: [...used], lost: [...lost] };
}

/** @param {Saved} node */
const isBooster = ({ type }) => OLD[type]?.today === "booster";

/** What a node is asked for that nothing does today. @param {Saved} node */
function unableTo(node) {
  /** @type {Done["lost"]} */
  const asked = [];
  if (OLD[node.type].int8) asked.push("int8");
  return asked;
}

/**
 * Values of inner nodes that a subgraph shows on itself: [id, name] each.
 * @param {Saved} node @param {Map<string, any>} renamed
 */
function promote(node, renamed) {
  const shown = node.properties?.proxyWidgets;
  if (!Array.isArray(shown)) return;
  for (const one of shown) if (renamed.has(String(one?.[0]))) one[0] = String(renamed.get(String(one[0])));
}

/** @param {Saved} node @param {Room} room @param {string[]} styles */
function replaceOne(node, room, styles) {
  const { today, loader = "", through } = OLD[node.type];
  const values = valuesOf(node);
  switch (today) {
    case "compile": {
      if (cachesSteps(node, room)) return false;
      const boost = boostOf(node, room);
      const off = OFF.has(values.static_mode) || boost.off;
      room.become(node, compileNode(boost), ["model"]);
      if (off) node.mode = BYPASSED;
      return true;
    }
    case "compile vae":
    case "compile control": {
      // A stack of ControlNets is handed on by the old node alone.
      if (room.source(node, "cnet_stack") || room.isRead(node, 1)) return false;
      const boost = boostOf(node, room);
      const [type, input] = today === "compile vae" ? [COMPILE_VAE, "vae"] : [COMPILE_CONTROL_NET, "control_net"];
      room.become(node, compilePart(type, boost), [input]);
      node.outputs = node.outputs?.slice(0, 1);
      if (OFF.has(values.static_mode) || boost.off) node.mode = BYPASSED;
      return true;
    }
    case "load control": {
      const boost = boostOf(node, room);
      const compile = room.add(node, compilePart(COMPILE_CONTROL_NET, boost));
      if (boost.off) compile.mode = BYPASSED;
      room.moveOutput(node, 0, compile, 0);
      const file = values.control_net_name ?? "";
      room.become(node, { type: "ControlNetLoader", widgets_values: [file] }, ["control_net_name"]);
      room.connect(node, 0, compile, "control_net", "CONTROL_NET");
      return true;
    }
    case "load": {
      if (cachesSteps(node, room)) return false;
      const boost = boostOf(node, room);
      const compile = room.add(node, compileNode(boost));
      if (OFF.has(values.compile) || OFF.has(values.static_mode) || boost.off) compile.mode = BYPASSED;
      room.moveOutput(node, 0, compile, 0);
      const below = { ...compile, size: [0, COMPILE_HEIGHT] };
      const vae = values.vae_speedup === "enable" ? room.add(below, compilePart(COMPILE_VAE, boost)) : null;
      if (vae) {
        vae.mode = compile.mode;
        room.moveOutput(node, 2, vae, 0);
      }
      room.become(node, { type: loader, widgets_values: [values.ckpt_name ?? ""] }, ["ckpt_name"]);
      room.connect(node, 0, compile, "model", "MODEL");
      if (vae) room.connect(node, 2, vae, "vae", "VAE");
      return true;
    }
    case "sample": {
      const names = ["seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise"];
      const links = ["model", "positive", "negative", "latent_image", ...names];
      room.become(node, { type: "KSampler", widgets_values: names.map((name) => values[name]) }, links);
      return true;
    }
    case "style": {
      if (styles.includes(values.style) && values.style !== "(No style)") return false;
      const negative = room.add(node, { type: "CLIPTextEncode", widgets_values: [values.text_negative ?? ""] });
      const size = room.halve(node, negative);
      room.moveOutput(node, 1, negative, 0);
      room.copyInput(node, "clip", negative, "clip");
      room.copyInput(node, "text_negative", negative, "text");
      const positive = { type: "CLIPTextEncode", widgets_values: [values.text_positive ?? ""] };
      room.become(node, positive, ["clip", ["text_positive", "text"]]);
      node.outputs = node.outputs?.slice(0, 1);
      node.size = size;
      return true;
    }
    case "away":
      return room.takeAway(node, through);
    default:
      return false;
  }
}

/** @param {ReturnType<typeof readBoost>} boost */
const compileNode = ({ backend, effort }) => ({
  type: COMPILE,
  widgets_values: [backend, "blocks", effort, "run uncompiled", true],
});

/** A node that compiles a VAE or a ControlNet. @param {string} type @param {ReturnType<typeof readBoost>} boost */
const compilePart = (type, { backend }) => ({ type, widgets_values: [backend, "run uncompiled"] });

/** What a booster at `custom_booster` asks for. @param {Saved} node @param {Room} room */
function boostOf(node, room) {
  const together = room.source(node, "custom_booster");
  const booster =
    together?.type === "OneDiffModelBooster" ? room.source(together, "torchcompile_booster") : undefined;
  return readBoost(booster);
}

/** Whether a booster asks for DeepCache. @param {Saved} node @param {Room} room */
function cachesSteps(node, room) {
  const booster = room.source(node, "custom_booster");
  return booster !== undefined && room.source(booster, "deepcache_booster") !== undefined;
}

/** @param {Saved | undefined} booster */
function readBoost(booster) {
  if (booster?.type !== "OneDiffTorchCompileBooster" && booster?.type !== "OneDiffNexfortBooster")
    return { backend: "auto", effort: "fast start", off: false };
  const { mode, disable } = valuesOf(booster);
  const nexfort = booster.type === "OneDiffNexfortBooster";
  const thorough = THOROUGH.test(typeof mode === "string" ? mode : nexfort ? "max-optimize" : "");
  const backend = nexfort ? "nexfort" : "inductor";
  return { backend, effort: thorough ? "max speed" : "fast start", off: disable === true };
}

/**
 * Boosters whose settings nobody takes any more, those behind them last.
 * @param {Room} room @param {(node: Saved) => boolean} isChosen
 */
function dropBoosters(room, isChosen) {
  /** @type {Saved[]} */
  const dropped = [];
  for (let found = true; found; ) {
    found = false;
    for (const node of room.nodes().filter(isBooster)) {
      if (room.isRead(node) || !(isChosen(node) || room.fed.has(node.id))) continue;
      room.takeAway(node);
      dropped.push(node);
      found = true;
    }
  }
  return dropped;
}
