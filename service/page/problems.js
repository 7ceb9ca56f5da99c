/** Problems, shown in their own words. */

import { ProblemError } from "./api.js";
import { create, find } from "./dom.js";

/**
 * Show an error where it belongs; one that is no problem is a fault of this page.
 * @param {HTMLElement} place
 * @param {unknown} error
 */
export function showProblem(place, error) {
  if (!(error instanceof ProblemError)) throw error;
  const { title, detail, request_id: id } = error.problem;
  if (error.needsKey) find("key-open").hidden = false;
  const wait = error.retryAfter && ` Try again in ${error.retryAfter} s.`;
  place.replaceChildren(
    create(
      "div",
      { class: "problem", role: "alert" },
      create("strong", {}, title),
      create("p", {}, `${sentence(detail)}${wait ?? ""}`),
      id ? create("p", { class: "caption" }, "Request ", create("code", {}, id)) : null,
    ),
  );
}

/** @param {HTMLElement} place */
export function clearProblem(place) {
  place.replaceChildren();
}

/**
 * Return a problem's detail as a sentence.
 * @param {string} text
 * @returns {string}
 */
export function sentence(text) {
  const end = /[.!?]$/.test(text) ? "" : ".";
  return text.charAt(0).toUpperCase() + text.slice(1) + end;
}
