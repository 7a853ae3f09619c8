// @ts-check
/**
 * What is known of the runs: a Map from "workflow/execution id" to the last run there, the latest at the end. Pure.
 *
 * @typedef {object} StepRecord One evaluation, as `StepRecord` of kvlock_core. Null is "not known" or "does not apply".
 * @property {number} step From 0.
 * @property {number} sigma
 * @property {boolean} active
 * @property {number|null} risk
 * @property {number|null} alpha
 * @property {number|null} omega
 * @property {number|null} s_star
 * @property {boolean} needs_source
 *
 * @typedef {object} Heat Where the risk is; levels row by row, 0 to 255 of `max`, -1 where it is not known.
 * @property {number} width
 * @property {number} height
 * @property {number} max
 * @property {number[]} levels
 *
 * @typedef {"running"|"finished"|"interrupted"|"failed"|"incomplete"} State
 *
 * @typedef {object} Run
 * @property {string} run
 * @property {string|null} prompt
 * @property {string} node Its execution id, such as "12:7:5".
 * @property {number} total Steps of the whole run.
 * @property {number|null} tau
 * @property {State} state
 * @property {StepRecord[]} records
 * @property {Heat|null} heat
 *
 * @typedef {ReadonlyMap<string, Run>} Runs
 */

const FIELDS = ["step", "sigma", "active", "risk", "alpha", "omega", "s_star", "needs_source"];
/** More than one sees in a session; bounds what the page keeps. */
export const RUNS_KEPT = 40;

/** @param {string} workflow @param {string} node */
export const keyOf = (workflow, node) => `${workflow}/${node}`;

/**
 * The runs after one message of the server; the same Map if it says nothing.
 * @param {Runs} runs
 * @param {any} message
 * @returns {Runs}
 */
export function withStep(runs, message) {
  if (!isStep(message)) return runs;
  const key = keyOf(message.workflow ?? "", message.node);
  return withLatest(runs, key, grown(runs.get(key), message));
}

/**
 * The runs after a prompt ended; only those that it had running change.
 * @param {Runs} runs
 * @param {string} prompt
 * @param {State} state
 * @returns {Runs}
 */
export function withEnd(runs, prompt, state) {
  const ended = (/** @type {Run} */ run) => run.prompt === prompt && run.state === "running";
  if (![...runs.values()].some(ended)) return runs;
  return new Map([...runs].map(([key, run]) => [key, ended(run) ? { ...run, state } : run]));
}

/**
 * The latest run of a node that may run under several execution ids (its subgraph may be used twice).
 * @param {Runs} runs
 * @param {string} workflow
 * @param {string[]} nodes
 * @returns {Run|null}
 */
export function latestOf(runs, workflow, nodes) {
  const wanted = new Set(nodes.map((node) => keyOf(workflow, node)));
  const found = [...runs].filter(([key]) => wanted.has(key));
  return found.length ? found[found.length - 1][1] : null;
}

/** What a click copies. @param {Run} run */
export function toJson(run) {
  const { node, total, tau, state, records } = run;
  return JSON.stringify({ node, state, total, tau, steps: records }, null, 1);
}

/** @param {any} message */
function isStep(message) {
  const ids = [message?.node, message?.run].every((id) => typeof id === "string" && id !== "");
  return ids && Number.isInteger(message.step) && Number.isInteger(message.total) && message.total > 0;
}

/** @param {Run|undefined} before @param {any} message @returns {Run} */
function grown(before, message) {
  const goesOn = before !== undefined && continues(before, message);
  return {
    run: message.run,
    prompt: message.prompt ?? null,
    node: message.node,
    total: message.total,
    tau: message.tau ?? null,
    state: message.step + 1 >= message.total ? "finished" : "running",
    records: [...(goesOn ? before.records : []), recordOf(message)],
    heat: message.heat ?? (goesOn ? before.heat : null),
  };
}

/**
 * The same run, or the second sampler of one schedule behind the same node (KSampler (Advanced) twice): it takes
 * up where the first stopped.
 * @param {Run} before
 * @param {any} message
 */
function continues(before, message) {
  if (before.run === message.run) return true;
  const last = before.records[before.records.length - 1];
  const samePrompt = before.prompt !== null && before.prompt === message.prompt;
  return samePrompt && before.total === message.total && message.step === last.step + 1;
}

/** @param {any} message @returns {StepRecord} */
function recordOf(message) {
  return /** @type {any} */ (Object.fromEntries(FIELDS.map((name) => [name, message[name] ?? null])));
}

/** @param {Runs} runs @param {string} key @param {Run} run @returns {Runs} */
function withLatest(runs, key, run) {
  const others = [...runs].filter(([other]) => other !== key);
  return new Map([...others.slice(Math.max(0, others.length + 1 - RUNS_KEPT)), [key, run]]);
}
