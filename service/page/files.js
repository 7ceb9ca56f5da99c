/** Files that people open, or drop on a card. */

import { find } from "./dom.js";

export const MEMORY_SUFFIX = ".safetensors"; // of the names of exported memories

/**
 * Take a file from a button, whose input has the id `BUTTON-file`, and from a drop on its card.
 * @param {string} button Id of the button.
 * @param {(file: File) => void} take
 */
export function watchFiles(button, take) {
  const input = find(`${button}-file`);
  const card = find(button).closest(".card");
  find(button).addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take(input.files[0]);
    input.value = ""; // the same file may be opened again
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    card.addEventListener(kind, (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      card.classList.toggle("dropping", kind === "dragover");
      const file = event.dataTransfer?.files[0];
      if (kind === "drop" && file) take(file);
    });
  }
}
