// @ts-check
/**
 * Levels of a heat map -> pixels. Pure.
 *
 * @typedef {import("./run_store.js").Heat} Heat
 */

const LEVELS = 255;

/**
 * One pixel a cell, RGBA; transparent where the risk is not known.
 * @param {Heat} heat
 * @param {[number, number, number][]} stops
 */
export function pixelsOf(heat, stops) {
  const pixels = new Uint8ClampedArray(heat.width * heat.height * 4);
  heat.levels.slice(0, heat.width * heat.height).forEach((level, cell) => {
    if (level >= 0) pixels.set([...colourAt(level / LEVELS, stops), 255], cell * 4);
  });
  return pixels;
}

/**
 * @param {number} share 0 to 1
 * @param {[number, number, number][]} stops
 * @returns {[number, number, number]}
 */
export function colourAt(share, stops) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  const mix = (/** @type {0|1|2} */ i) => Math.round(stops[below][i] + (place - below) * (stops[below + 1][i] - stops[below][i]));
  return [mix(0), mix(1), mix(2)];
}

/**
 * Where a map of this shape lies in a box: as large as fits, cells square, at the top.
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {{width: number, height: number}} heat
 */
export function fitted(box, heat) {
  const cell = Math.min(box.width / heat.width, box.height / heat.height);
  const width = Math.round(cell * heat.width);
  return { x: box.x + Math.round((box.width - width) / 2), y: box.y, width, height: Math.round(cell * heat.height) };
}

/** @param {Heat|null|undefined} heat @returns {heat is Heat} */
export function isDrawable(heat) {
  return Boolean(heat) && /** @type {Heat} */ (heat).width > 0 && /** @type {Heat} */ (heat).height > 0;
}
