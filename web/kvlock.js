// @ts-check
/**
 * Live charts on KV-Lock's nodes. The only file that touches ComfyUI's page; what it draws and keeps is in lib/.
 *
 * @typedef {import("./lib/graph_ids.js").GraphNode} GraphNode
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { LEAST_HEIGHT } from "./lib/chart_layout.js";
import { ChartView } from "./lib/chart_view.js";
import { executionIds } from "./lib/graph_ids.js";
import { latestOf, withEnd, withStep } from "./lib/run_store.js";
import { load, save } from "./lib/saved_runs.js";

/** The server's name for a finished step: nodes/host/events.py. */
const STEP_EVENT = "kvlock.step";
const ENDS = { execution_success: "finished", execution_interrupted: "interrupted", execution_error: "failed" };
const CHART_NODES = new Set(["KVLockMonitor", "KVLockSampler"]);
/** A type of our own: the page replaces widgets whose type it knows. */
const WIDGET_NAME = "kvlock_chart", WIDGET_TYPE = "KVLOCK_CHART"; // prettier-ignore
const WIDGET_MARGIN = 10, FIRST_WIDTH = 440, SAVE_MS = 500; // prettier-ignore

const NOT_SAVED = "KV-Lock: the browser did not store the last runs; a page refresh will clear the charts";

/** @type {Map<any, ChartView>} Charts of the nodes that are in a graph now. */
const charts = new Map();
let runs = load(sessionStorage);
let saving = 0;

app.registerExtension({
  name: "KVLock.Chart",
  setup: listen,
  nodeCreated(/** @type {any} */ node) {
    if (CHART_NODES.has(node.comfyClass)) addChart(node);
  },
  afterConfigureGraph: showAll,
});

function listen() {
  api.addEventListener(STEP_EVENT, (/** @type {CustomEvent} */ { detail }) => {
    // a prompt that was not queued from a workflow: the one that is open must be meant
    update(withStep(runs, { ...detail, workflow: detail.workflow ?? openWorkflow() }));
  });
  for (const [event, state] of Object.entries(ENDS)) {
    api.addEventListener(event, (/** @type {CustomEvent} */ { detail }) => {
      update(withEnd(runs, detail.prompt_id, /** @type {any} */ (state)));
    });
  }
  // the page puts its palette into attributes of these two
  const palette = new MutationObserver(() => charts.forEach((chart) => chart.redraw()));
  for (const holder of [document.documentElement, document.body]) {
    palette.observe(holder, { attributes: true, attributeFilter: ["class", "style"] });
  }
}

/** @param {import("./lib/run_store.js").Runs} next */
function update(next) {
  if (next === runs) return;
  runs = next;
  showAll();
  saving ||= window.setTimeout(() => {
    saving = 0;
    if (!save(sessionStorage, runs)) console.warn(NOT_SAVED);
  }, SAVE_MS);
}

function showAll() {
  for (const [node, chart] of charts) chart.show(latestOf(runs, openWorkflow(), executionIds(rootGraph(), node)));
}

/** @param {any} node */
function addChart(node) {
  const chart = new ChartView(document, copied);
  const widget = node.addDOMWidget(WIDGET_NAME, WIDGET_TYPE, chart.element, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    margin: WIDGET_MARGIN,
    getMinHeight: () => LEAST_HEIGHT + 2 * WIDGET_MARGIN,
  });
  widget.serialize = false; // not in the workflow: widgets_values stays as it was without the chart
  passOn(chart.element);
  after(node, "onAdded", () => {
    charts.set(node, chart);
    chart.attach();
    queueMicrotask(showAll); // the node's id and its graph are settled then
  });
  after(node, "onRemoved", () => {
    charts.delete(node);
    chart.detach();
  });
  after(node, "onConfigure", () => makeRoom(node));
  node.setSize([Math.max(node.size[0], FIRST_WIDTH), node.computeSize()[1]]);
}

/** A workflow saved before there was a chart has a node that is too low for it; Nodes 2.0 makes the room itself. @param {any} node */
function makeRoom(node) {
  const least = node.computeSize()[1];
  if (isClassic() && node.size[1] < least) node.setSize([node.size[0], least]);
}

/** Lets the classic canvas zoom and pan while the pointer is on a chart; Nodes 2.0 sees these events itself. @param {HTMLElement} element */
function passOn(element) {
  element.addEventListener("wheel", (event) => {
    if (!isClassic()) return;
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  });
  /** @param {"pointerdown"|"pointermove"|"pointerup"} kind @param {string} handler @param {(event: PointerEvent) => boolean} isMiddle */
  const middle = (kind, handler, isMiddle) =>
    element.addEventListener(kind, (event) => {
      if (isClassic() && isMiddle(event)) app.canvas[handler](event);
    });
  middle("pointerdown", "processMouseDown", ({ button }) => button === 1);
  middle("pointermove", "processMouseMove", ({ buttons }) => (buttons & 4) !== 0);
  middle("pointerup", "processMouseUp", ({ button }) => button === 1);
}

/** Calls `more` after what the node already does. @param {any} node @param {string} name @param {() => void} more */
function after(node, name, more) {
  const before = node[name];
  node[name] = function (/** @type {any[]} */ ...given) {
    const result = before?.apply(this, given);
    more();
    return result;
  };
}

const isClassic = () => !window.LiteGraph?.vueNodesMode;
const rootGraph = () => app.rootGraph ?? app.graph; // the older name, up to 2025
const openWorkflow = () => rootGraph()?.id ?? "";

/** @param {string} text @returns {Promise<boolean>} */
async function copied(text) {
  if (!navigator.clipboard) return copiedByCommand(text); // a page that came over plain http has no clipboard
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    if (error instanceof DOMException) return copiedByCommand(text);
    throw error;
  }
}

/** @param {string} text */
function copiedByCommand(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.style.cssText = "position:fixed; opacity:0";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
