/** Questions to a memory, and its answers as they come. */

import { stream } from "./api.js";
import { create, find } from "./dom.js";
import { lines, percent } from "./format.js";
import { clearProblem, showProblem } from "./problems.js";

/** @typedef {{text: string, probability: number}} Token */

const REASONS = {
  "not stated": "The memory says that it has no answer to this.",
  "below threshold": "The memory has an answer, but is not sure enough of it.",
};

/** @type {any} The memory that is asked. */
let asked = null;
let abort = new AbortController();

/**
 * Ask this memory from now on.
 * @param {any} memory
 * @param {string[]} questions Questions to suggest.
 */
export function askMemory(memory, questions) {
  abort.abort();
  abort = new AbortController();
  asked = memory;
  find("answers").replaceChildren();
  clearProblem(find("ask-problem"));
  find("question").value = "";
  find("suggestions").replaceChildren(
    ...questions.map((question) =>
      create("button", { type: "button", onclick: () => ask(question) }, question),
    ),
  );
}

/** Ask no memory: there is none. */
export function askNone() {
  abort.abort();
}

/** Answer the form. */
export function watchQuestions() {
  find("ask-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const question = find("question").value.trim();
    if (question) ask(question);
  });
}

/** @param {string} question */
async function ask(question) {
  const signal = abort.signal;
  const reply = create("p", { class: "reply waiting" }, create("span", { class: "unseen" }, "Reading"));
  const note = create("div", { class: "note" });
  const article = create("article", { "aria-busy": "true" }, create("h3", {}, question), reply, note);
  find("answers").prepend(article);
  clearProblem(find("ask-problem"));
  /** @type {Token[]} */
  const tokens = [];
  try {
    const body = { memory_id: asked.memory_id, query: question, stream: true };
    const result = await stream(
      "read",
      body,
      {
        token: (/** @type {Token} */ token) => {
          if (!tokens.length) reply.replaceChildren();
          tokens.push(token);
          reply.classList.remove("waiting");
          reply.append(tint(token));
        },
      },
      signal,
    );
    finish(reply, note, result.answers[0], tokens);
  } catch (error) {
    article.remove();
    if (!signal.aborted) showProblem(find("ask-problem"), error);
  } finally {
    article.removeAttribute("aria-busy");
  }
}

/**
 * @param {HTMLElement} reply @param {HTMLElement} note @param {any} answer @param {Token[]} tokens
 */
function finish(reply, note, answer, tokens) {
  reply.classList.remove("waiting");
  const confidence = percent(answer.confidence);
  if (answer.found) {
    const page = asked.pages.findIndex((/** @type {any} */ each) => each.page_id === answer.page_id);
    const place = [`page ${page + 1}`, lines(asked.pages[page])].filter(Boolean).join(", ");
    reply.replaceChildren(...tokens.map(tint));
    note.append(meter(answer.confidence), `confidence ${confidence} · ${place}`, eachToken(tokens));
  } else {
    reply.className = "reply absent";
    reply.textContent = "Not found";
    const reason = REASONS[/** @type {keyof typeof REASONS} */ (answer.reason)];
    note.append(`${reason} Confidence ${confidence}.`);
  }
}

/** @param {Token} token */
function tint({ text, probability }) {
  return create("span", { class: "token", "--p": probability.toFixed(3) }, text);
}

/** @param {number} share */
function meter(share) {
  return create("i", { class: "meter", "aria-hidden": "true", "--share": share });
}

/** @param {Token[]} tokens */
function eachToken(tokens) {
  return create(
    "details",
    {},
    create("summary", {}, "each token"),
    create(
      "ul",
      { class: "each" },
      ...tokens
        .filter(({ text }) => text)
        .map(({ text, probability }) =>
          create("li", {}, create("b", {}, text.trim() || "␣"), ` ${percent(probability)}`),
        ),
    ),
  );
}
