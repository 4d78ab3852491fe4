// What the page does with records beside showing them: toasts, commands, settings.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createCommands, nodeToReport } from "../../web/commands.js";
import { cacheText, modelTexts } from "../../web/panel/kept.js";
import { displayOf, settings } from "../../web/settings.js";
import { createPoll } from "../../web/status/poll.js";
import { worst } from "../../web/status/worst.js";
import { createToasts, worthAToast } from "../../web/toasts.js";
import { english, record, states } from "./records.mjs";

test("only what names something to be done is worth a toast", () => {
  const worth = Object.keys(states).filter((name) => worthAToast(states[name], english) !== null);
  assert.deepEqual(worth, ["uncompiled"]);
  assert.equal(worthAToast(states.uncompiled, english)?.detail, "no C++ compiler was found");
  const failed = record({ state: "failed", check: states.findings.check });
  assert.deepEqual(worthAToast(failed, english), {
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

test("the report is that of the selected node, else of the one that is worst off", () => {
  const tones = { a: "good", b: "bad", c: "warn" };
  const last = (nodes) => worst(nodes, (node) => ({ tone: tones[node] }));
  assert.equal(nodeToReport(["a", "b"], ["a", "sampler"], last), "a");
  assert.equal(nodeToReport(["a", "b", "c"], ["sampler"], last), "b");
  assert.equal(nodeToReport(["a", "b", "c"], ["a", "c"], last), "c");
  assert.equal(nodeToReport([], [], last), null);
});

test("of nodes that are as badly off a Compile node counts, and one that failed more than one that is quiet", () => {
  const [patch, compile] = [{ type: "OneDiffPatchAttention" }, { type: "OneDiffCompile" }];
  const look = (...tones) => (node) => ({ tone: tones[node === patch ? 0 : 1] });
  assert.equal(worst([patch, compile], look("good", "good")), compile);
  assert.equal(worst([patch, compile], look("bad", "warn")), patch);
  assert.equal(worst([patch, compile], look("quiet", "past")), compile);
  assert.equal(worst([patch, compile], look("plain", "quiet")), patch);
});

test("what is kept is said in megabytes and models", () => {
  const cache = (bytes, files, limit = 2 ** 31) => cacheText({ cache: { bytes, files, limit } }, english);
  assert.equal(cache(312 * 2 ** 20, 40), "312 MB in 40 files, of 2048 MB at most");
  assert.equal(cache(1.5 * 2 ** 20, 1), "1.5 MB in 1 file, of 2048 MB at most");
  assert.equal(cache(0, 0), "empty");
  assert.equal(cache(null, null, null), "switched off: nothing is kept between starts");
  assert.equal(cacheText(null, english), "The server did not answer.");
  const model = { file: "sd15.safetensors", class: "UNetModel", parameters: 859_520_964, dtype: "float16" };
  assert.deepEqual(modelTexts({ models: [model, { class: "Flux" }] }, english), [
    "sd15.safetensors, UNetModel, 860 M parameters, float16",
    "Flux",
  ]);
  assert.deepEqual(modelTexts({ models: [] }, english), ["none"]);
});

test("clearing asks the server and says its answer, or why there is none", async () => {
  const asked = [];
  const toasts = [];
  const answers = [{ cleared: "3 measurements forgotten." }, { error: "404 Not Found" }, { cleared: "Tried again." }];
  const commands = createCommands({
    words: () => english,
    nodes: () => [],
    selected: () => [],
    worst: () => null,
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
  const [mark, display] = settings({ display: (value) => heard.push(value), mark: (value) => heard.push(value) }, {});
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
