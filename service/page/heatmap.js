/** The vectors of a memory as a heat map, beside those from which WRITE started. */

import { ProblemError, send } from "./api.js";
import { create, find } from "./dom.js";
import { percent } from "./format.js";
import { clearProblem, showProblem } from "./problems.js";
import { readMatrix } from "./safetensors.js";

/** @typedef {import("./safetensors.js").Matrix} Matrix */

/** @type {Map<string, Promise<Matrix>>} M0 by the fingerprint of its model. */
const starts = new Map();
/** @type {{start: Matrix, memory: Matrix} | null} */
let shown = null;
let loads = 0; // begun so far: an answer that comes after another load began is left out

/**
 * Show the vectors of a memory.
 * @param {{memory_id: string, model: string, fingerprint: string, pages: {page_id: string}[]}} memory
 */
export async function showVectors({ memory_id: id, model, fingerprint, pages }) {
  find("vectors-page-label").hidden = pages.length < 2;
  const select = find("vectors-page");
  select.replaceChildren(
    ...pages.map((page, index) => create("option", { value: page.page_id }, String(index + 1))),
  );
  select.onchange = () => load(id, model, fingerprint, select.value);
  await load(id, model, fingerprint, pages[0].page_id);
}

/** Draw again where another view, or another colour scheme, is wanted. */
export function watchViews() {
  for (const input of document.querySelectorAll("input[name=vectors]")) {
    input.addEventListener("change", draw);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

/** @param {string} id @param {string} model @param {string} fingerprint @param {string} page */
async function load(id, model, fingerprint, page) {
  const turn = ++loads;
  shown = null;
  clearProblem(find("vectors-problem"));
  if (!starts.has(fingerprint)) {
    starts.set(fingerprint, fetchMatrix(`models/${encodeURIComponent(model)}/initial-memory`));
  }
  try {
    const start = await /** @type {Promise<Matrix>} */ (starts.get(fingerprint));
    const memory = await fetchMatrix(`memories/${id}/prompt-embeds?page=${page}`);
    if (turn !== loads) return;
    shown = { start, memory };
    draw();
  } catch (error) {
    starts.delete(fingerprint);
    if (turn !== loads) return;
    if (error instanceof ProblemError) showProblem(find("vectors-problem"), error);
    else throw error;
  }
}

/** @param {string} path @returns {Promise<Matrix>} */
async function fetchMatrix(path) {
  return readMatrix(await (await send(path, { accept: "*/*" })).arrayBuffer());
}

function draw() {
  if (!shown) return;
  const { start, memory } = shown;
  const change = memory.values.map((value, index) => value - start.values[index]);
  const view = /** @type {HTMLInputElement} */ (
    document.querySelector("input[name=vectors]:checked")
  ).value;
  const values = { start: start.values, memory: memory.values, change }[view] ?? change;
  // M0 and the memory have one scale, so that they can be compared.
  const scale = view === "change" ? spread([change]) : spread([start.values, memory.values]);
  paint(find("heatmap"), memory, values, scale);
  find("scale-low").textContent = `−${scale.toPrecision(2)}`;
  find("scale-high").textContent = scale.toPrecision(2);
  const moved = norm(change) / norm(start.values);
  find("vectors-caption").textContent =
    `${memory.rows} vectors, one a row, of ${memory.columns} numbers. WRITE moved them by ` +
    `${percent(moved)} of the length of M0, the vectors that it starts from.`;
}

/** @param {Float32Array} values @returns {number} Their Euclidean norm. */
function norm(values) {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

/** Return a bound that nearly all numbers keep. @param {Float32Array[]} parts */
function spread(parts) {
  const sizes = Float32Array.from(parts.flatMap((part) => [...part]), Math.abs).sort();
  return sizes[Math.floor(0.99 * (sizes.length - 1))] || 1;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {{rows: number, columns: number}} shape
 * @param {Float32Array} values
 * @param {number} scale The number that has the full colour.
 */
function paint(canvas, { rows, columns }, values, scale) {
  const [low, zero, high] = ["--low", "--zero", "--high"].map((name) => colour(canvas, name));
  const image = new ImageData(columns, rows);
  values.forEach((value, index) => {
    const share = Math.min(1, Math.abs(value) / scale);
    const full = value < 0 ? low : high;
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * index + channel] = zero[channel] + share * (full[channel] - zero[channel]);
    }
    image.data[4 * index + 3] = 255;
  });
  canvas.style.imageRendering = columns < canvas.clientWidth ? "pixelated" : "auto";
  canvas.width = columns;
  canvas.height = rows;
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(image, 0, 0);
}

/** Return red, green and blue of a CSS property. @param {HTMLElement} element @param {string} name */
function colour(element, name) {
  element.style.color = `var(${name})`;
  const parts = getComputedStyle(element).color.match(/\d+/g) ?? [];
  return parts.slice(0, 3).map(Number);
}
