/** The key, asked for when the service wants one. */

import { key } from "./api.js";
import { find } from "./dom.js";
import { sentence } from "./problems.js";

/**
 * Let people give and forget the key.
 * @param {() => void} onChange Called when there is another key, or none.
 */
export function watchKey(onChange) {
  const dialog = find("key-dialog");
  const use = (/** @type {string} */ value) => {
    key.set(value);
    dialog.close();
    onChange();
  };
  find("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    use(find("key").value.trim());
  });
  find("key-forget").addEventListener("click", () => use(""));
  find("key-open").addEventListener("click", () => askForKey("Another key has its own memories."));
}

/** Ask for a key. @param {string} detail Why. */
export function askForKey(detail) {
  find("key-open").hidden = false;
  find("key-detail").textContent = sentence(detail);
  find("key").value = key.get();
  if (!find("key-dialog").open) find("key-dialog").showModal();
}

/** Show whose key it is. @param {{tenant: string, role: string}} limits */
export function showKey({ tenant, role }) {
  find("key-open").textContent = `Key: ${tenant}, ${role}`;
}
