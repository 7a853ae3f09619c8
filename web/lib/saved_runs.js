// @ts-check
/**
 * Runs in a Storage. kvlock.js gives that of the browser tab's session: it lives as long as the tab, survives a refresh, and
 * is seen by no other tab, which has runs of its own. Nothing of it goes into a workflow.
 *
 * @typedef {import("./run_store.js").Run} Run
 * @typedef {import("./run_store.js").Runs} Runs
 */

const KEY = "kvlock.runs.1";
/** The whole origin has about 5 MB; a run of 50 steps takes 15 kB with its heat map. */
export const CHARACTERS_KEPT = 500_000;
const RECORD_FIELDS = ["step", "sigma"];

/**
 * What was saved; empty where there is nothing that can be read.
 * @param {Pick<Storage, "getItem">} storage
 * @returns {Runs}
 */
export function load(storage) {
  const entries = parsed(storage.getItem(KEY));
  return new Map(entries.filter(isEntry).map(([key, run]) => [key, { ...run, state: settled(run) }]));
}

/**
 * Saves the latest runs that fit. -> whether the storage took them
 * @param {Pick<Storage, "setItem">} storage
 * @param {Runs} runs
 */
export function save(storage, runs) {
  try {
    storage.setItem(KEY, latestThatFit([...runs]));
    return true;
  } catch (error) {
    if (error instanceof Error) return false; // full, or forbidden by the browser
    throw error;
  }
}

/** @param {[string, Run][]} entries */
function latestThatFit(entries) {
  let kept = entries;
  let text = JSON.stringify(kept);
  while (text.length > CHARACTERS_KEPT) {
    kept = kept.slice(1);
    text = JSON.stringify(kept);
  }
  return text;
}

/** @param {string|null} text @returns {any[]} */
function parsed(text) {
  try {
    const entries = JSON.parse(text ?? "[]");
    return Array.isArray(entries) ? entries : [];
  } catch (error) {
    if (error instanceof SyntaxError) return [];
    throw error;
  }
}

/** @param {any} entry @returns {entry is [string, Run]} */
function isEntry(entry) {
  if (!Array.isArray(entry) || typeof entry[0] !== "string") return false;
  const records = entry[1]?.records;
  const good = (/** @type {any} */ record) => RECORD_FIELDS.every((name) => typeof record?.[name] === "number");
  return Array.isArray(records) && records.length > 0 && records.every(good) && Number.isInteger(entry[1].total);
}

/** A run that was left running went on unseen; the next step that arrives makes it running again. @param {Run} run */
function settled(run) {
  return run.state === "running" ? "incomplete" : run.state;
}
