// @ts-check
/**
 * Geometry -> shapes: a plain list of what to draw, as names and attributes of SVG. Pure; chart_view.js makes the elements.
 *
 * SVG and not a canvas: the host scales the widget with the graph's zoom, and shapes stay sharp at any zoom and on any screen.
 *
 * @typedef {import("./chart_layout.js").Layout} Layout
 * @typedef {import("./chart_layout.js").Panel} Panel
 * @typedef {import("./run_store.js").Run} Run
 * @typedef {import("./theme.js").Theme} Theme
 * @typedef {object} Shape
 * @property {string} tag
 * @property {Record<string, string|number>} attributes
 * @property {string} [text]
 * @property {Shape[]} [parts]
 */
import { linesAcross, yOf } from "./chart_layout.js";
import { colourAt, fitted, isDrawable } from "./heat.js";
import { digits } from "./numbers.js";

const STATES = {
  running: "running", finished: "finished", interrupted: "interrupted", failed: "stopped by an error", incomplete: "not seen to its end",
}; // prettier-ignore
/** Beside the curve, not below it: two lines of text are as high as the lowest strip. */
const LINE = 12, DOTS_FROM = 6, SMALL = 10, TYPE = 11, SCALE_ROOM = 10, SHADES = 24; // prettier-ignore
const HINT = "click: copy JSON";

/**
 * @param {Run} run
 * @param {Layout} layout
 * @param {Theme} theme
 * @param {number|null} hovered Index of a record.
 * @param {string|null} notice In the place of the hint.
 * @returns {Shape[]}
 */
export function shapesOf(run, layout, theme, hovered, notice) {
  const shown = hovered ?? run.records.length - 1;
  return [
    ...header(run, layout, theme, hovered, notice),
    ...layout.panels.flatMap((panel) => frame(panel, layout, theme)),
    ...threshold(run, layout, theme),
    ...layout.panels.flatMap((panel) => curve(panel, layout, theme)),
    ...layout.panels.flatMap((panel) => names(panel, run.records[shown]?.[panel.name], theme)),
    ...axis(layout, theme),
    ...(hovered === null ? [] : cursor(layout, theme, hovered)),
    ...heatLabels(run, layout, theme),
    ...bandLabel(layout, theme),
  ];
}

/** One line for people who hear the page. @param {Run} run */
export function summaryOf(run) {
  const last = run.records[run.records.length - 1];
  const values = `risk ${digits(last.risk)}, alpha ${digits(last.alpha)}, omega ${digits(last.omega)}, s_star ${digits(last.s_star)}`;
  return `Step ${last.step + 1} of ${run.total}, ${STATES[run.state]}: ${values}`;
}

/** @param {Run} run @param {Layout} layout @param {Theme} theme @param {number|null} hovered @param {string|null} notice */
function header(run, layout, theme, hovered, notice) {
  const colour = { running: theme.alpha, finished: theme.good, incomplete: theme.muted }[/** @type {string} */ (run.state)] ?? theme.bad;
  const y = layout.plot.y - 11;
  const right = layout.heat ? layout.heat.x + layout.heat.width : layout.plot.x + layout.plot.width + 36;
  const record = run.records[hovered ?? run.records.length - 1];
  const step = `step ${record.step + 1} of ${run.total}`;
  const words = hovered === null ? STATES[run.state] : `σ ${digits(record.sigma)}${record.needs_source ? ", locked" : ""}`;
  return [
    shape("circle", { cx: 14, cy: y - 4, r: 3.5, fill: colour }),
    { ...text(24, y, "", theme.ink), parts: [part(step, { "font-weight": 600 }), part(words, { dx: 8, fill: theme.muted })] },
    text(right, y, notice ?? HINT, notice ? theme.good : theme.muted, { "text-anchor": "end", "font-size": SMALL }),
  ];
}

/** @param {Panel} panel @param {Layout} layout @param {Theme} theme */
function frame(panel, layout, theme) {
  const { name, box } = panel;
  const right = box.x + box.width;
  const bands = layout.bands.map(({ x, width }) => shape("rect", { x, y: box.y, width, height: box.height, fill: theme.band }));
  const across = name === "risk" ? linesAcross(panel) : [];
  const dotted = across.map((value) => rule(box.x, right, yOf(panel, value), theme.grid, { "stroke-dasharray": "1 3" }));
  const ends = [box.y, box.y + box.height].map((y) => rule(box.x, right, y, theme.grid));
  return [...bands, ...dotted, ...ends, ...scale(panel, name === "risk" ? layout.tauY : null, theme)];
}

/** The ends of a scale, inside its height so that those of two strips never touch; tau has the first right to its place. */
function scale(/** @type {Panel} */ { box, low, high }, /** @type {number|null} */ tauY, /** @type {Theme} */ theme) {
  const ends = [{ y: box.y + 8, value: high }, { y: box.y + box.height, value: low }]; // prettier-ignore
  const free = ends.filter(({ y }) => tauY === null || Math.abs(tauY + 3.5 - y) >= SCALE_ROOM);
  return free.map(({ y, value }) => text(box.x + box.width + 5, y, digits(value), theme.muted, { "font-size": SMALL }));
}

/** @param {Run} run @param {Layout} layout @param {Theme} theme */
function threshold(run, layout, theme) {
  if (run.tau === null || layout.tauY === null) return [];
  const { box } = layout.panels[0];
  const right = box.x + box.width;
  return [
    rule(box.x, right, layout.tauY, theme.ink, { "stroke-dasharray": "5 3" }),
    text(right + 5, layout.tauY + 3.5, `τ ${digits(run.tau)}`, theme.ink, { "font-size": SMALL }),
  ];
}

/** @param {Panel} panel @param {Layout} layout @param {Theme} theme */
function curve({ name, lines, points }, layout, theme) {
  const stroke = theme[name];
  const pen = { fill: "none", stroke, "stroke-width": name === "risk" ? 2 : 1.75, "stroke-linejoin": "round", "stroke-linecap": "round" };
  const paths = lines.map((piece) => shape("path", { d: pathOf(piece), ...pen }));
  const roomy = layout.plot.width / Math.max(points.length, 1) >= DOTS_FROM;
  const alone = new Set(lines.filter((piece) => piece.length === 1).map(([point]) => point.x));
  const dots = points.filter((point) => point !== null && (alone.has(point.x) || (roomy && name === "risk")));
  return [...paths, ...dots.map((point) => shape("circle", { cx: point?.x ?? 0, cy: point?.y ?? 0, r: 2.25, fill: stroke }))];
}

/** @param {Panel} panel @param {number|null|undefined} value @param {Theme} theme */
function names({ name, box, isLog }, value, theme) {
  const x = box.x - 8;
  const y = name === "risk" ? box.y + 9 : box.y + (box.height - LINE) / 2 + 3.5;
  const log = isLog ? [text(x, y + 2 * LINE, "log scale", theme.muted, { "text-anchor": "end", "font-size": SMALL })] : [];
  return [
    text(x, y, name, theme[name], { "text-anchor": "end", "font-weight": 600 }),
    text(x, y + LINE, digits(value), theme.ink, { "text-anchor": "end" }),
    ...log,
  ];
}

/** @param {Layout} layout @param {Theme} theme */
function axis({ plot, ticks }, theme) {
  const y = plot.y + plot.height + 13;
  const step = text(plot.x - 8, y, "step", theme.muted, { "text-anchor": "end", "font-size": SMALL });
  return [step, ...ticks.map(({ x, label }) => text(x, y, label, theme.muted, { "text-anchor": "middle", "font-size": SMALL }))];
}

/** @param {Layout} layout @param {Theme} theme @param {number} hovered */
function cursor({ plot, panels, xs }, theme, hovered) {
  const x = xs[hovered];
  const line = shape("line", { x1: x, x2: x, y1: plot.y, y2: plot.y + plot.height, stroke: theme.ink, "stroke-opacity": 0.55 });
  const dots = panels.flatMap(({ name, points }) => {
    const point = points[hovered];
    return point ? [shape("circle", { cx: point.x, cy: point.y, r: 3.5, fill: theme[name], stroke: theme.ink, "stroke-width": 1 })] : [];
  });
  return [line, ...dots];
}

/** @param {Run} run @param {Layout} layout @param {Theme} theme */
function heatLabels(run, layout, theme) {
  const box = layout.heat;
  if (!box) return [];
  const caption = text(box.x, box.y - 6, "where the risk is", theme.muted, { "font-size": SMALL });
  if (!isDrawable(run.heat)) {
    const height = Math.min(box.height, box.width * 0.6);
    return [caption, shape("rect", { ...box, height, fill: theme.grid, "fill-opacity": 0.35, rx: 2 })];
  }
  const map = fitted(box, run.heat);
  const y = map.y + map.height + 6;
  const ground = shape("rect", { ...map, fill: theme.grid, "fill-opacity": 0.35 });
  return [caption, ground, ...legend(box, map.y + map.height + 6, run.heat.max, theme)];
}

/** @param {{x: number, width: number}} box @param {number} y @param {number} max @param {Theme} theme */
function legend(box, y, max, theme) {
  const x = box.x + 13, width = (box.width - 13 - 40) / SHADES; // prettier-ignore
  const shades = Array.from({ length: SHADES }, (_, i) =>
    shape("rect", { x: x + i * width, y, width: width + 0.5, height: 7, fill: `rgb(${colourAt(i / (SHADES - 1), theme.heat)})` }),
  );
  const small = { "font-size": SMALL };
  const most = text(box.x + box.width, y + 7.5, digits(max), theme.muted, { ...small, "text-anchor": "end" });
  return [...shades, text(box.x, y + 7.5, "0", theme.muted, small), most];
}

/** What the shading means, in the corner below the heat map. @param {Layout} layout @param {Theme} theme */
function bandLabel({ heat, bands, plot }, theme) {
  if (!heat || bands.length === 0) return [];
  const y = plot.y + plot.height + 13;
  const swatch = shape("rect", { x: heat.x, y: y - 8, width: 14, height: 9, fill: theme.band, stroke: theme.grid });
  return [swatch, text(heat.x + 20, y, "active range", theme.muted, { "font-size": SMALL })];
}

/** @param {{x: number, y: number}[]} points */
const pathOf = (points) => `M${points.map(({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;

/** @param {string} tag @param {Record<string, string|number>} attributes @returns {Shape} */
const shape = (tag, attributes) => ({ tag, attributes });

/** @param {number} x1 @param {number} x2 @param {number} y @param {string} stroke @param {Record<string, string|number>} [more] */
const rule = (x1, x2, y, stroke, more = {}) => shape("line", { x1, x2, y1: y, y2: y, stroke, ...more });

/** @param {string} words @param {Record<string, string|number>} attributes @returns {Shape} */
const part = (words, attributes) => ({ tag: "tspan", attributes, text: words });

/** @param {number} x @param {number} y @param {string} words @param {string} fill @param {Record<string, string|number>} [more] @returns {Shape} */
const text = (x, y, words, fill, more = {}) => ({
  tag: "text", attributes: { x, y, fill, "font-size": TYPE, ...more }, text: words,
}); // prettier-ignore
