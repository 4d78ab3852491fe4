// @ts-check
// A report as elements.

import { isNumber } from "../status/record.js";
import { steps } from "../status/steps.js";
import { make, makeButton } from "./make.js";
import { plot } from "./plot.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("./report.js").Section} Section */

// Shorter lists lie open.
const OPEN = 6;

/**
 * @param {import("./report.js").Report} report
 * @param {import("../status/record.js").StatusRecord | null} record whose steps are plotted
 * @param {Words} words
 * @param {{title: string, open: () => void} | null} [elsewhere] the node whose report says what to do
 * @returns {HTMLElement[]}
 */
export function view(report, record, words, elsewhere = null) {
  const state = make("p", "onediff-panel-state");
  state.dataset.tone = report.line.tone;
  const symbol = make("span", "onediff-panel-symbol", report.line.symbol);
  symbol.setAttribute("aria-hidden", "true");
  state.append(symbol, make("span", "", report.line.text));
  const advice = make("div", "onediff-panel-advice");
  advice.append(...report.advice.map((text) => make("p", "", text)));
  if (elsewhere) advice.append(makeButton(words("panel.report_of", { title: elsewhere.title }), elsewhere.open));
  return [state, advice, ...report.sections.map((section) => sectionView(section, record, words))];
}

/** @param {Section} section @param {import("../status/record.js").StatusRecord | null} record @param {Words} words */
function sectionView({ id, title, facts, groups, plot: plotted }, record, words) {
  const box = make("section", "onediff-panel-section");
  box.append(make("h3", "", title));
  if (plotted) {
    const { eager_ms: eager, compiled_ms: compiled } = record?.speed ?? {};
    const medians = { uncompiled: isNumber(eager) ? eager : null, compiled: isNumber(compiled) ? compiled : null };
    box.append(plot(steps(record), medians, words));
  }
  if (facts.length) {
    const list = make("dl", "onediff-panel-facts");
    for (const [name, value] of facts) list.append(make("dt", "", name), make("dd", "", value));
    box.append(list);
  }
  groups.forEach((group, index) => box.append(groupView(group, `${id}.${index}`)));
  return box;
}

/** @param {import("./report.js").Group} group @param {string} key */
function groupView({ title, items }, key) {
  const box = /** @type {HTMLDetailsElement} */ (make("details", "onediff-panel-group"));
  box.dataset.key = key;
  box.open = items.length <= OPEN;
  const list = make("ul");
  list.append(
    ...items.map(({ tone, label, where, text, fix }) => {
      const item = make("li", "onediff-panel-item");
      if (tone) item.dataset.tone = tone;
      if (label) item.append(make("strong", "onediff-panel-label", label));
      if (where) item.append(make("code", "", where));
      if (text) item.append(make("span", "onediff-panel-text", text));
      if (fix) item.append(make("span", "onediff-panel-fix", `→ ${fix}`));
      return item;
    }),
  );
  box.append(make("summary", "", title), list);
  return box;
}

/**
 * Which lists a person folded or unfolded, to be kept when the report is written anew.
 * @param {HTMLElement} box
 * @returns {(fresh: HTMLElement) => void}
 */
export function keepFolds(box) {
  const open = new Map([...groupsOf(box)].map((group) => [group.dataset.key, group.open]));
  const focused = /** @type {HTMLElement | null} */ (document.activeElement?.closest("details"));
  const key = focused && box.contains(focused) ? focused.dataset.key : null;
  return (fresh) => {
    for (const group of groupsOf(fresh)) {
      group.open = open.get(group.dataset.key) ?? group.open;
      if (key !== null && group.dataset.key === key) group.querySelector("summary")?.focus();
    }
  };
}

/** @param {HTMLElement} box @returns {NodeListOf<HTMLDetailsElement>} */
const groupsOf = (box) => box.querySelectorAll("details.onediff-panel-group");
