// @ts-check
// The room that was made for new nodes, and is given back when they go. It is noted in the first of them, in the workflow
// file too: a file may hold anything, so that it is read with care.

import { isNumber, list } from "../status/record.js";
import { offset } from "./layout.js";

/** @typedef {import("./layout.js").Move} Move */
/** @typedef {import("./layout.js").Box} Box */
/**
 * One thing that gave way: what it is, its id, where it stood afterwards, and by how much it had moved. A group also has
 * the width that it had then, and by how much it had grown.
 * @typedef {[kind: string, id: unknown, x: number, y: number, by: number, width?: number, grown?: number]} Moved
 */

/** The property of a node that notes what gave way for it. */
export const ROOM = "onediff_room";

const NODE = "node";
const EDGE = "edge";
const REROUTE = "reroute";
const GROUP = "group";
const MOST = 5000;
/** The host rounds positions. */
const SAME = 1;

/** @param {any} graph @returns {[string, unknown, any][]} all that has a place in it */
const thingsOf = (graph) => [
  ...graph.nodes.map((/** @type {any} */ node) => [NODE, node.id, node]),
  ...(graph.outputNode ? [[EDGE, 0, graph.outputNode]] : []),
  ...[...(graph.reroutes?.values() ?? [])].map((reroute) => [REROUTE, reroute.id, reroute]),
  ...(graph.groups ?? []).map((/** @type {any} */ group, /** @type {number} */ index) => [GROUP, group.id ?? index, group]),
];

/** @param {any} graph @param {Move[]} moves @returns {Moved[]} what gave way */
export function makeRoom(graph, moves) {
  return thingsOf(graph).flatMap(([kind, id, thing]) => {
    const [x, y] = thing.pos;
    const by = offset(moves, x);
    const grown = kind === GROUP ? offset(moves, x + thing.size[0]) - by : 0;
    if (!by && !grown) return [];
    thing.pos = [x + by, y];
    if (kind !== GROUP) return [/** @type {Moved} */ ([kind, id, x + by, y, by])];
    thing.size = [thing.size[0] + grown, thing.size[1]];
    return [/** @type {Moved} */ ([kind, id, x + by, y, by, thing.size[0], grown])];
  });
}

/**
 * Moves back what still stands where it was moved to, unless something stands in its way by now.
 * @param {any} graph
 * @param {unknown} noted as a node's property holds it
 * @param {(node: any) => Box} boxOf
 */
export function giveBack(graph, noted, boxOf) {
  const moved = list(noted).slice(0, MOST).filter(isMoved);
  const there = new Map(thingsOf(graph).map(([kind, id, thing]) => [JSON.stringify([kind, id]), thing]));
  const back = moved.flatMap((one) => {
    const thing = there.get(JSON.stringify([one[0], one[1]]));
    return thing && stands(thing, one) ? [{ thing, one }] : [];
  });
  const going = new Map(back.filter(({ one }) => one[0] === NODE).map(({ thing, one }) => [thing, one[4]]));
  const staying = graph.nodes.filter((/** @type {any} */ node) => !going.has(node)).map(boxOf);
  for (const [node, by] of going) {
    const box = boxOf(node);
    if (staying.some((/** @type {Box} */ other) => touch({ ...box, x: box.x - by }, other))) return;
  }
  for (const { thing, one } of back) {
    thing.pos = [thing.pos[0] - one[4], thing.pos[1]];
    if (one[6]) thing.size = [thing.size[0] - one[6], thing.size[1]];
  }
}

/** @param {any} value @returns {value is Moved} */
const isMoved = (value) => Array.isArray(value) && value.length >= 5 && value.slice(2).every(isNumber);

/** @param {any} thing @param {Moved} moved */
const stands = (thing, [, , x, y, , width]) =>
  Math.abs(thing.pos[0] - x) <= SAME &&
  Math.abs(thing.pos[1] - y) <= SAME &&
  (width === undefined || Math.abs(thing.size[0] - width) <= SAME);

/** @param {Box} a @param {Box} b */
const touch = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
