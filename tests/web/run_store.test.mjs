import assert from "node:assert/strict";
import { test } from "node:test";

import { RUNS_KEPT, keyOf, latestOf, toJson, withEnd, withStep } from "../../web/lib/run_store.js";
import { message, run } from "./some.mjs";

const told = (...messages) => messages.reduce(withStep, new Map());
const stepsOf = (runs, node = "17", workflow = "w1") => runs.get(keyOf(workflow, node)).records.map(({ step }) => step);

test("steps of a run are kept in order, with what the last one said", () => {
  const heat = { width: 1, height: 1, max: 1, levels: [255] };
  const runs = told(message(0), message(1, { heat }), message(2));
  const { records, state, total, tau, heat: kept } = runs.get(keyOf("w1", "17"));
  assert.deepEqual(records.map(({ step }) => step), [0, 1, 2]);
  assert.equal(records[0].risk, null);
  assert.deepEqual({ state, total, tau, kept }, { state: "running", total: 20, tau: 0.2, kept: heat });
});

test("a Map that was handed out never changes", () => {
  const before = told(message(0));
  withStep(before, message(1));
  withEnd(before, "p1", "failed");
  assert.deepEqual(stepsOf(before), [0]);
  assert.equal(before.get(keyOf("w1", "17")).state, "running");
});

test("a new run clears the chart, also in the same prompt", () => {
  assert.deepEqual(stepsOf(told(message(0), message(1), message(0, { run: "r2", prompt: "p2" }))), [0]);
  assert.deepEqual(stepsOf(told(message(0), message(1), message(0, { run: "r2" }))), [0]);
});

test("a second sampler that takes up the schedule goes on, in the same prompt only", () => {
  assert.deepEqual(stepsOf(told(message(8), message(9), message(10, { run: "r2" }))), [8, 9, 10]);
  assert.deepEqual(stepsOf(told(message(8), message(9), message(10, { run: "r2", prompt: "p2" }))), [10]);
  assert.deepEqual(stepsOf(told(message(8), message(9), message(11, { run: "r2" }))), [11]);
  assert.deepEqual(stepsOf(told(message(8), message(9), message(10, { run: "r2", total: 30 }))), [10]);
  assert.deepEqual(stepsOf(told(message(9, { prompt: null }), message(10, { run: "r2", prompt: null }))), [10]);
});

test("nodes, subgraphs and workflows do not mix", () => {
  const runs = told(message(0), message(5, { node: "12:7:5" }), message(6, { node: "12:7:17" }), message(7, { workflow: "w2" }));
  assert.deepEqual(stepsOf(runs), [0]);
  assert.deepEqual(stepsOf(runs, "12:7:5"), [5]);
  assert.deepEqual(stepsOf(runs, "17", "w2"), [7]);
});

test("a node in a subgraph that is used twice shows the run that was heard of last", () => {
  const runs = told(message(3, { node: "12:5" }), message(4, { node: "13:5" }), message(9, { node: "5" }));
  assert.equal(latestOf(runs, "w1", ["12:5", "13:5"]).node, "13:5");
  assert.equal(latestOf(withStep(runs, message(4, { node: "12:5" })), "w1", ["12:5", "13:5"]).node, "12:5");
  assert.equal(latestOf(runs, "w2", ["12:5"]), null);
  assert.equal(latestOf(runs, "w1", []), null);
});

test("the last step finishes a run; the end of a prompt ends what it had running", () => {
  assert.equal(told(message(19)).get(keyOf("w1", "17")).state, "finished");
  const runs = told(message(19), message(3, { node: "4" }), message(3, { node: "5", prompt: "p2" }));
  const states = [...withEnd(runs, "p1", "interrupted").values()].map(({ state }) => state);
  assert.deepEqual(states, ["finished", "interrupted", "running"]);
  assert.equal(withEnd(runs, "other", "failed"), runs);
});

test("what is no step changes nothing", () => {
  const runs = told(message(0));
  for (const wrong of [null, undefined, {}, message(1, { node: 17 }), message("1"), message(1, { total: 0 }), message(1, { run: "" })]) {
    assert.equal(withStep(runs, wrong), runs);
  }
});

test("no more runs are kept than said, the oldest go", () => {
  const many = told(...Array.from({ length: RUNS_KEPT + 3 }, (_, i) => message(0, { node: String(i) })));
  assert.equal(many.size, RUNS_KEPT);
  assert.equal(many.has(keyOf("w1", "2")), false);
  assert.equal(many.has(keyOf("w1", "3")), true);
});

test("the copy is JSON with every step", () => {
  const copy = JSON.parse(toJson(told(message(0), message(1)).get(keyOf("w1", "17"))));
  assert.deepEqual(Object.keys(copy), ["node", "state", "total", "tau", "steps"]);
  assert.equal(copy.steps[0].risk, null);
  assert.equal(copy.steps.length, 2);
  assert.deepEqual(JSON.parse(toJson(run([]))).steps, []);
});
