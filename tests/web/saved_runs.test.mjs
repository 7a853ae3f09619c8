import assert from "node:assert/strict";
import { test } from "node:test";

import { CHARACTERS_KEPT, load, save } from "../../web/lib/saved_runs.js";
import { run, steps } from "./some.mjs";

function storage(text = null) {
  return { text, getItem: () => storage.text ?? text, setItem(_, value) { this.text = value; this.getItem = () => value; } }; // prettier-ignore
}

test("what was saved comes back, in its order", () => {
  const runs = new Map([["w/1", run(steps(3), { state: "failed" })], ["w/2", run(steps(20), { state: "finished" })]]); // prettier-ignore
  const kept = storage();
  assert.equal(save(kept, runs), true);
  assert.deepEqual([...load(kept)], [...runs]);
});

test("a run that was going on when the page went away is not shown as running", () => {
  const kept = storage();
  save(kept, new Map([["w/1", run(steps(3))]]));
  assert.equal(load(kept).get("w/1").state, "incomplete");
});

test("the size is bounded, the latest stay", () => {
  const kept = storage();
  save(kept, new Map(Array.from({ length: 9 }, (_, i) => [`w/${i}`, run(steps(1000))])));
  const back = [...load(kept).keys()];
  assert.ok(kept.text.length <= CHARACTERS_KEPT && back.length > 1 && back.length < 9);
  assert.equal(back.at(-1), "w/8");
  save(kept, new Map([["w/0", run(steps(10000))]]));
  assert.equal(load(kept).size, 0);
});

test("a full or forbidden storage is told", () => {
  const full = { setItem() { throw new Error("quota"); } }; // prettier-ignore
  assert.equal(save(full, new Map([["w/1", run(steps(1))]])), false);
});

test("what cannot be read is left", () => {
  for (const text of [null, "", "{", "{}", "7", '[["a"]]', '[["a",{"records":[]}]]', '[["a",{"records":[{"step":"x"}],"total":1}]]', "[null]"]) {
    assert.equal(load(storage(text)).size, 0, String(text));
  }
});
