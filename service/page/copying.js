/** Code with a button that copies it. */

import { create } from "./dom.js";

const DONE_MS = 1500;

/**
 * @param {string} text
 * @param {string} name What it is, for the button's label.
 * @returns {HTMLElement}
 */
export function copyable(text, name) {
  const button = create("button", { type: "button", "aria-label": `Copy ${name}` }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = await copy(text);
    setTimeout(() => (button.textContent = "Copy"), DONE_MS);
  });
  // Focusable, so that the keyboard can scroll it.
  return create(
    "div",
    { class: "code" },
    create("pre", { tabindex: 0, role: "region", "aria-label": name }, create("code", {}, text)),
    button,
  );
}

/** @param {string} text @returns {Promise<string>} What became of it. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    return "Select it"; // browsers copy only for pages of TLS or of this machine
  }
}
