// @ts-check
// What a patch put in the place of ComfyUI's attention, how it was chosen and what that gains, in words.

import { duration, factor, tiny } from "./format.js";
import { reasonIn } from "./reasons.js";
import { count, isNumber, list, patchedSites, plain, rejectedProcessor, takenByOthers, takenSites } from "./record.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("./record.js").StatusRecord} StatusRecord */
/** @typedef {import("./text.js").Part} Part */

/** Errors from which on an approximate kernel's is worth a word in the line. */
const WORTH_SAYING = 0.005;

/** Speedups of attention that are noise. */
const NOISE = 1.03;

/** How `auto` stands: "deciding", "chosen", "no gain", "left"; empty for a named processor. @param {StatusRecord} record */
const autoState = (record) => plain(record.patches?.auto?.state);

/** Whether `auto` put nothing in, and that is as it should be. @param {StatusRecord} record */
export const leftAsItWas = (record) => ["no gain", "left", "untried"].includes(autoState(record));

/** Whether `auto` found nothing faster. @param {StatusRecord} record */
export const gainsNothing = (record) => autoState(record) === "no gain";

/** Whether the first step has still to show what is chosen. @param {StatusRecord} record */
export const isUndecided = (record) => autoState(record) === "deciding";

/** The processors at the sites of a record, each once. @param {StatusRecord} record */
export const processorsOf = (record) =>
  [...new Set(patchedSites(record).map((site) => plain(site.processor)))].filter(Boolean);

/**
 * "32 sites patched", "auto: sdpa", "attention 1.9×"; "7 of 14 sites patched", "the others: “AttentionCouple”".
 * @param {StatusRecord} record
 * @param {Words} words
 * @returns {(Part | string | null)[]}
 */
export function patchParts(record, words) {
  const sites = patchedSites(record).length;
  if (isUndecided(record)) return [{ text: words("status.auto_deciding"), elastic: true }];
  if (leftAsItWas(record)) {
    const why = { left: "status.auto_left", untried: "status.auto_untried" }[autoState(record)] ?? "status.auto_same";
    const stays = autoState(record) === "left" ? "status.theirs_stays" : "status.hosts_stays";
    return [words(why), { text: words(stays), elastic: true }];
  }
  const bySdpa = count(record.patches?.by_sdpa);
  const names = processorsOf(record).join(", ");
  const text = autoState(record) === "chosen" ? words("status.auto_chosen", { names }) : names;
  const more = [
    attentionGain(record, words),
    offBy(record, words),
    bySdpa ? words("status.by_sdpa", { count: bySdpa }) : null,
  ].filter(Boolean);
  const taken = takenSites(record);
  if (taken && takenByOthers(record))
    return [words("status.sites_of", taken), { text: words("status.others_by", taken), elastic: true }];
  const patched = sites ? words("status.sites", { count: sites }) : words("status.no_sites");
  return [
    taken ? words("status.sites_of", taken) : patched,
    { text, elastic: !more.length },
    ...more,
  ];
}

/** "attention 1.9×"; null where that is not known, or noise. @param {StatusRecord} record @param {Words} words */
function attentionGain(record, words) {
  const ratio = record.patches?.gain?.attention_speedup ?? record.patches?.auto?.attention_speedup;
  return isNumber(ratio) && ratio >= NOISE ? words("status.attention_gain", { factor: factor(words, ratio) }) : null;
}

/** "3 % off", of approximate kernels. @param {StatusRecord} record @param {Words} words */
function offBy(record, words) {
  const error = record.patches?.auto?.error;
  const isWorth = isNumber(error) && error >= WORTH_SAYING && record.patches?.auto?.quality === "fast";
  return isWorth ? words("status.off_by", { value: percent(error) }) : null;
}

/** @param {number} share */
const percent = (share) => (share * 100).toPrecision(2);

/**
 * "about 2.84× together" and "attention 1.75×, compiled 1.62×": what patch and compiling gain, before its parts; none
 * where nothing is patched, or that gains nothing. "about": computed from times of attention, not measured.
 * @param {{speed?: Record<string, any> | null}} record or receipt
 * @param {Words} words
 * @returns {string[]}
 */
export function together({ speed }, words) {
  const { total_speedup: total, patch_speedup: patch, speedup } = speed ?? {};
  if (!isNumber(total) || !isNumber(patch) || patch < NOISE) return [];
  const of = { total: factor(words, total), patch: factor(words, patch) };
  const how = speed?.computed ? "_computed" : "";
  if (!isNumber(speedup) || !speed?.verdict || total === patch) return [words(`status.together_patch${how}`, of)];
  return [words(`status.together${how}`, of), words("status.together_parts", { ...of, compiled: factor(words, speedup) })];
}

/**
 * The facts of a report: what a model call takes with and without, and how the choice came about.
 * @param {StatusRecord} record
 * @param {Words} words
 * @param {Words} say
 * @returns {[string, string | null | false][]}
 */
export function attentionFacts(record, words, say) {
  const { before_ms: before, after_ms: after, speedup, attention_speedup: ratio } = record.patches?.gain ?? {};
  const { state, quality, source, seconds } = record.patches?.auto ?? {};
  const isKnown = isNumber(before) && isNumber(after) && isNumber(speedup);
  const isUntimed = record.patches?.untimed === true && !rejectedProcessor(record);
  return [
    ["attention", isNumber(ratio) && say("attention_value", { factor: factor(words, ratio) })],
    [
      "patch_gain",
      isKnown
        ? say("patch_gain_value", {
            factor: factor(words, speedup),
            before: duration(words, before),
            after: duration(words, after),
          })
        : isUntimed && say("patch_gain_untimed"),
    ],
    [
      "chosen",
      state && state !== "deciding" && source
        ? say(source === "disk" ? "chosen_before" : "chosen_now", {
            quality: plain(quality),
            seconds: isNumber(seconds) ? seconds.toFixed(1) : "0",
          })
        : null,
    ],
  ];
}

/**
 * What `auto` tried, by the shape of calls, and why other kernels were not tried.
 * @param {StatusRecord} record
 * @param {Words} words
 * @param {Words} say
 * @returns {[{where: string, text: string}[], {where: string, text: string}[]]}
 */
export function choiceItems(record, words, say) {
  const rows = list(record.patches?.choices).filter((row) => row && typeof row === "object");
  /** @type {any[]} */
  const all = rows.flatMap((row) => list(row.candidates)).filter((one) => one && typeof one === "object");
  const names = new Set(all.filter(wasTried).map((one) => one.processor));
  const tried = rows.map((row) => ({
    where: [plain(row.site), plain(row.shape)].filter(Boolean).join(" · "),
    text: list(row.candidates)
      .filter((one) => names.has(one?.processor))
      .map((one) => candidate(one, words, say))
      .join("; "),
  }));
  const others = new Map(all.filter((one) => !names.has(one.processor)).map((one) => [plain(one.processor), one]));
  const items = [...others].map(([where, one]) => ({ where, text: reasonIn(one.reason, words) }));
  return [tried.filter(({ text }) => text), items];
}

/** Whether a candidate was run, however that ended. @param {any} one */
const wasTried = (one) => plain(one.verdict) !== "not tried";

/**
 * "sdpa: 534 ms, error 1.2e-7, taken", "flash: error 0.01, wrong", "sage: it raises RuntimeError: no kernel image".
 * @param {any} one
 * @param {Words} words
 * @param {Words} say
 */
function candidate(one, words, say) {
  const name = one.processor === "host" ? "ComfyUI" : plain(one.processor);
  const said = [
    isNumber(one.ms) && duration(words, one.ms),
    isNumber(one.error) && say("candidate_error", { value: tiny(one.error) }),
    verdict(one, words, say),
  ].filter(Boolean);
  return say("candidate", { name, said: said.join(", ") });
}

/** @param {any} one @param {Words} words @param {Words} say */
function verdict(one, words, say) {
  if (one.verdict === "wrong") return say(isNumber(one.error) ? "candidate_wrong" : "candidate_not_finite");
  const why = reasonIn(one.reason, words);
  return one.verdict === "taken" ? [say("taken"), why].filter(Boolean).join(": ") : why;
}
