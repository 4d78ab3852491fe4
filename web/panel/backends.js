// @ts-check
// What can compile on the server's machine: asked for, put into words, and shown in the sidebar.

import { list, plain, sentence } from "../status/record.js";
import { reasonIn } from "../status/reasons.js";
import { make, makeButton } from "./make.js";

/** @typedef {import("../words.js").Words} Words */

/**
 * @typedef {Object} BackendLine one backend in words
 * @property {string} symbol
 * @property {"good" | "plain" | "quiet"} tone
 * @property {string} name
 * @property {string} state
 * @property {string} why what was tried here; for one that is not available, what is missing and what to do
 */

/** @typedef {{asking: boolean, rows: unknown[] | null}} Backends rows: null until the server has answered */

/**
 * @param {any} row of `GET /onediff/backends`
 * @param {Words} words
 * @returns {BackendLine}
 */
export function backendLine(row, words) {
  const name = [plain(row?.name), row?.available ? plain(row?.version) : ""].filter(Boolean).join(" ");
  const why = sentence(reasonIn(row?.reason, words));
  if (!row?.available) return { symbol: "○", tone: "quiet", name, state: words("backends.unavailable"), why };
  return row.slower === true
    ? { symbol: "▼", tone: "plain", name, state: words("backends.slow"), why }
    : { symbol: "✓", tone: "good", name, state: words("backends.available"), why };
}

/**
 * The server tries each backend out before it answers: the first time that takes a while.
 * @param {Object} options
 * @param {() => Promise<any>} options.ask null when the server has no answer
 * @param {() => Promise<unknown>} options.again lets the server forget what did not work
 * @param {() => void} options.changed
 */
export function createBackends({ ask, again, changed }) {
  /** @type {Backends} */
  let known = { asking: false, rows: null };
  let asked = 0;
  const load = async () => {
    const mine = ++asked;
    known = { ...known, asking: true };
    changed();
    const answer = await ask();
    if (mine !== asked) return;
    known = { asking: false, rows: answer === null ? null : list(answer?.backends) };
    changed();
  };
  return {
    known: () => known,
    load,
    async retry() {
      if (known.asking) return;
      known = { asking: true, rows: null };
      changed();
      await again();
      await load();
    },
  };
}

/**
 * @param {Backends} backends
 * @param {() => void} retry
 * @param {Words} words
 */
export function backendsView({ asking, rows }, retry, words) {
  const box = make("section", "onediff-sidebar-backends");
  box.append(make("h2", "", words("backends.title")));
  const device = plain(/** @type {any} */ (rows?.[0])?.device);
  if (device) box.append(make("p", "onediff-sidebar-device", device));
  if (!rows) {
    const told = make("p", "", words(asking ? "backends.asking" : "backends.no_answer"));
    told.setAttribute("role", "status");
    box.append(told);
  }
  const entries = make("ul");
  entries.append(...(rows ?? []).map((row) => entry(backendLine(row, words))));
  const button = makeButton(words("backends.retry"), retry);
  button.dataset.key = "backends";
  box.append(entries, button);
  return box;
}

/** @param {BackendLine} line */
function entry({ symbol, tone, name, state, why }) {
  const item = make("li", "onediff-sidebar-backend");
  item.dataset.tone = tone;
  const mark = make("span", "onediff-panel-symbol", symbol);
  mark.setAttribute("aria-hidden", "true");
  const said = make("span", "onediff-sidebar-said");
  said.append(make("strong", "", `${name}: ${state}`), make("span", "", why));
  item.append(mark, said);
  return item;
}
