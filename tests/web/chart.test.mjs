import assert from "node:assert/strict";
import { test } from "node:test";

import { shapesOf, summaryOf } from "../../web/lib/chart_draw.js";
import { LEAST_HEIGHT, layoutOf, linesAcross, placesOf, recordAt, yOf } from "../../web/lib/chart_layout.js";
import { themeOn } from "../../web/lib/theme.js";
import { record, run, steps } from "./some.mjs";

const SIZES = [[260, LEAST_HEIGHT], [330, LEAST_HEIGHT], [420, 300], [1400, 900]]; // prettier-ignore
const HEAT = { width: 40, height: 24, max: 0.5, levels: new Array(960).fill(9) };
const theme = themeOn("rgb(30, 30, 30)");
const inside = ({ x, y, width = 0, height = 0 }, w, h) => x >= 0 && y >= 0 && x + width <= w + 0.01 && y + height <= h + 0.01;
const RUNS = {
  one: run([record(0, { risk: null })]),
  half: run(steps(10, (i) => ({ risk: i < 1 ? null : 300 / 2 ** i, active: i > 4, alpha: i / 10, omega: 5 - i / 4 }))),
  unguided: run(steps(20, () => ({ omega: null, s_star: null })), { tau: null, heat: HEAT }),
  twice: run(steps(40).map((one, i) => ({ ...one, step: Math.floor(i / 2) }))),
  climbing: run([...steps(12), ...steps(12)]),
  negative: run(steps(5, () => ({ s_star: -0.3, risk: 0, omega: 0 })), { heat: { ...HEAT, max: 0 } }),
};

for (const [name, one] of Object.entries(RUNS)) {
  for (const [width, height] of SIZES) {
    test(`everything lies inside: ${name}, ${width} x ${height}`, () => {
      const layout = layoutOf(one, width, height);
      const boxes = [layout.plot, ...layout.panels.map(({ box }) => box), ...(layout.heat ? [layout.heat] : [])];
      assert.ok(boxes.every((box) => box.width > 20 && box.height > 20 && inside(box, width, height)));
      for (const { box, points } of layout.panels) {
        const shown = points.filter(Boolean);
        assert.ok(shown.every(({ x, y }) => x >= box.x && x <= box.x + box.width && y >= box.y && y <= box.y + box.height));
      }
      const attributes = shapesOf(one, layout, theme, 0, null).flatMap((shape) => Object.entries(shape.attributes));
      assert.ok(attributes.every(([, value]) => value !== undefined && !/NaN|Infinity|undefined/.test(String(value))));
    });
  }
}

test("the panels follow each other without touching", () => {
  const { panels } = layoutOf(RUNS.half, 420, 300);
  panels.slice(1).forEach(({ box }, i) => assert.ok(box.y - (panels[i].box.y + panels[i].box.height) >= 8));
});

test("a step that is to come has its place already, so the curve grows to the right", () => {
  const { xs, plot } = layoutOf(RUNS.half, 420, 300);
  assert.ok(xs.at(-1) < plot.x + plot.width / 2);
  assert.deepEqual(layoutOf(run(steps(4)), 420, 300).xs, layoutOf(run(steps(10)), 420, 300).xs.slice(0, 4));
});

test("two evaluations share a step; a sampler that climbs back has its records one after the other", () => {
  assert.deepEqual(placesOf([record(0), record(0), record(1)], 2).spans, [[0, 0.5], [0.5, 1], [1, 2]]); // prettier-ignore
  const climbing = placesOf([record(0), record(1), record(0)], 2);
  assert.deepEqual([climbing.spans.at(-1), climbing.end], [[2, 3], 3]);
});

test("a curve is broken where nothing is known", () => {
  const values = [null, 1, 2, null, 3];
  const [risk] = layoutOf(run(values.map((value, i) => record(i, { risk: value }))), 420, 300).panels;
  assert.deepEqual(risk.lines.map((piece) => piece.length), [2, 1]);
});

test("tau is on the scale of the risk, and a wide range is logarithmic", () => {
  const linear = layoutOf(run(steps(3, (i) => ({ risk: 1 + i })), { tau: 2 }), 420, 300);
  assert.equal(linear.panels[0].isLog, false);
  assert.equal(linear.tauY, yOf(linear.panels[0], 2));
  const wide = layoutOf(run(steps(3, (i) => ({ risk: 200 / 10 ** i })), { tau: 0.2 }), 420, 300).panels[0];
  assert.deepEqual([wide.isLog, wide.low, linesAcross(wide)], [true, 0.1, [1, 10, 100]]);
  const ys = [20, 2, 0.2].map((value) => yOf(wide, value));
  assert.ok(Math.abs(ys[1] - ys[0] - (ys[2] - ys[1])) < 1e-9);
  assert.equal(yOf(wide, 0), wide.box.y + wide.box.height);
});

test("active steps are one band, with a gap where there is one", () => {
  const { bands, plot } = layoutOf(run(steps(20, (i) => ({ active: [3, 4, 5, 9].includes(i) }))), 420, 300);
  const places = bands.map(({ x, width }) => [x, x + width].map((at) => Math.round(((at - plot.x) / plot.width) * 20)));
  assert.deepEqual(places, [[3, 6], [9, 10]]); // prettier-ignore
});

test("the ticks count from 1 and keep their distance", () => {
  for (const total of [1, 2, 7, 20, 50, 1000, 10000]) {
    const { ticks } = layoutOf(run([record(0)], { total }), 420, 300);
    assert.ok(ticks.length > 0 && ticks.length < 12, String(total));
    ticks.slice(1).forEach(({ x }, i) => assert.ok(x - ticks[i].x > 16, String(total)));
  }
  assert.equal(layoutOf(run([record(0)]), 420, 300).ticks[0].label, "1");
});

test("the pointer finds the nearest record", () => {
  const layout = layoutOf(RUNS.half, 420, 300);
  layout.xs.forEach((x, i) => assert.equal(recordAt(layout, x + 1, layout.plot.y + 9), i));
  assert.equal(recordAt(layout, 1, 1), null);
  assert.equal(recordAt(layout, layout.heat.x + 20, layout.plot.y + 9), null);
});

test("the numbers of the hovered step are written, else those of the last", () => {
  const words = (hovered) => {
    const written = (shapes) => shapes.flatMap((shape) => [shape.text ?? "", ...written(shape.parts ?? [])]);
    return written(shapesOf(RUNS.half, layoutOf(RUNS.half, 420, 300), theme, hovered, null)).join("|");
  };
  assert.match(words(3), /step 4 of 20\|σ 0\.85.*\|37\.5\|/);
  assert.match(words(null), /step 10 of 20\|running.*\|0\.586\|/);
  assert.match(words(0), /\|–\|/);
});

test("the summary says it in one line", () => {
  assert.equal(summaryOf(RUNS.unguided), "Step 20 of 20, running: risk 1, alpha 0, omega –, s_star –");
});
