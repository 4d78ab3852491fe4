// @ts-check
// A report as Markdown, for a bug report, and a record as JSON. No DOM in here.

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("./report.js").Report} Report */

// A bug report is read by people; the JSON has everything.
const MOST = 40;

/**
 * @param {Report} report
 * @param {Words} words
 */
export function markdown({ title, line, advice, sections }, words) {
  const lines = [`## ${escape(title)}: ${escape(line.text)}`, "", ...advice.map((text) => `> ${escape(text)}`)];
  for (const { title: heading, facts, groups } of sections) {
    lines.push("", `### ${escape(heading)}`, "");
    for (const [name, value] of facts) lines.push(`- **${escape(name)}**: ${escape(value)}`);
    for (const { title: name, items } of groups) {
      lines.push(`- **${escape(name)}**`);
      for (const item of items.slice(0, MOST)) lines.push(`  - ${entry(item)}`);
      if (items.length > MOST) lines.push(`  - ${words("details.more", { count: items.length - MOST })}`);
    }
  }
  return `${lines.join("\n")}\n`;
}

/** @param {import("./report.js").Item} item */
function entry({ where, text, fix }) {
  const said = [text, fix].filter(Boolean).map((one) => escape(String(one)));
  return [where && `\`${where.replaceAll("`", "'")}\``, said.join(" → ")].filter(Boolean).join(": ");
}

/**
 * Text of a model or a file may hold what Markdown or HTML would take for its own, or for a mention of somebody.
 * @param {string} text
 */
const escape = (text) => text.replace(/[\\`*_[\]<>|#]/g, "\\$&").replace(/@/g, "@\u2060");

/** @param {import("../status/record.js").StatusRecord | null} record */
export const json = (record) => `${JSON.stringify(record, null, 2)}\n`;
