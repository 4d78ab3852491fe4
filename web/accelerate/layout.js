// @ts-check
// Where new nodes go, so that they lie on no other node, and links neither cross nor run under a node. No DOM in here.

/**
 * @typedef {[number, number]} Point
 * @typedef {{id: unknown, x: number, y: number, width: number, height: number}} Box with its title
 * @typedef {{from: number, by: number}} Move what begins at `from` or further right goes right by `by`
 * @typedef {{from: unknown, start: Point, to: unknown, end: Point}} Wire
 */

/** Space between nodes in a row. */
export const GAP = 50;
const CLOSEST = 20;
const POINTS = 20;
/** Steep links swing out: by how much what stands right of the giver gives way, and room before the new nodes. */
const ROOMS = [0, 80, 160, 320].flatMap((aside) => [0, 60, 120, 240].map((room) => [aside, room]));

/**
 * A place for nodes in a row between the one that gives and those that take.
 * @param {Object} about
 * @param {Box[]} about.boxes all nodes that are there
 * @param {Wire[]} about.wires all links that stay
 * @param {{id: unknown, at: Point}} about.giver and where its output is
 * @param {{id: unknown, at: Point}[]} about.takers and where their inputs are
 * @param {{width: number, height: number, input: Point, output: Point}[]} about.row the new nodes, with their slots
 *   as seen from their upper left corner
 * @returns {{at: Point[], moves: Move[]}} the corners of the new nodes, and what is to be moved right for them
 */
export function place({ boxes, wires, giver, takers, row }) {
  const width = row.reduce((sum, node) => sum + node.width + GAP, -GAP);
  const height = Math.max(...row.map((node) => node.height));
  const source = boxes.find(({ id }) => id === giver.id);
  const left = (source ? source.x + source.width : giver.at[0]) + GAP;
  const sinks = takers.map(({ id, at }) => boxes.find((box) => box.id === id)?.x ?? at[0]);
  const from = Math.min(...sinks);
  const ahead = from > giver.at[0]; // else the takers stand left of the giver, and nothing is moved

  let best = { cost: Infinity, at: /** @type {Point[]} */ ([]), moves: /** @type {Move[]} */ ([]) };
  for (const [aside, room] of ahead ? ROOMS : [[0, 0]]) {
    const by = ahead ? Math.max(0, left + room + width + GAP - from) : 0;
    const moves = [
      { from: left - GAP + 1, by: Math.min(aside, by) },
      { from, by: by - Math.min(aside, by) },
    ].filter((move) => move.by > 0);
    const offsets = new Map(boxes.map((box) => [box.id, offset(moves, box.x)]));
    const moved = boxes.map((box) => ({ ...box, x: box.x + (offsets.get(box.id) ?? 0) }));
    const end = (/** @type {unknown} */ id, /** @type {Point} */ [x, y]) =>
      /** @type {Point} */ ([x + (offsets.get(id) ?? 0), y]);
    const links = wires.map((wire) => ({ ...wire, start: end(wire.from, wire.start), end: end(wire.to, wire.end) }));
    const ends = takers.map(({ id, at }) => ({ id, at: end(id, at) }));
    for (const x of new Set([from + by - GAP - width, Math.min(left + room, from + by - GAP - width)])) {
      for (const y of rows(moved, x, width, height, [giver.at[1], ...ends.map(({ at }) => at[1])])) {
        const at = corners(row, x, y);
        const cost = costOf(at, moved, links, ends) + 2 * (by + aside);
        if (cost < best.cost) best = { cost, at, moves };
      }
    }
  }
  return { at: best.at, moves: best.moves };

  /** @param {Point[]} at @param {Box[]} there @param {Wire[]} old @param {{id: unknown, at: Point}[]} to */
  function costOf(at, there, old, to) {
    const own = at.map(([x, y], index) => ({ id: index, x, y, width: row[index].width, height: row[index].height }));
    const fresh = freshWires(at, to);
    const faults =
      count(own, there, (one, other) => overlap(one, other, CLOSEST)) +
      count(own, old, (box, wire) => runsUnder(wire, box)) +
      count(fresh, there, (wire, box) => box.id !== wire.from && box.id !== wire.to && runsUnder(wire, box)) +
      count(fresh, old, cross);
    return faults * 1e6 + fresh.reduce((sum, { start, end: last }) => sum + Math.abs(start[1] - last[1]), 0);
  }

  /** The links that come new. @param {Point[]} at @param {{id: unknown, at: Point}[]} to @returns {Wire[]} */
  function freshWires(at, to) {
    const slot = (/** @type {number} */ index, /** @type {"input" | "output"} */ kind) =>
      /** @type {Point} */ ([at[index][0] + row[index][kind][0], at[index][1] + row[index][kind][1]]);
    const last = row.length - 1;
    return [
      { from: giver.id, start: giver.at, to: null, end: slot(0, "input") },
      ...row.slice(1).map((_, index) => ({
        from: null,
        start: slot(index, "output"),
        to: null,
        end: slot(index + 1, "input"),
      })),
      ...to.map(({ id, at: point }) => ({ from: null, start: slot(last, "output"), to: id, end: point })),
    ];
  }
}

/** By how much a thing at `x` moves. @param {Move[]} moves @param {number} x */
export const offset = (moves, x) => moves.reduce((sum, { from, by }) => (x >= from ? sum + by : sum), 0);

/** @param {{width: number}[]} row @param {number} x @param {number} y @returns {Point[]} */
function corners(row, x, y) {
  let next = x;
  return row.map(({ width }) => {
    const corner = /** @type {Point} */ ([next, y]);
    next += width + GAP;
    return corner;
  });
}

/**
 * Heights worth trying: beside an end of a link, and above and below what stands there.
 * @param {Box[]} boxes @param {number} x @param {number} width @param {number} height @param {number[]} ends
 */
function rows(boxes, x, width, height, ends) {
  const near = boxes.filter((box) => box.x < x + width + GAP && box.x + box.width > x - GAP);
  const tops = boxes.map(({ y }) => y);
  return [
    ...ends.map((y) => y - 40),
    ...tops,
    ...near.flatMap((box) => [box.y - height - GAP, box.y + box.height + GAP]),
    Math.min(...tops) - height - GAP,
    Math.max(...boxes.map((box) => box.y + box.height)) + GAP,
  ];
}

/**
 * How many pairs of two lists are as `bad` says.
 * @template A, B
 * @param {A[]} some @param {B[]} others @param {(one: A, other: B) => boolean} bad
 */
const count = (some, others, bad) =>
  some.reduce((sum, one) => sum + others.filter((other) => bad(one, other)).length, 0);

/** @param {Box} a @param {Box} b @param {number} margin */
const overlap = (a, b, margin) =>
  a.x < b.x + b.width + margin &&
  b.x < a.x + a.width + margin &&
  a.y < b.y + b.height + margin &&
  b.y < a.y + a.height + margin;

/** Points of a link, as the host draws it: level at both ends. @param {Wire} wire @returns {Point[]} */
export function curve({ start, end }) {
  const reach = Math.hypot(end[0] - start[0], end[1] - start[1]) / 4;
  const xs = [start[0], start[0] + reach, end[0] - reach, end[0]];
  const ys = [start[1], start[1], end[1], end[1]];
  return Array.from({ length: POINTS + 1 }, (_, index) => {
    const t = index / POINTS;
    const weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t ** 2 * (1 - t), t ** 3];
    const at = (/** @type {number[]} */ values) => values.reduce((sum, value, i) => sum + value * weights[i], 0);
    return /** @type {Point} */ ([at(xs), at(ys)]);
  });
}

/** @param {Wire} wire @param {Box} box */
export const runsUnder = (wire, box) =>
  curve(wire).some(([x, y]) => x > box.x + 4 && x < box.x + box.width - 4 && y > box.y && y < box.y + box.height);

/** Whether two links cross; those that share an end do not. @param {Wire} one @param {Wire} other */
export function cross(one, other) {
  if (same(one.start, other.start) || same(one.end, other.end)) return false;
  const [a, b] = [curve(one), curve(other)];
  return a.slice(1).some((end, i) => b.slice(1).some((last, j) => meet(a[i], end, b[j], last)));
}

/** @param {Point} a @param {Point} b */
const same = (a, b) => a[0] === b[0] && a[1] === b[1];

/**
 * Whether the straight pieces from `a` to `b` and from `c` to `d` meet.
 * @param {Point} a @param {Point} b @param {Point} c @param {Point} d
 */
function meet(a, b, c, d) {
  const side = (/** @type {Point} */ p, /** @type {Point} */ q, /** @type {Point} */ r) =>
    Math.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]));
  return side(a, b, c) * side(a, b, d) < 0 && side(c, d, a) * side(c, d, b) < 0;
}
