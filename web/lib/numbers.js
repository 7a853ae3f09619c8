// @ts-check
/** Numbers as the chart writes them, and round ends for its scales. Pure. */

const ROUND = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];
const STRIDES = [1, 2, 5];

/** Three digits, without zeros that say nothing; a dash for what is not known. @param {number|null|undefined} value */
export function digits(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) return value.toExponential(1).replace("e+", "e").replace("-", "−").replace("e-", "e−");
  if (size >= 100) return minus(String(Math.round(value)));
  return minus(String(Number(value.toPrecision(size < 0.1 ? 2 : 3))));
}

/** @param {string} text */
const minus = (text) => text.replace("-", "−");

/** The next round number from `value` on; 1 for what has none. @param {number} value */
export function roundUp(value) {
  if (!(value > 0) || !Number.isFinite(value)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  const found = ROUND.find((factor) => factor * unit >= value * (1 - 1e-9)) ?? 10;
  return Number((found * unit).toPrecision(3));
}

/** The smallest of 1, 2, 5, 10, 20, ... that is at least `least`. @param {number} least */
export function strideFrom(least) {
  for (let unit = 1; ; unit *= 10) {
    const found = STRIDES.find((stride) => stride * unit >= least);
    if (found !== undefined) return found * unit;
  }
}
