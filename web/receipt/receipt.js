// @ts-check
// The receipt: what a node's properties in a workflow file say of its last measurement. A file may hold anything, so
// whatever is read from one is picked field by field, bounded, and only ever shown as text.

import { together } from "../status/attention.js";
import { duration, factor } from "../status/format.js";
import { isNumber, isOutcome, list, plain } from "../status/record.js";
import { slowerBy } from "../status/uncompiled.js";
import { isNoisy, isNotClearYet, isSlower } from "../status/verdict.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("../status/record.js").StatusRecord} StatusRecord */
/** @typedef {import("../status/text.js").Line} Line */

/**
 * @typedef {Object} Receipt
 * @property {string | null} summary in English, as the server wrote it
 * @property {Record<string, any> | null} speed
 * @property {Record<string, any> | null} parity
 * @property {Record<string, string> | null} machine
 * @property {Record<string, any>} [model] that was sampled; left out where that is not known
 * @property {string | null} measured_at ISO 8601
 */

/** @typedef {"on" | "no device" | "off"} ReceiptSetting */

const MOST_TEXT = 200;
const MOST_STEPS = 40;
const MOST_SIZE = 60;
const LARGEST = 1e9; // of milliseconds, ratios and pictures alike; beyond it somebody made it up
const EARLIEST = Date.UTC(2024, 0, 1);
const LATEST = Date.UTC(2200, 0, 1);

const FIELDS = ["summary", "speed", "parity", "machine", "model", "measured_at"];
const TIMES = ["eager_ms", "compiled_ms", "speedup", "patch_speedup", "total_speedup", "per_second", "breakeven_images"];
const ERRORS = ["max_abs", "relative", "cosine", "tolerance"];
const MACHINE = ["comfyui", "torch", "onediff", "python", "system", "device"];
const MODEL = ["class", "dtype"];
const KEPT = new Set(["compiled", "uncompiled"]);
const VERDICTS = new Set(["faster", "slower", "same"]);

/**
 * What a record leaves in the file. Null while it has nothing to say: before the first run and in the middle of one.
 * @param {StatusRecord} record
 * @param {ReceiptSetting} setting
 * @returns {Receipt | null}
 */
export function shapeReceipt(record, setting) {
  if (setting === "off" || !isOutcome(record)) return null;
  const receipt = readReceipt(record);
  if (receipt?.machine && setting === "no device") delete receipt.machine.device;
  const size = text(list(record.speed?.steps_size).at(-1)).slice(0, MOST_SIZE);
  if (receipt?.speed && size) receipt.speed.size = size;
  // What is not clear here is no figure for others.
  if (receipt?.speed && (isNotClearYet(record) || isNoisy(record))) delete receipt.speed.speedup;
  return receipt;
}

/**
 * @param {unknown} value whatever a file has in the place of a receipt
 * @returns {Receipt | null} null when nothing of it can be used
 */
export function readReceipt(value) {
  const fields = pick(value, FIELDS);
  if (fields === null) return null;
  const model = readModel(pick(fields.model, [...MODEL, "parameters"]));
  const receipt = {
    summary: text(fields.summary) || null,
    speed: readSpeed(pick(fields.speed, [...TIMES, "steps_ms", "kept", "verdict", "unit", "computed", "size"])),
    parity: readParity(pick(fields.parity, [...ERRORS, "passed"])),
    machine: readTexts(pick(fields.machine, MACHINE), MACHINE),
    ...(model && { model }),
    measured_at: readTime(fields.measured_at),
  };
  return receipt.summary || receipt.speed ? receipt : null;
}

/**
 * @param {Receipt} receipt
 * @param {Words} words
 * @param {boolean} mine whether this browser wrote it, in an earlier session of this server
 * @returns {Line}
 */
export function describeReceipt(receipt, words, mine) {
  const { speed, summary, machine, measured_at: at } = receipt;
  const who = mine ? "mine" : "author";
  const isCompiled = speed?.kept !== "uncompiled" && isNumber(speed?.compiled_ms);
  const step = isCompiled ? speed?.compiled_ms : speed?.eager_ms;
  const unit = speed?.unit === "run" ? "run" : "step";
  const stepOf = `status.${isCompiled ? "a_compiled" : "an_uncompiled"}_${unit}`;
  const by = isSlower(receipt) ? slowerBy(speed?.eager_ms, speed?.compiled_ms, words) : "";
  const [all, parts] = together(receipt, words);
  const gain = all
    ? words(`receipt.${who}_together`, { what: all })
    : speed?.kept === "uncompiled"
      ? by
        ? words(`receipt.${who}_slower`, { by })
        : words(`receipt.${who}_uncompiled`)
      : isNumber(speed?.speedup)
        ? words(`receipt.${who}_measured`, { what: factor(words, speed.speedup) })
        : "";
  // Without figures the machine means little; the tooltip has it.
  const said = gain
    ? [
        { text: gain },
        { text: machine?.device ?? "", elastic: true },
        { text: parts ?? "" },
        { text: isNumber(step) ? words(stepOf, { time: duration(words, step) }) : "" },
        { text: day(at) },
      ]
    : [{ text: words(`receipt.${who}`) }, { text: summary ?? "", elastic: true }];
  const shown = said.filter((part) => part.text !== "");
  return { symbol: mine ? "◷" : "✎", tone: "past", parts: shown, short: 2, text: shown.map((part) => part.text).join(" · ") };
}

/**
 * The same as sentences, for the tooltip. `rest` says what else is in it, from the receipt read as a record.
 * @param {Receipt} receipt
 * @param {Words} words
 * @param {boolean} mine
 * @param {(record: StatusRecord, words: Words) => string[]} rest
 */
export function receiptDetails(receipt, words, mine, rest) {
  const { machine, measured_at: at, summary } = receipt;
  const when = at === null ? "" : new Date(at).toLocaleString();
  const key = `receipt.${mine ? "mine" : "author"}_details`;
  const record = /** @type {any} */ ({ ...receipt, workflow: "", node: "", state: "", machine: null, measured_at: null });
  return [
    words(when ? `${key}_on` : key, { when }),
    summary ? words("receipt.summary", { summary }) : "",
    ...rest(record, words),
    receipt.speed?.size ? words("receipt.size", { size: receipt.speed.size }) : "",
    machine?.device ? words("details.machine", { device: machine.device }) : "",
    words(mine ? "receipt.mine_remedy" : "receipt.author_remedy"),
  ].filter(Boolean);
}

/**
 * @param {unknown} value
 * @param {string[]} names
 * @returns {Record<string, any> | null} the fields of these names that it has itself; null for what is no object
 */
function pick(value, names) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const found = names.filter((name) => Object.hasOwn(value, name));
  return Object.fromEntries(found.map((name) => [name, /** @type {any} */ (value)[name]]));
}

/** @param {unknown} value */
const text = (value) => (typeof value === "string" ? plain(value.slice(0, MOST_TEXT)) : "");

/** @param {unknown} value @returns {value is number} */
const isQuantity = (value) => isNumber(value) && value >= 0 && value <= LARGEST;

/** @param {Record<string, any> | null} speed */
function readSpeed(speed) {
  if (speed === null) return null;
  /** @type {Record<string, any>} */
  const read = {};
  for (const name of TIMES) if (isQuantity(speed[name]) && speed[name] > 0) read[name] = speed[name];
  if (Array.isArray(speed.steps_ms)) read.steps_ms = speed.steps_ms.slice(-MOST_STEPS).filter(isQuantity);
  if (KEPT.has(speed.kept)) read.kept = speed.kept;
  if (speed.unit === "run") read.unit = speed.unit;
  if (speed.computed === true) read.computed = true;
  const size = text(speed.size).slice(0, MOST_SIZE);
  if (size) read.size = size;
  if (VERDICTS.has(speed.verdict)) read.verdict = speed.verdict;
  return TIMES.some((name) => name in read) ? read : null;
}

/** @param {Record<string, any> | null} parity */
function readParity(parity) {
  if (parity === null || typeof parity.passed !== "boolean") return null;
  /** @type {Record<string, any>} */
  const read = { passed: parity.passed };
  for (const name of ERRORS) if (isNumber(parity[name]) && Math.abs(parity[name]) <= LARGEST) read[name] = parity[name];
  return read;
}

/** @param {Record<string, any> | null} fields @param {string[]} names @returns {Record<string, any> | null} */
function readTexts(fields, names) {
  if (fields === null) return null;
  const said = names.map((name) => [name, text(fields[name])]).filter(([, value]) => value);
  return said.length ? Object.fromEntries(said) : null;
}

/** @param {Record<string, any> | null} model */
function readModel(model) {
  const read = readTexts(model, MODEL);
  const parameters = model?.parameters;
  // More than any time: a model has billions.
  if (read && isNumber(parameters) && parameters > 0 && parameters <= 1e15) read.parameters = parameters;
  return read;
}

/** @param {unknown} value */
function readTime(value) {
  if (typeof value !== "string" || value.length > 40) return null;
  const time = Date.parse(value);
  return time >= EARLIEST && time <= LATEST ? value : null;
}

/** @param {string | null} at */
const day = (at) => (at === null ? "" : new Date(at).toLocaleDateString());
