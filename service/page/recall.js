/** The tokens of a document, tinted by how well the memory recalls each of them. */

import { create, find } from "./dom.js";
import { lines, percent } from "./format.js";

/**
 * A token with its probability from M0 and from the memory.
 * @typedef {{text: string, before: number, after: number}} Token
 */

const HINT =
  "Each token is tinted by its probability, given the memory and the tokens before it. Point at " +
  "one, or walk through them with the arrow keys.";
const REVEAL_MS = 500;
const STEPS = new Map([
  ["ArrowRight", 1],
  ["ArrowDown", 1],
  ["ArrowLeft", -1],
  ["ArrowUp", -1],
]);

/**
 * Show the tokens of the pages: before WRITE, and a moment later after it.
 * @param {Token[][]} pages
 * @param {{write_accuracy: number, read_back: number | null, pages: any[]}} memory
 */
export function showRecall(pages, memory) {
  find("recall").hidden = false;
  find("recall-summary").replaceChildren(...summarize(pages.flat(), memory));
  find("tokens").replaceChildren(
    ...pages.flatMap((tokens, number) => {
      const id = `tokens-${number}`;
      const name = `Page ${number + 1}`;
      const info = memory.pages.at(number - pages.length) ?? {};
      return [
        pages.length > 1 ? create("h3", {}, [name, lines(info)].filter(Boolean).join(", ")) : null,
        listTokens(tokens, id, name),
      ].filter((part) => part !== null);
    }),
  );
  tell(null);
  view("before");
  setTimeout(() => view("after"), REVEAL_MS);
}

/** Let the switch between before and after change the tints. */
export function watchSwitch() {
  for (const input of switches()) input.addEventListener("change", () => view(input.value));
}

/** @param {string} side `before` or `after`. */
function view(side) {
  find("tokens").dataset.view = side;
  for (const input of switches()) input.checked = input.value === side;
}

/** @returns {HTMLInputElement[]} */
const switches = () => [...find("recall").querySelectorAll("input[name=view]")];

/** @param {Token[]} tokens @param {any} memory */
function summarize(tokens, { write_accuracy: accuracy, read_back: readBack }) {
  const mean = (/** @type {"before" | "after"} */ side) =>
    percent(tokens.reduce((sum, token) => sum + token[side], 0) / tokens.length);
  return [
    "The probability of a token is on average ",
    create("b", {}, mean("before")),
    " before WRITE and ",
    create("b", {}, mean("after")),
    ` after it; then ${percent(accuracy)} of the tokens are the likeliest at their place. `,
    readBack === null
      ? ""
      : `Asked at once, READ gave back ${percent(readBack)} of the words from the memory alone.`,
  ];
}

/**
 * Build a list of tokens that is walked through with the arrow keys.
 * @param {Token[]} tokens @param {string} id @param {string} name
 */
function listTokens(tokens, id, name) {
  const list = create(
    "p",
    { class: "tokens", id, role: "listbox", tabindex: 0, "aria-label": `Tokens of ${name}` },
    ...tokens.map((token, index) =>
      create(
        "span",
        {
          class: "token",
          id: `${id}-${index}`,
          role: "option",
          "aria-label": describe(token),
          "--before": token.before.toFixed(3),
          "--after": token.after.toFixed(3),
          "--delay": `${Math.round((600 * index) / tokens.length)}ms`,
        },
        token.text,
      ),
    ),
  );
  const selected = () => list.querySelector("[aria-selected]");
  const select = (/** @type {Element | null | undefined} */ chosen) => {
    if (!chosen) return;
    selected()?.removeAttribute("aria-selected");
    chosen.setAttribute("aria-selected", "true");
    chosen.scrollIntoView({ block: "nearest" });
    list.setAttribute("aria-activedescendant", chosen.id);
    tell(chosen);
  };
  list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const step = STEPS.get(event.key);
    if (!step) return;
    event.preventDefault();
    const from = selected();
    const next = step > 0 ? from?.nextElementSibling : from?.previousElementSibling;
    select(from ? next : list.firstElementChild);
  });
  list.addEventListener("click", (/** @type {Event} */ event) => select(tokenAt(event)));
  list.addEventListener("pointerover", (/** @type {Event} */ event) => tell(tokenAt(event)));
  list.addEventListener("pointerleave", () => tell(selected()));
  return list;
}

/** @param {Event} event @returns {Element | null} */
const tokenAt = (event) => /** @type {Element} */ (event.target).closest(".token");

/** Tell the probabilities of a token, or how to come by them. @param {Element | null} token */
function tell(token) {
  find("token-detail").textContent = token?.getAttribute("aria-label") ?? HINT;
}

/** @param {Token} token */
function describe({ text, before, after }) {
  const shown = text.trim() || text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");
  return `“${shown}” ${percent(before)} before WRITE, ${percent(after)} after it`;
}
