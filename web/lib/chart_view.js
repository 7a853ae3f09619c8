// @ts-check
/**
 * The chart as an element of a page; whose page it is it does not know. Draws when there is something new, once a frame.
 *
 * @typedef {import("./run_store.js").Run} Run
 * @typedef {import("./chart_draw.js").Shape} Shape
 */
import { shapesOf, summaryOf } from "./chart_draw.js";
import { LEAST_HEIGHT, layoutOf, recordAt } from "./chart_layout.js";
import { fitted, isDrawable, pixelsOf } from "./heat.js";
import { toJson } from "./run_store.js";
import { themeOn } from "./theme.js";

const SVG = "http://www.w3.org/2000/svg";
const NOTICE_MS = 1600;
const EMPTY = "No run yet. Queue the graph, and each step adds its risk, alpha, omega and s_star here.";
/** `contain` and the absolute layers: what is drawn can never change the size that it was drawn for. */
const ROOT = `position:relative; contain:layout size style; box-sizing:border-box; width:100%; height:100%; min-height:${LEAST_HEIGHT}px;
  overflow:hidden; border-radius:8px; background:var(--component-node-widget-background, var(--comfy-input-bg, #222));
  font:11px/1.4 Inter, system-ui, sans-serif; font-variant-numeric:tabular-nums; user-select:none; cursor:default`;
const LAYER = "position:absolute; inset:0; width:100%; height:100%; display:block";
const CENTRED = `${LAYER}; display:grid; place-items:center; box-sizing:border-box; padding:16px; text-align:center; text-wrap:balance`;

export class ChartView {
  /**
   * @param {Document} document
   * @param {(text: string) => Promise<boolean>} copy
   */
  constructor(document, copy) {
    this.document = document;
    this.copy = copy;
    /** @type {Run|null} */
    this.run = null;
    /** @type {number|null} */
    this.hovered = null;
    /** @type {string|null} */
    this.notice = null;
    this.frame = 0;
    this.element = this.#build();
    this.observer = new ResizeObserver(() => this.redraw());
  }

  /** From here on it follows its own size. Can be called again after `detach`. */
  attach() {
    this.observer.observe(this.element);
    this.redraw();
  }

  detach() {
    this.observer.disconnect();
    this.#window.cancelAnimationFrame(this.frame);
    this.frame = 0;
  }

  /** @param {Run|null} run */
  show(run) {
    if (run === this.run) return;
    if (run?.run !== this.run?.run) this.hovered = null;
    this.run = run;
    this.redraw();
  }

  redraw() {
    this.frame ||= this.#window.requestAnimationFrame(() => {
      this.frame = 0;
      this.#draw();
    });
  }

  get #window() {
    return /** @type {Window} */ (this.document.defaultView);
  }

  #build() {
    const root = this.document.createElement("div");
    root.className = "kvlock-chart";
    root.style.cssText = ROOT;
    root.tabIndex = 0;
    root.setAttribute("role", "img");
    this.empty = layer(this.document.createElement("div"), CENTRED);
    this.empty.textContent = EMPTY;
    this.heat = layer(this.document.createElement("canvas"), "position:absolute; image-rendering:pixelated; border-radius:2px");
    this.svg = layer(this.document.createElementNS(SVG, "svg"), LAYER);
    root.append(this.empty, this.svg, this.heat);
    root.addEventListener("pointermove", (event) => this.#hover(event));
    root.addEventListener("pointerleave", () => this.#hover(null));
    root.addEventListener("click", () => this.#copyRun());
    root.addEventListener("keydown", (event) => event.key === "Enter" && this.#copyRun());
    return root;
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (width < 40 || height < 40) return; // folded away, or not in the page yet
    const theme = themeOn(this.#window.getComputedStyle(this.element).backgroundColor);
    this.empty.style.display = this.run ? "none" : "grid";
    this.empty.style.color = theme.muted;
    this.layout = this.run ? layoutOf(this.run, width, height) : null;
    const shapes = this.run && this.layout ? shapesOf(this.run, this.layout, theme, this.hovered, this.notice) : [];
    this.svg.replaceChildren(...shapes.map((shape) => elementOf(this.document, shape)));
    this.#drawHeat(theme);
    this.element.dataset.records = String(this.run?.records.length ?? 0);
    this.element.dataset.state = this.run?.state ?? "empty";
    this.element.style.cursor = this.run ? "pointer" : "default";
    this.element.setAttribute("aria-label", this.run ? summaryOf(this.run) : EMPTY);
  }

  /** @param {import("./theme.js").Theme} theme */
  #drawHeat(theme) {
    const heat = this.run?.heat, box = this.layout?.heat; // prettier-ignore
    const shows = Boolean(box) && isDrawable(heat);
    this.heat.style.display = shows ? "block" : "none";
    if (!box || !isDrawable(heat)) return;
    const place = fitted(box, heat);
    Object.assign(this.heat, { width: heat.width, height: heat.height }); // one pixel a cell; the page makes it larger
    Object.assign(this.heat.style, { left: `${place.x}px`, top: `${place.y}px`, width: `${place.width}px`, height: `${place.height}px` });
    const image = new ImageData(pixelsOf(heat, theme.heat), heat.width, heat.height);
    this.heat.getContext("2d")?.putImageData(image, 0, 0);
  }

  /** @param {PointerEvent|null} event */
  #hover(event) {
    const hovered = event && this.layout ? recordAt(this.layout, ...this.#placeOf(event)) : null;
    if (hovered === this.hovered) return;
    this.hovered = hovered;
    this.redraw();
  }

  /** The host scales the element with the graph's zoom; the layout is in unscaled pixels. @param {PointerEvent} event @returns {[number, number]} */
  #placeOf(event) {
    const seen = this.element.getBoundingClientRect();
    const zoom = seen.width / this.element.offsetWidth || 1;
    return [(event.clientX - seen.left) / zoom, (event.clientY - seen.top) / zoom];
  }

  async #copyRun() {
    if (!this.run) return;
    const copied = await this.copy(toJson(this.run));
    this.notice = copied ? "copied" : "could not copy";
    this.redraw();
    this.#window.setTimeout(() => {
      this.notice = null;
      this.redraw();
    }, NOTICE_MS);
  }
}

/**
 * @template {HTMLElement|SVGElement} E
 * @param {E} element
 * @param {string} style
 * @returns {E}
 */
function layer(element, style) {
  element.style.cssText = `${style}; pointer-events:none`;
  return element;
}

/** @param {Document} document @param {Shape} shape */
function elementOf(document, { tag, attributes, text, parts = [] }) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  if (text !== undefined) element.textContent = text;
  element.append(...parts.map((part) => elementOf(document, part)));
  return element;
}
