// @ts-check
/**
 * A run and a size -> geometry: where each curve, band, tick and text goes, in pixels of the page. Pure.
 *
 * @typedef {import("./run_store.js").Run} Run
 * @typedef {import("./run_store.js").StepRecord} StepRecord
 * @typedef {{x: number, y: number, width: number, height: number}} Box
 * @typedef {{x: number, y: number}} Point
 *
 * @typedef {object} Panel
 * @property {"risk"|"alpha"|"omega"|"s_star"} name
 * @property {Box} box
 * @property {number} low
 * @property {number} high
 * @property {boolean} isLog
 * @property {Point[][]} lines Pieces of the curve; it is broken where a value is not known.
 * @property {(Point|null)[]} points One a record.
 *
 * @typedef {object} Layout
 * @property {Box} plot All panels together.
 * @property {Panel[]} panels Risk first.
 * @property {{x: number, width: number}[]} bands Active steps.
 * @property {{x: number, label: string}[]} ticks Steps, counted from 1.
 * @property {number|null} tauY
 * @property {number[]} xs Of the records.
 * @property {Box|null} heat Room for the heat map, null where there is none.
 */
import { roundUp, strideFrom } from "./numbers.js";

/** Below this the curves cannot be told apart; the widget asks for it. */
export const LEAST_HEIGHT = 240;
const PAD = 10, HEADER = 20, AXIS = 15, NAMES = 52, SCALES = 40, GAP = 9, TICK_ROOM = 24; // prettier-ignore
const STRIP = { least: 26, most: 52, share: 0.13 };
const HEAT = { fromWidth: 330, share: 0.27, least: 84, most: 220, gap: 12, caption: 17, legend: 26 };
const STRIPS = /** @type {const} */ (["alpha", "omega", "s_star"]);
/** Constant within a step, so drawn as stairs. */
const STAIRS = new Set(["alpha", "omega"]);
/** A risk that spans more than this factor is drawn on a logarithmic scale; a linear one would hide tau. */
const LOG_FROM = 30;

/**
 * @param {Run} run
 * @param {number} width
 * @param {number} height
 * @returns {Layout}
 */
export function layoutOf(run, width, height) {
  const heat = heatBox(width, height);
  const right = heat ? heat.x - HEAT.gap : width - PAD;
  const plot = { x: PAD + NAMES, y: PAD + HEADER, width: right - SCALES - PAD - NAMES, height: height - 2 * PAD - HEADER - AXIS };
  const { spans, end } = placesOf(run.records, run.total);
  const toX = (/** @type {number} */ place) => plot.x + (place / end) * plot.width;
  const xs = spans.map(([from, to]) => toX((from + to) / 2));
  const panels = rowsOf(plot).map(({ name, box }) => panelOf(name, box, run, spans, toX));
  return {
    plot, panels, xs, heat,
    bands: bandsOf(run.records, spans).map(([from, to]) => ({ x: toX(from), width: toX(to) - toX(from) })),
    ticks: ticksOf(end, plot.width).map((step) => ({ x: toX(step - 0.5), label: String(step) })),
    tauY: run.tau === null ? null : yOf(panels[0], run.tau),
  }; // prettier-ignore
}

/**
 * The record under a place of the pointer; null outside the plot.
 * @param {Layout} layout
 * @param {number} x
 * @param {number} y
 */
export function recordAt({ plot, xs }, x, y) {
  const inside = x >= plot.x - 6 && x <= plot.x + plot.width + 6 && y >= plot.y - 6 && y <= plot.y + plot.height + 6;
  if (!inside || xs.length === 0) return null;
  return xs.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(xs[best] - x) ? i : best), 0);
}

/**
 * Where each record lies on the axis of steps. Samplers with two evaluations a step share it between them; one that
 * climbs back to earlier steps has no such axis, its records stand in the order they came.
 * @param {StepRecord[]} records
 * @param {number} total
 * @returns {{spans: [number, number][], end: number}}
 */
export function placesOf(records, total) {
  const climbs = records.some((record, i) => i > 0 && record.step < records[i - 1].step);
  if (climbs) return { spans: records.map((_, i) => [i, i + 1]), end: Math.max(total, records.length) };
  const of = new Map();
  for (const { step } of records) of.set(step, (of.get(step) ?? 0) + 1);
  let seen = 0;
  const spans = records.map(({ step }, i) => {
    seen = i > 0 && records[i - 1].step === step ? seen + 1 : 0;
    const share = 1 / of.get(step);
    return /** @type {[number, number]} */ ([step + seen * share, step + (seen + 1) * share]);
  });
  return { spans, end: Math.max(total, ...records.map(({ step }) => step + 1)) };
}

/** @param {number} width @param {number} height @returns {Box|null} */
function heatBox(width, height) {
  if (width < HEAT.fromWidth) return null;
  const side = Math.round(Math.min(Math.max(width * HEAT.share, HEAT.least), HEAT.most));
  const y = PAD + HEADER + HEAT.caption;
  return { x: width - PAD - side, y, width: side, height: height - y - PAD - HEAT.legend };
}

/** @param {Box} plot */
function rowsOf(plot) {
  const strip = Math.round(Math.min(Math.max(plot.height * STRIP.share, STRIP.least), STRIP.most));
  const risk = plot.height - STRIPS.length * (strip + GAP);
  const rows = [{ name: /** @type {Panel["name"]} */ ("risk"), box: { ...plot, height: risk } }];
  STRIPS.forEach((name, i) => {
    rows.push({ name, box: { ...plot, y: plot.y + risk + GAP + i * (strip + GAP), height: strip } });
  });
  return rows;
}

/**
 * @param {Panel["name"]} name
 * @param {Box} box
 * @param {Run} run
 * @param {[number, number][]} spans
 * @param {(place: number) => number} toX
 * @returns {Panel}
 */
function panelOf(name, box, run, spans, toX) {
  const values = run.records.map((record) => record[name]);
  const panel = { name, box, ...rangeOf(name, values, run.tau), lines: /** @type {Point[][]} */ ([]), points: /** @type {(Point|null)[]} */ ([]) };
  panel.points = values.map((value, i) =>
    value === null ? null : { x: toX((spans[i][0] + spans[i][1]) / 2), y: yOf(panel, value) },
  );
  const corners = (/** @type {Point} */ point, /** @type {number} */ i) =>
    STAIRS.has(name) ? spans[i].map((place) => ({ x: toX(place), y: point.y })) : [point];
  panel.lines = piecesOf(panel.points, corners);
  return panel;
}

/**
 * Scales start at 0, so that a height means an amount, unless that would hide most of it; alpha is a share.
 * @param {Panel["name"]} name
 * @param {(number|null)[]} values
 * @param {number|null} tau
 */
function rangeOf(name, values, tau) {
  if (name === "alpha") return { low: 0, high: 1, isLog: false };
  const known = values.filter((value) => value !== null);
  if (name === "risk") return riskRange(tau === null ? known : [...known, tau]);
  const least = Math.min(0, ...known);
  return { low: least < 0 ? -roundUp(-least) : 0, high: roundUp(Math.max(0, ...known)), isLog: false };
}

/** @param {number[]} values */
function riskRange(values) {
  const above = values.filter((value) => value > 0);
  const most = Math.max(0, ...above), least = Math.min(most, ...above); // prettier-ignore
  const isLog = most > LOG_FROM * least;
  return { low: isLog ? 10 ** Math.floor(Math.log10(least)) : 0, high: roundUp(most * 1.02), isLog };
}

/** @param {{box: Box, low: number, high: number, isLog: boolean}} panel @param {number} value */
export function yOf({ box, low, high, isLog }, value) {
  const along = isLog ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : (value - low) / (high - low);
  return box.y + box.height * (1 - Math.min(Math.max(along, 0), 1));
}

/** Powers of ten between the ends of a logarithmic scale, the middle of a linear one. @param {Panel} panel */
export function linesAcross({ low, high, isLog }) {
  if (!isLog) return [(low + high) / 2];
  const powers = [];
  for (let power = Math.round(Math.log10(low)) + 1; 10 ** power < high * 0.999; power++) powers.push(10 ** power);
  return powers;
}

/**
 * @param {(Point|null)[]} points
 * @param {(point: Point, i: number) => Point[]} corners
 */
function piecesOf(points, corners) {
  /** @type {Point[][]} */
  const pieces = [];
  points.forEach((point, i) => {
    if (point === null) return;
    if (i === 0 || points[i - 1] === null) pieces.push([]);
    pieces[pieces.length - 1].push(...corners(point, i));
  });
  return pieces;
}

/** @param {StepRecord[]} records @param {[number, number][]} spans @returns {[number, number][]} */
function bandsOf(records, spans) {
  /** @type {[number, number][]} */
  const bands = [];
  records.forEach(({ active }, i) => {
    if (!active) return;
    const last = bands[bands.length - 1];
    if (last !== undefined && Math.abs(last[1] - spans[i][0]) < 1e-6) last[1] = spans[i][1];
    else bands.push([...spans[i]]);
  });
  return bands;
}

/** Steps to write below the axis: the first, and every so many as there is room for. @param {number} end @param {number} width */
function ticksOf(end, width) {
  const stride = strideFrom((TICK_ROOM * end) / Math.max(width, 1));
  const steps = [];
  for (let step = stride; step <= end; step += stride) steps.push(step);
  const room = steps.length === 0 || (steps[0] - 1) * width >= TICK_ROOM * 0.7 * end;
  return stride === 1 || !room ? steps : [1, ...steps];
}
