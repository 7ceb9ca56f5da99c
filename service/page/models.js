/** The served models: the choice among them, and the card of the chosen one. */

import { create, find } from "./dom.js";
import { bytes, number } from "./format.js";

/** @type {any[]} */
let models = [];

/**
 * Offer models; the first is the default.
 * @param {any[]} served
 */
export function offerModels(served) {
  models = served;
  const select = find("model");
  select.replaceChildren(...served.map(({ name }) => create("option", { value: name }, name)));
  const choose = () => {
    const model = chosenModel();
    showCard(model);
    showSteps(model);
  };
  select.onchange = choose;
  choose();
  for (const id of ["example", "write"]) find(id).disabled = false; // they need a model
}

/** @returns {any} */
export const chosenModel = () => modelOf(find("model").value);

/** @param {string} name @returns {any} Undefined where it is not served any more. */
export const modelOf = (name) => models.find((model) => model.name === name);

/** @param {any} model */
function showCard(model) {
  const facts = [
    ["Memory", `${model.memory_tokens} vectors of ${model.width} numbers for each page`],
    ["Page", `up to ${number(model.page_tokens ?? model.max_context_tokens)} tokens`],
    ["Steps", `${model.write_steps} by default, ${model.max_write_steps} at most`],
    ["Question", `up to ${number(model.max_query_tokens)} tokens, with the text around it`],
    ["Answer", `up to ${number(model.max_answer_tokens)} tokens`],
    ["KV cache", `${bytes(model.cache_bytes_per_token / 2)} for each token, in 16 bits`],
    ["Fingerprint", model.fingerprint.slice(0, 16)],
  ];
  find("card").replaceChildren(
    create("h3", {}, model.name),
    create("p", {}, ...withCode(model.purpose || "Its makers have not said what it is for.")),
    create(
      "dl",
      { class: "limits" },
      ...facts.map(([name, value]) =>
        create("div", {}, create("dt", {}, name), create("dd", {}, value)),
      ),
    ),
  );
}

/** Set what is between backticks as code. @param {string} text @returns {(Node | string)[]} */
function withCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? create("code", {}, part) : part));
}

/** @param {any} model */
function showSteps(model) {
  const counts = Array.from({ length: model.max_write_steps }, (_, index) => index + 1);
  find("write-steps").replaceChildren(
    create("option", { value: "" }, `${model.write_steps} (default)`),
    create("option", { value: "auto" }, "as many as help"),
    ...counts.map((count) => create("option", { value: count }, String(count))),
  );
}
