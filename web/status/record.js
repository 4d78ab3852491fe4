// @ts-check
// The shape of a status record, as the server sends it (docs/record.md), and how to read the parts that may be missing.

/**
 * @typedef {Object} Finding
 * @property {string} [severity] error, warning or note
 * @property {string} [path] module path, e.g. "input_blocks.1.1.transformer_blocks.0.attn2"
 * @property {string} [class]
 * @property {string} [where] file:line
 * @property {string} [what]
 * @property {string} [why]
 * @property {string} [fix]
 * @property {string} [rule]
 */

/**
 * @typedef {Object} Progress
 * @property {number} [done]
 * @property {number} [total]
 * @property {string} [path] the block that is being worked on
 * @property {number} [seconds] since this phase began
 */

/**
 * @typedef {Object} StatusRecord
 * @property {string} workflow
 * @property {string} node execution id: "12", in a subgraph "3:12"
 * @property {Record<string, unknown> | null} [settings] what the node was given, by input
 * @property {Record<string, [string, number]> | null} [sources] which of these came through a link, from which node's output
 * @property {Record<string, Record<string, unknown>> | null} [upstream] what the nodes before were given, by execution id
 * @property {string} state
 * @property {string | null} [summary]
 * @property {Record<string, any> | null} [model]
 * @property {Record<string, any> | null} [backend]
 * @property {Record<string, any> | null} [check]
 * @property {Record<string, any> | null} [patches]
 * @property {Record<string, any> | null} [compile]
 * @property {boolean | null} [not_finite] whether the last sampling gave NaN or Inf
 * @property {{by: string, off: number | null, steps: number, of: number} | null} [approximate] steps that leave blocks out
 * @property {{why?: string, because?: string, by?: string | null, where?: string | null, steps?: number, of?: number} | null} [unused] why the node had no effect, or not in all steps
 * @property {{where?: string, seconds?: number, cancelled?: boolean} | null} [held] a call of the processor that has not returned
 * @property {Record<string, any> | null} [speed]
 * @property {Record<string, any> | null} [parity]
 * @property {Record<string, any> | null} [memory]
 * @property {Record<string, any> | null} [machine]
 * @property {string | null} [measured_at]
 * @property {Progress | null} [progress] only while something is going on
 */

const LONGEST = 400;
const LIVE = new Set(["checking", "starting", "compiling", "measuring"]);

/** @param {StatusRecord | null} record */
export const isLive = (record) => record !== null && (LIVE.has(record.state) || Boolean(record.held));

/** Whether a record says how something ended; before the first run and during one it does not. @param {StatusRecord} record */
export const isOutcome = (record) => !isLive(record) && record.state !== "idle";

/** @param {unknown} value @returns {value is number} */
export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** @param {unknown} value @returns {any[]} */
export const list = (value) => (Array.isArray(value) ? value : []);

/**
 * How many, of something given as a number or as a list; null when it is neither.
 * @param {unknown} value
 */
export const count = (value) => (isNumber(value) ? value : Array.isArray(value) ? value.length : null);

/**
 * One printable line: text from a server or a file may hold line breaks, control characters or pages of traceback.
 * @param {unknown} value
 */
export function plain(value) {
  if (value === null || value === undefined || typeof value === "object") return "";
  const line = String(value)
    .replace(/[\s\p{Cc}\p{Cf}]+/gu, " ")
    .trim();
  return line.length > LONGEST ? `${line.slice(0, LONGEST - 1)}…` : line;
}

/**
 * The packs whose code runs inside compiled blocks: "ComfyUI-KJNodes.nodes:attention" is KJNodes'. ComfyUI's own is a
 * choice of how attention is computed.
 * @param {StatusRecord} record
 */
export function packsInside(record) {
  const names = list(record.compile?.operators).map((one) => plain(one?.where).split(/[.:]/)[0]);
  const packs = names.map((name) => name.replace(/^comfyui[-_]|[-_]comfyui$/i, ""));
  return [...new Set(packs)].filter((pack) => pack && !/^comfy(_\w+)?$/.test(pack));
}

/** @param {StatusRecord} record @returns {Finding[]} */
export const findings = (record) => list(record.check?.findings).filter((found) => found && typeof found === "object");

/**
 * Errors or warnings: the counter where the record has one, else the findings of that severity.
 * @param {StatusRecord} record
 * @param {"error" | "warning"} severity
 */
export const problems = (record, severity) =>
  count(record.check?.[`${severity}s`]) ?? findings(record).filter((found) => found.severity === severity).length;

/** @param {StatusRecord} record @returns {{site: string, processor: string}[]} */
export const patchedSites = (record) => list(record.patches?.sites).filter((site) => site && typeof site === "object");

/**
 * The processor that was asked for and is not used, and why; null where the one asked for is.
 * @param {StatusRecord} record
 */
export function rejectedProcessor(record) {
  const { rejected } = record.patches ?? {};
  if (!rejected || typeof rejected !== "object") return null;
  const { where, what } = rejected;
  return { name: plain(rejected.class) || plain(rejected.processor), where: plain(where), what: plain(what) };
}

/**
 * One printable line that ends as a sentence does.
 * @param {unknown} text
 */
export function sentence(text) {
  const line = plain(text);
  return line && !/[.!?。…]$/.test(line) ? `${line}.` : line;
}

const STOPPED = new Set(["idle", "partial"]);
const UNUSED = new Set(["patched", "uncompiled"]);
const SOME = "some steps";
const ADDS_NOTHING = new Map(
  ["strength", "weight", "range", "mask", "no step"].map((why) => [why, `adds_nothing_${why.replace(" ", "_")}`]),
);
const OUR_PATCH = "Patch Attention Processors";
const IN_PART = new Set(["patched", "compiled", "partial"]);

/**
 * How far compiling came when a run ended before it was done; null when nothing is left to do.
 * @param {StatusRecord} record
 * @returns {{done: number, total: number, beside: boolean} | null} total 0: before the blocks were counted; beside:
 *   nobody stopped it, a compiler is at work in the background
 */
export function stoppedAt({ state, compile }) {
  const { done, total, beside } = compile?.stopped ?? {};
  return STOPPED.has(state) && isNumber(done) && isNumber(total) ? { done, total, beside: beside === true } : null;
}

/**
 * Why what the node did to the model had no effect, as the end of a key of words; null when it had one.
 * @param {StatusRecord} record
 */
export function unusedBecause({ state, unused }) {
  if (!unused || unused.why === SOME || !UNUSED.has(state)) return null;
  if (unused.why === "not sampled" || unused.why === "not used") return unused.why.replace(" ", "_");
  if (unused.why === "adds nothing") return ADDS_NOTHING.get(plain(unused.because)) ?? null;
  const what = unused.why === "not called" ? "not_called" : state === "patched" ? "not_at_sites" : "not_at_blocks";
  return plain(unused.by) ? `${what}_by` : what;
}

/**
 * In how many steps a node took part when another one did the rest; null where in all or in none.
 * @param {StatusRecord} record
 * @returns {{steps: number, of: number, by: string} | null}
 */
export function tookPart({ state, unused }) {
  const { why, steps, of, by } = unused ?? {};
  return IN_PART.has(state) && why === SOME && isNumber(steps) && isNumber(of) ? { steps, of, by: plain(by) } : null;
}

/**
 * At how many of its sites a patch was not called in the last sampling, and who computed there; null where at all.
 * @param {StatusRecord} record
 * @returns {{done: number, total: number, count: number, by: string} | null}
 */
export function takenSites(record) {
  const taken = count(record.patches?.taken?.sites);
  const total = patchedSites(record).length;
  if (!taken || taken > total) return null;
  return { done: total - taken, total, count: taken, by: plain(record.patches?.taken?.by) };
}

/** Whether another pack's node did; a second patch of ours is put there on purpose. @param {StatusRecord} record */
export const takenByOthers = (record) => ![OUR_PATCH, "", undefined].includes(takenSites(record)?.by);

/**
 * What the times of a record are of: a step of a model, or a run of what is called for itself, as a VAE is.
 * @param {StatusRecord} record
 * @returns {"step" | "run"}
 */
export const unitOf = (record) => ((record.speed?.unit ?? record.compile?.unit) === "run" ? "run" : "step");
