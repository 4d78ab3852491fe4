import assert from "node:assert/strict";
import { test } from "node:test";

import { createStore } from "../../web/status/store.js";
import { record, WORKFLOW } from "./records.mjs";

const state = (store, nodes, workflow = WORKFLOW) => store.find(workflow, nodes)?.record.state ?? null;

test("the latest record of a node wins", () => {
  const store = createStore();
  store.put(record({ state: "compiling" }));
  store.put(record({ state: "compiled" }));
  assert.equal(state(store, ["12"]), "compiled");
  assert.equal(state(store, ["13"]), null);
});

test("two workflows that both have a node 12 do not mix", () => {
  const store = createStore();
  store.put(record({ state: "compiled" }));
  store.put(record({ state: "failed", workflow: "another" }));
  assert.equal(state(store, ["12"]), "compiled");
  assert.equal(state(store, ["12"], "another"), "failed");
  assert.equal(state(store, ["12"], "a third"), null);
});

test("a record without a workflow, of an API client, is shown on no canvas", () => {
  const store = createStore();
  for (const odd of [
    record({ workflow: null }),
    record({ workflow: "" }),
    record({ node: null }),
    { state: "compiled" },
    null,
    "text",
    3,
  ])
    store.put(odd);
  assert.equal(state(store, ["12"]), null);
  assert.equal(state(store, ["12"], ""), null);
  assert.equal(state(store, ["12"], "null"), null);
});

test("of several uses of a subgraph the newest shows", () => {
  const store = createStore();
  store.put(record({ node: "3:12", state: "compiled" }));
  store.put(record({ node: "7:12", state: "failed" }));
  assert.equal(state(store, ["3:12", "7:12"]), "failed");
  assert.equal(state(store, ["3:12"]), "compiled");
});

test("a page that loads late gets what the server kept, newest last by time", () => {
  const store = createStore();
  const records = {
    b: record({ node: "7:12", state: "failed", measured_at: "2026-06-02T00:00:00Z" }),
    a: record({ node: "3:12", state: "compiled", measured_at: "2026-06-01T00:00:00Z" }),
  };
  store.load(records, store.mark());
  assert.equal(state(store, ["3:12", "7:12"]), "failed");
  store.load({ ...records, c: record({ node: "9:12", state: "compiling" }), a: records.a }, store.mark());
  assert.equal(state(store, ["3:12", "7:12", "9:12"]), "compiling");
});

test("what arrived while the server was answering is newer than its answer", () => {
  const store = createStore();
  const mark = store.mark();
  store.put(record({ state: "compiled" }));
  store.load({ a: record({ state: "compiling" }), b: record({ node: "5", state: "checked" }) }, mark);
  assert.equal(state(store, ["12"]), "compiled");
  assert.equal(state(store, ["5"]), "checked");
});

test("after a restart of the server a run that it does not know any more is not shown as going on", () => {
  const store = createStore();
  store.put(record({ state: "compiling" }));
  store.load({}, store.mark());
  assert.equal(state(store, ["12"]), null);
});

test("an answer that is no list of records changes nothing for the worse", () => {
  const store = createStore();
  for (const odd of [null, undefined, "text", [null], { a: null, b: 3 }]) store.load(odd, store.mark());
  assert.equal(state(store, ["12"]), null);
});

test("listeners hear of changes until they leave", () => {
  const store = createStore();
  let heard = 0;
  const leave = store.subscribe(() => (heard += 1));
  store.put(record({}));
  store.load({}, store.mark());
  store.put(null);
  assert.equal(heard, 2);
  leave();
  store.put(record({}));
  assert.equal(heard, 2);
});

test("the age of a record counts from its arrival", () => {
  let now = 1000;
  const store = createStore(() => now);
  store.put(record({}));
  now = 3500;
  assert.equal(store.age(store.find(WORKFLOW, ["12"])), 2.5);
});
