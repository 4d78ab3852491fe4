// @ts-check
// Which records are worth interrupting somebody for: those that name something to be done.

import { remedies } from "./panel/advice.js";
import { reasonIn } from "./status/reasons.js";
import { findings, plain, sentence } from "./status/record.js";

/** @typedef {import("./status/record.js").StatusRecord} StatusRecord */

/**
 * What to say about a record that just arrived; null for almost all of them.
 * @param {StatusRecord} record
 * @param {import("./words.js").Words} words
 * @returns {{severity: "error" | "warn", state: "failed" | "no_backend", detail: string} | null}
 */
export function worthAToast(record, words) {
  if (record.state === "failed") {
    const error = findings(record).find(({ severity }) => severity === "error");
    const found = [plain(error?.class) || plain(error?.path), plain(error?.what)].filter(Boolean).join(": ");
    const what = found && plain(error?.where) ? `${found} (${plain(error?.where)})` : found;
    const said = what ? [what, plain(error?.fix)] : [reasonIn(record.backend?.reason, words) || remedies(record)[0]];
    const detail = said.map(sentence).filter(Boolean).join(" ");
    return detail ? { severity: "error", state: "failed", detail } : null;
  }
  const { used, reason } = record.backend ?? {};
  if (record.state === "uncompiled" && record.backend && !plain(used) && plain(reason))
    return { severity: "warn", state: "no_backend", detail: reasonIn(reason, words) };
  return null;
}

/**
 * Tells each thing once a page: the same node with the same reason does not speak twice.
 * @param {(toast: {severity: string, summary: string, detail: string, life: number}) => void} add
 * @param {() => import("./words.js").Words} words
 */
export function createToasts(add, words) {
  const told = new Set();
  return {
    /** @param {StatusRecord} record */
    about(record) {
      const toast = worthAToast(record, words());
      const key = toast && JSON.stringify([record.workflow, record.node, toast.state, toast.detail]);
      if (!toast || told.has(key)) return;
      told.add(key);
      add({ severity: toast.severity, summary: words()(`toast.${toast.state}`), detail: toast.detail, life: 15_000 });
    },
  };
}
