// @ts-check
// Puts OneDiff's nodes into the host's graphs, and takes them out again, each as one step of undo.

import { allNodes } from "../graph/walk.js";
import { COMPILE, COMPILE_CONTROL_NET, COMPILE_VAE, FORWARD_CHECK, PATCH_ATTENTION } from "../node_ids.js";
import { place } from "./layout.js";
import { plan } from "./plan.js";
import { giveBack, makeRoom, ROOM } from "./room.js";

const TITLE = 30;
/** Nodes 2.0 draws nodes higher than they are made: the pack's name stands below. */
const BELOW = 60;
const BYPASSED = 4;
const PASSING = new Set([PATCH_ATTENTION, FORWARD_CHECK, COMPILE, COMPILE_VAE, COMPILE_CONTROL_NET]);

/**
 * @param {Object} host
 * @param {() => any} host.root the root graph on the canvas
 * @param {() => any} host.canvas
 * @param {(type: string) => any} host.create makes a node
 */
export function createChanges({ root, canvas, create }) {
  return {
    /**
     * @param {any} [loader] only the model that this node loads
     * @returns {{added: any[], off: any[], samplers: number}} off: nodes that were there, and are switched on now
     */
    accelerate(loader = null) {
      const { insertions, off, samplers } = plan(root(), loader);
      const added = step(() => {
        for (const node of off) node.mode = 0;
        return insertions.flatMap((insertion) => insert(insertion, create));
      });
      return { added, off, samplers };
    },

    /** @returns {any[]} the nodes that were taken out */
    remove() {
      const ours = allNodes(root()).filter((node) => PASSING.has(String(node.type)) && !isRead(node));
      return step(() => {
        const rooms = ours.map(({ id, graph, properties }) => ({ id, graph, noted: properties?.[ROOM] }));
        const out = ours.map(takeOut);
        // What gave way several times goes back the other way round.
        const last = rooms.filter(({ noted }, index) => noted && !out[index].graph).sort((a, b) => Number(b.id) - Number(a.id));
        for (const { graph, noted } of last) giveBack(graph, noted, boxOf);
        return out;
      });
    },
  };

  /** @template T @param {() => T} change @returns {T} */
  function step(change) {
    const shown = canvas();
    shown.emitBeforeChange();
    try {
      return change();
    } finally {
      shown.emitAfterChange();
      shown.setDirty(true, true);
    }
  }
}

/** What goes through a node: a model, a VAE or a ControlNet. @param {any} node */
const passing = (node) => node.outputs[0].type;

/** Whether more than that is taken from a node, as a check's report. @param {any} node */
const isRead = (node) =>
  node.outputs.some((/** @type {any} */ { type, links }) => type !== passing(node) && links?.length);

/** @param {import("./plan.js").Insertion} insertion @param {(type: string) => any} create @returns {any[]} */
function insert({ graph: given, origin, slot, types, targets }, create) {
  const graph = /** @type {any} */ (given);
  const made = types.map((type) => create(type));
  const taking = new Set(targets.map((target) => linkOf(target)));
  const from = graph.getNodeById(origin);
  const giver = { id: origin, at: from ? outputOf(from, slot) : edgeOf(graph.inputNode, slot) };
  const places = place({
    boxes: [...graph.nodes, graph.inputNode, graph.outputNode].filter(Boolean).map(boxOf),
    wires: wiresOf(graph, taking),
    giver,
    takers: targets.map(({ node, slot: at }) => ({ id: node.id, at: inputOf(node, at) })),
    row: made.map((node) => ({
      width: node.size[0],
      height: node.size[1] + TITLE + BELOW,
      input: [0, TITLE + 14],
      output: [node.size[0], TITLE + 14],
    })),
  });
  const moved = makeRoom(graph, places.moves);
  if (moved.length) made[0].properties = { ...made[0].properties, [ROOM]: moved };
  made.forEach((node, index) => {
    node.pos = [places.at[index][0], places.at[index][1] + TITLE];
    graph.add(node);
  });
  if (from) from.connect(slot, made[0], 0);
  else graph.inputNode.slots[slot].connect(made[0].inputs[0], made[0]);
  for (let index = 1; index < made.length; index += 1) made[index - 1].connect(0, made[index], 0);
  for (const target of targets) made[made.length - 1].connect(0, target.node, target.slot);
  return made;
}

/** @param {any} node @returns {any} the node, which is out of its graph now */
function takeOut(node) {
  const { graph } = node;
  const before = graph.getLink(node.inputs.find((/** @type {any} */ { type }) => type === passing(node))?.link);
  const from = before && graph.getNodeById(before.origin_id);
  const door = before && !from ? graph.inputNode?.slots[before.origin_slot] : null;
  const after = (node.outputs[0].links ?? []).map((/** @type {any} */ id) => graph.getLink(id)).filter(Boolean);
  if (door && after.some((/** @type {any} */ { target_id: id }) => !graph.getNodeById(id))) {
    node.mode = BYPASSED; // no link leads from a subgraph's input to its output
    return node;
  }
  for (const { target_id: id, target_slot: slot } of after) {
    const target = graph.getNodeById(id);
    if (target) {
      if (from) from.connect(before.origin_slot, target, slot);
      else if (door) door.connect(target.inputs[slot], target);
    } else if (from) graph.outputNode?.slots[slot]?.connect(from.outputs[before.origin_slot], from);
  }
  graph.remove(node);
  return node;
}

/** @param {any} node @returns {import("./layout.js").Box} */
const boxOf = (node) => ({
  id: node.id,
  x: node.pos[0],
  y: node.pos[1] - TITLE,
  width: node.size[0],
  height: (node.flags?.collapsed ? 0 : node.size[1]) + TITLE,
});

/** @param {any} graph @param {Set<unknown>} without @returns {import("./layout.js").Wire[]} */
function wiresOf(graph, without) {
  const ids = graph.nodes.flatMap((/** @type {any} */ node) =>
    (node.inputs ?? []).map((/** @type {any} */ { link }) => link),
  );
  return ids
    .filter((/** @type {unknown} */ id) => id != null && !without.has(id))
    .map((/** @type {unknown} */ id) => graph.getLink(id))
    .filter(Boolean)
    .map((/** @type {any} */ link) => {
      const [from, to] = [graph.getNodeById(link.origin_id), graph.getNodeById(link.target_id)];
      return {
        from: link.origin_id,
        start: from ? outputOf(from, link.origin_slot) : edgeOf(graph.inputNode, link.origin_slot),
        to: link.target_id,
        end: inputOf(to, link.target_slot),
      };
    });
}

/** @param {{node: any, slot: number}} target */
const linkOf = ({ node, slot }) => node.inputs[slot].link;

/** @param {any} node @param {number} slot @returns {import("./layout.js").Point} */
const inputOf = (node, slot) => pointOf(node.getConnectionPos(true, slot));

/** @param {any} node @param {number} slot @returns {import("./layout.js").Point} */
const outputOf = (node, slot) => pointOf(node.getConnectionPos(false, slot));

/** Where a subgraph's input stands. @param {any} door @param {number} slot @returns {import("./layout.js").Point} */
const edgeOf = (door, slot) =>
  pointOf(door?.slots?.[slot]?.pos ?? [(door?.pos[0] ?? 0) + (door?.size[0] ?? 0), door?.pos[1] ?? 0]);

/** @param {ArrayLike<number>} at @returns {import("./layout.js").Point} */
const pointOf = (at) => [at[0], at[1]];
