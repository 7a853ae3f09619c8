/** Messages and runs for the tests. */

/** What nodes/host/events.py sends. */
export function message(step, more = {}) {
  return {
    node: "17", run: "r1", prompt: "p1", workflow: "w1", total: 20, tau: 0.2, step, sigma: 1 - step / 20, active: step >= 8,
    risk: step === 0 ? null : 4 / step, alpha: step >= 8 ? 0.8 : 0, omega: 4, s_star: 1, needs_source: step >= 8, heat: null, ...more,
  }; // prettier-ignore
}

export const record = (step, more = {}) => ({
  step, sigma: 1 - step / 20, active: false, risk: 1, alpha: 0, omega: 4, s_star: 1, needs_source: false, ...more,
}); // prettier-ignore

export const run = (records, more = {}) => ({
  run: "r1", prompt: "p1", node: "17", total: 20, tau: 0.2, state: "running", records, heat: null, ...more,
}); // prettier-ignore

export const steps = (count, more) => Array.from({ length: count }, (_, i) => record(i, more?.(i)));
