// What the page does with records beside showing them: toasts, commands, settings.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createCommands, nodeToReport } from "../../web/commands.js";
import { displayOf, settings } from "../../web/settings.js";
import { createPoll } from "../../web/status/poll.js";
import { createToasts, worthAToast } from "../../web/toasts.js";
import { english, record, states } from "./records.mjs";

test("only what names something to be done is worth a toast", () => {
  const worth = Object.keys(states).filter((name) => worthAToast(states[name]) !== null);
  assert.deepEqual(worth, ["uncompiled"]);
  assert.equal(worthAToast(states.uncompiled)?.detail, "no C++ compiler was found");
  const failed = record({ state: "failed", check: states.findings.check });
  assert.deepEqual(worthAToast(failed), {
    severity: "error",
    state: "failed",
    detail: "AttnProcessor: has no forward (models/custom.py:12). rename __call__ to forward.",
  });
});

test("the same thing is told once", () => {
  const told = [];
  const toasts = createToasts(
    (toast) => told.push(toast.detail),
    () => english,
  );
  for (let run = 0; run < 3; run += 1) toasts.about({ ...states.uncompiled, measured_at: `2026-01-0${run + 1}` });
  toasts.about({ ...states.uncompiled, node: "13" });
  assert.deepEqual(told, ["no C++ compiler was found", "no C++ compiler was found"]);
});

test("the report is that of the selected node, else of the only one", () => {
  assert.equal(nodeToReport(["a", "b"], ["b", "sampler"]), "b");
  assert.equal(nodeToReport(["a"], ["sampler"]), "a");
  assert.equal(nodeToReport(["a", "b"], []), null);
  assert.equal(nodeToReport(["a", "b"], ["a", "b"]), null);
  assert.equal(nodeToReport([], []), null);
});

test("clearing asks the server and says its answer, or why there is none", async () => {
  const asked = [];
  const toasts = [];
  const answers = [{ cleared: "3 measurements forgotten." }, { error: "404 Not Found" }, { cleared: "Tried again." }];
  const commands = createCommands({
    words: () => english,
    nodes: () => [],
    selected: () => [],
    open: () => assert.fail(),
    overview: () => asked.push("overview"),
    retried: () => asked.push("asked anew"),
    clear: async (what) => (asked.push(what), answers.shift()),
    toast: ({ severity, detail }) => toasts.push([severity, detail]),
  });
  for (const id of ["ClearMeasurements", "ClearCompileCache", "TryBackendsAgain", "ShowReport"])
    await commands.find((command) => command.id === `OneDiff.${id}`).function();
  assert.deepEqual(asked, ["measurements", "compile cache", "backends", "asked anew", "overview"]);
  assert.deepEqual(toasts, [
    ["success", "3 measurements forgotten."],
    ["error", "404 Not Found"],
    ["success", "Tried again."],
  ]);
});

test("a setting of another version means its default", () => {
  assert.deepEqual(["full", "short", "none", "huge", undefined].map(displayOf), [
    "full",
    "short",
    "none",
    "full",
    "full",
  ]);
  const heard = [];
  const [mark, display] = settings({ display: (value) => heard.push(value), mark: (value) => heard.push(value) });
  display.onChange("none");
  mark.onChange(undefined);
  mark.onChange(false);
  assert.deepEqual(heard, ["none", true, false]);
});

test("the poll acts on changes only, and is silent once stopped", (context) => {
  context.mock.timers.enable({ apis: ["setInterval"] });
  let state = "a";
  let acted = 0;
  const poll = createPoll(
    () => state,
    () => (acted += 1),
  );
  poll.start();
  poll.start();
  context.mock.timers.tick(5000);
  assert.equal(acted, 1);
  state = "b";
  context.mock.timers.tick(500);
  assert.equal(acted, 2);
  poll.stop();
  state = "c";
  context.mock.timers.tick(5000);
  assert.equal(acted, 2);
});
