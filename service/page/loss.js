/** The loss of WRITE by step, drawn while it falls: a thin line for each page, a thick one for all. */

import { create, createSvg, find } from "./dom.js";
import { percent } from "./format.js";

const WIDTH = 480;
const HEIGHT = 230;
const LEFT = 34;
const RIGHT = 14;
const TOP = 14;
const BOTTOM = 36;

/** The chart with the figures above it. */
export class LossChart {
  constructor() {
    /** @type {Map<number, number[]>} Losses of each page. */
    this.pages = new Map();
    this.steps = 1;
  }

  /** Start anew. @param {number | null} steps Steps to come; null where that is open. */
  begin(steps) {
    this.pages = new Map();
    this.steps = steps ?? 1;
    find("how").hidden = true;
    find("descent").hidden = false;
    find("loss-caption").textContent = "";
    this.draw([]);
    find("descent").scrollIntoView({ block: "nearest" }); // on a phone it is below the form
  }

  /** Add a gradient step. @param {{page: number, step: number, loss: number}} step */
  add({ page, step, loss }) {
    const losses = this.pages.get(page) ?? [];
    losses[step - 1] = loss;
    this.pages.set(page, losses);
    this.draw(meanByStep([...this.pages.values()]));
  }

  /**
   * Show the losses of a memory: of the pages that were kept, and after the last step too.
   * @param {{losses: number[], pages: {losses: number[]}[], write_steps: number}} memory
   */
  finish(memory) {
    this.begin(memory.write_steps);
    this.pages = new Map(memory.pages.map((page, number) => [number, page.losses]));
    this.draw(memory.losses);
  }

  /** @param {number[]} mean Losses of all pages by step. */
  draw(mean) {
    const first = mean.at(0);
    const last = mean.at(-1);
    show("loss-now", last, (loss) => loss.toFixed(2), first);
    show("chance-now", last, (loss) => percent(Math.exp(-loss)), first);
    const text = mean.map((loss) => loss.toFixed(2)).join(", ");
    find("loss-chart").replaceChildren(
      createSvg(
        "svg",
        {
          viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
          role: "img",
          "aria-label": text ? `Loss by step: ${text}` : "No step yet",
        },
        ...this.plot(mean),
      ),
    );
    const pages = this.pages.size > 1 ? "A thin line is a page, the thick one their mean. " : "";
    find("loss-caption").textContent =
      `${pages}Reconstruction loss before each step and after the last; a token’s chance is e to ` +
      "the power of minus the loss.";
  }

  /** @param {number[]} mean @returns {SVGElement[]} */
  plot(mean) {
    const all = [...this.pages.values(), mean];
    const steps = Math.max(this.steps, ...all.map((losses) => losses.length - 1));
    const tick = tickOf(Math.max(1, ...all.flat()));
    const top = tick * Math.ceil(Math.max(1, ...all.flat()) / tick);
    const x = (/** @type {number} */ step) => LEFT + (step / steps) * (WIDTH - LEFT - RIGHT);
    const y = (/** @type {number} */ loss) => TOP + (1 - loss / top) * (HEIGHT - TOP - BOTTOM);
    const path = (/** @type {number[]} */ losses) =>
      losses.map((loss, step) => `${step ? "L" : "M"}${x(step).toFixed(1)} ${y(loss).toFixed(1)}`);
    const labels = Array.from({ length: steps + 1 }, (_, step) => step);
    const every = Math.ceil(steps / 10);
    const thin = this.pages.size > 1 ? [...this.pages.values()] : [];
    return [
      ...Array.from({ length: Math.round(top / tick) + 1 }, (_, index) => index * tick).flatMap(
        (loss) => [
          createSvg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(loss), y2: y(loss) }),
          createSvg("text", { class: "y", x: LEFT - 8, y: y(loss) + 4 }, String(loss)),
        ],
      ),
      ...labels
        .filter((step) => step % every === 0)
        .map((step) => createSvg("text", { class: "x", x: x(step), y: HEIGHT - 18 }, String(step))),
      createSvg("text", { class: "x", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 2 }, "gradient steps"),
      ...thin.map((losses) => createSvg("path", { class: "page", d: path(losses).join("") })),
      createSvg("path", { class: "mean", d: path(mean).join("") }),
      ...mean.map((loss, step) =>
        createSvg("circle", {
          class: step === mean.length - 1 ? "dot last" : "dot",
          cx: x(step),
          cy: y(loss),
          r: step === mean.length - 1 ? 5 : 3.5,
        }),
      ),
    ];
  }
}

/**
 * Show a figure, with the one that it began with.
 * @param {string} id
 * @param {number | undefined} value
 * @param {(loss: number) => string} format
 * @param {number | undefined} first
 */
function show(id, value, format, first) {
  if (value === undefined || first === undefined) {
    find(id).replaceChildren("–");
    return;
  }
  const from = value === first ? null : create("span", { class: "from" }, `from ${format(first)}`);
  find(id).replaceChildren(format(value), from ? " " : "", from ?? "");
}

/** Average over the pages that have come as far. @param {number[][]} pages */
function meanByStep(pages) {
  const longest = Math.max(0, ...pages.map((losses) => losses.length));
  return Array.from({ length: longest }, (_, step) => {
    const there = pages.map((losses) => losses[step]).filter((loss) => loss !== undefined);
    return there.reduce((sum, loss) => sum + loss, 0) / there.length;
  });
}

/** @param {number} most @returns {number} A round distance of gridlines. */
function tickOf(most) {
  return [0.25, 0.5, 1, 2, 5, 10].find((tick) => most / tick <= 5) ?? 20;
}
