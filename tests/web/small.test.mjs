/** The small modules: numbers, colours, heat, ids. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { executionIds } from "../../web/lib/graph_ids.js";
import { colourAt, fitted, isDrawable, pixelsOf } from "../../web/lib/heat.js";
import { digits, roundUp, strideFrom } from "../../web/lib/numbers.js";
import { lightness, themeOn } from "../../web/lib/theme.js";

test("numbers have three digits and no needless zeros", () => {
  const written = [0, 1, 1.25, 0.1764, 0.0345678, 123.4, 99999, 123456, 0.00012, -0.5, null, undefined, NaN].map(digits);
  assert.deepEqual(written, ["0", "1", "1.25", "0.176", "0.035", "123", "99999", "1.2e5", "1.2e−4", "−0.5", "–", "–", "–"]);
});

test("scales end at a round number from the value on", () => {
  assert.deepEqual([0.3, 1, 1.01, 7, 340, 0.00012, 0, -1, NaN, Infinity].map(roundUp), [0.3, 1, 1.5, 8, 400, 0.00015, 1, 1, 1, 1]);
  assert.deepEqual([0.2, 1, 1.5, 3, 7, 30].map(strideFrom), [1, 1, 2, 5, 10, 50]);
});

test("the theme follows the paper", () => {
  assert.equal(themeOn("rgb(38, 39, 41)").dark, true);
  assert.equal(themeOn("rgb(240, 240, 240)").dark, false);
  assert.equal(themeOn("rgba(0, 0, 0, 0)").dark, true);
  assert.equal(themeOn("color(srgb 0.9 0.9 0.9)").dark, false);
  assert.equal(themeOn("oklch(0.95 0.01 250)").dark, false);
  assert.equal(themeOn("").dark, true);
});

/** WCAG's contrast of two colours, each [r, g, b]. */
function contrast(one, other) {
  const linear = (part) => (part / 255 <= 0.03928 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([red, green, blue]) => 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

test("text and curves can be read on the host's papers", () => {
  for (const [paper, papers] of [["rgb(48, 50, 56)", [48, 50, 56]], ["rgb(230, 230, 230)", [230, 230, 230]]]) { // prettier-ignore
    const theme = themeOn(paper);
    for (const name of ["ink", "muted", "risk", "alpha", "omega", "s_star"]) {
      assert.ok(contrast(rgb(theme[name]), papers) >= (name === "ink" ? 7 : 3.9), `${name} on ${paper}`);
    }
  }
});

test("the heat ramp goes one way in lightness, and its ends are its ends", () => {
  for (const paper of ["rgb(0,0,0)", "rgb(255,255,255)"]) {
    const { heat, dark } = themeOn(paper);
    const shades = Array.from({ length: 33 }, (_, i) => lightness(`rgb(${colourAt(i / 32, heat).join(", ")})`));
    const sorted = [...shades].sort((a, b) => (dark ? a - b : b - a));
    assert.deepEqual(shades, sorted);
    assert.deepEqual([colourAt(-1, heat), colourAt(2, heat)], [heat[0], heat.at(-1)]);
  }
});

test("a cell is a pixel; what is not known is transparent", () => {
  const stops = [[0, 0, 0], [255, 255, 255]]; // prettier-ignore
  const pixels = pixelsOf({ width: 3, height: 1, max: 1, levels: [0, -1, 255] }, stops);
  assert.deepEqual([...pixels], [0, 0, 0, 255, 0, 0, 0, 0, 255, 255, 255, 255]);
  assert.equal(pixelsOf({ width: 1, height: 1, max: 1, levels: [9, 9, 9] }, stops).length, 4);
});

test("a map is fitted with square cells", () => {
  const box = { x: 10, y: 20, width: 100, height: 60 };
  assert.deepEqual(fitted(box, { width: 50, height: 25 }), { x: 10, y: 20, width: 100, height: 50 });
  assert.deepEqual(fitted(box, { width: 10, height: 20 }), { x: 45, y: 20, width: 30, height: 60 });
  assert.deepEqual([null, undefined, { width: 0, height: 3 }, { width: 1, height: 1 }].map(isDrawable), [false, false, false, true]);
});

test("execution ids are the paths to a node, one for each use of its subgraph", () => {
  const inner = { nodes: [] }, middle = { nodes: [] }, root = { nodes: [] }; // prettier-ignore
  const node = { id: 5, graph: inner };
  inner.nodes.push(node);
  middle.nodes.push({ id: 7, graph: middle, subgraph: inner });
  root.nodes.push({ id: 12, graph: root, subgraph: middle }, { id: 5, graph: root }, { id: 13, graph: root, subgraph: inner });
  assert.deepEqual(executionIds(root, node), ["12:7:5", "13:5"]);
  assert.deepEqual(executionIds(root, root.nodes[1]), ["5"]);
  assert.deepEqual(executionIds(root, { id: 1 }), []);
  assert.deepEqual(executionIds(null, node), []);
  assert.deepEqual(executionIds({ _nodes: [] }, node), []);
});
