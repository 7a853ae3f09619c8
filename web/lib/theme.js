// @ts-check
/**
 * Colours. The paper is the host's own widget background; everything on it is ours, in a light and a dark set, so that
 * contrast does not depend on the palette. The four hues are those that the usual colour-blindnesses keep apart
 * (orange, blue, green, purple, different in lightness too), and every curve is named beside itself as well.
 *
 * @typedef {object} Theme
 * @property {boolean} dark
 * @property {string} ink
 * @property {string} muted
 * @property {string} grid
 * @property {string} band The active range.
 * @property {string} risk
 * @property {string} alpha
 * @property {string} omega
 * @property {string} s_star
 * @property {string} good
 * @property {string} bad
 * @property {[number, number, number][]} heat From nothing to the highest risk: one hue, lightness that only goes one way.
 */

/** @type {Theme} */
const LIGHT = {
  dark: false, ink: "#20242c", muted: "#5d6470", grid: "rgba(32,36,44,0.16)", band: "rgba(38,110,200,0.11)",
  risk: "#c04a10", alpha: "#1467b8", omega: "#0b7f57", s_star: "#8647a8", good: "#0b7f57", bad: "#b3261e",
  heat: [[252, 246, 240], [247, 205, 165], [226, 128, 62], [158, 55, 14], [74, 18, 4]],
}; // prettier-ignore

/** @type {Theme} */
const DARK = {
  dark: true, ink: "#eceef2", muted: "#a3a9b4", grid: "rgba(236,238,242,0.16)", band: "rgba(94,170,240,0.15)",
  risk: "#f58a4b", alpha: "#62b0f2", omega: "#3ecb9a", s_star: "#cf9be4", good: "#3ecb9a", bad: "#ff7b72",
  heat: [[34, 30, 32], [96, 40, 22], [190, 84, 28], [245, 152, 82], [255, 240, 214]],
}; // prettier-ignore

/** @param {string} paper A colour as getComputedStyle writes it. @returns {Theme} */
export function themeOn(paper) {
  return lightness(paper) > 0.5 ? LIGHT : DARK;
}

/**
 * 0 (black) to 1 (white); 0, the host's usual dark, for what cannot be read or is transparent.
 * @param {string} colour
 */
export function lightness(colour) {
  const numbers = (colour.match(/[\d.]+%?/g) ?? []).map((part) => (part.endsWith("%") ? parseFloat(part) / 100 : Number(part)));
  if (/^rgba?\(/.test(colour)) return numbers[3] === 0 ? 0 : luma(numbers.map((part) => part / 255));
  if (/^color\(srgb /.test(colour)) return luma(numbers);
  if (/^okl(ab|ch)\(/.test(colour)) return numbers[0] ?? 0;
  return 0;
}

/** @param {number[]} rgb */
const luma = ([red = 0, green = 0, blue = 0]) => 0.299 * red + 0.587 * green + 0.114 * blue;
