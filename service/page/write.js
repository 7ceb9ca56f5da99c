/** The form that writes a document: typed, pasted, dropped, or one of ours. */

import { stream } from "./api.js";
import { find } from "./dom.js";
import { exampleFor } from "./examples.js";
import { MEMORY_SUFFIX, watchFiles } from "./files.js";
import { plural } from "./format.js";
import { chosenModel } from "./models.js";
import { clearProblem, showProblem } from "./problems.js";

/** @typedef {import("./recall.js").Token} Token */

/**
 * Listeners of a WRITE.
 * @typedef {object} Listeners
 * @property {(steps: number | null) => void} onBegin Called with the steps to come, where known.
 * @property {(step: {page: number, step: number, loss: number}) => void} onStep
 * @property {(memory: any, pages: Token[][], text: string) => void} onWritten
 * @property {() => void} onFailure
 * @property {(file: File) => void} onMemoryFile Called with a memory in place of a text.
 */

const PATIENCE_MS = 3000;

/** The form. */
export class WriteForm {
  /** @param {Listeners} listeners */
  constructor(listeners) {
    this.listeners = listeners;
    /** @type {AbortController | null} */
    this.abort = null;
    find("write-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      if (!this.abort) this.write();
    });
    find("stop").addEventListener("click", () => this.abort?.abort());
    find("example").addEventListener("click", () => {
      find("document").value = exampleFor(chosenModel()).document;
      find("write").focus();
    });
    watchFiles("open", (file) =>
      file.name.endsWith(MEMORY_SUFFIX) ? this.listeners.onMemoryFile(file) : this.take(file),
    );
  }

  /** @param {File} file */
  async take(file) {
    if (this.abort || find("write-form").hidden) return;
    find("document").value = await file.text();
    find("write-name").value = file.name.slice(0, 256);
  }

  async write() {
    const text = find("document").value;
    const steps = find("write-steps").value;
    const usual = chosenModel().write_steps;
    /** @type {Token[][]} */
    const pages = [];
    this.abort = new AbortController();
    this.show("Writing …", true);
    const slow = setTimeout(() => this.show("Waiting for the service …", true), PATIENCE_MS);
    this.listeners.onBegin(steps === "auto" ? null : Number(steps || usual));
    try {
      const memory = await stream(
        "write",
        this.body(text, steps),
        {
          step: (step) => {
            clearTimeout(slow);
            this.listeners.onStep(step);
            this.show("Writing …", true);
          },
          recall: ({ page, tokens }) => (pages[page] = tokens),
        },
        this.abort.signal,
      );
      this.show(report(memory), false);
      this.listeners.onWritten(memory, pages, text);
    } catch (error) {
      this.listeners.onFailure();
      this.show(this.abort.signal.aborted ? "Stopped; nothing was written." : "", false);
      if (!this.abort.signal.aborted) showProblem(find("write-problem"), error);
    } finally {
      clearTimeout(slow);
      this.abort = null;
    }
  }

  /** @param {string} text @param {string} steps */
  body(text, steps) {
    const name = find("write-name").value.trim();
    const ttl = find("write-ttl").value;
    return {
      document: text,
      model: chosenModel().name,
      recall: true,
      verify: find("write-verify").checked,
      ...(name && { name }),
      ...(ttl && { ttl_seconds: Number(ttl) }),
      ...(steps && { steps: steps === "auto" ? steps : Number(steps) }),
    };
  }

  /** @param {string} status @param {boolean} busy */
  show(status, busy) {
    if (find("write-status").textContent !== status) find("write-status").textContent = status;
    find("write").disabled = busy;
    find("document").readOnly = busy;
    find("stop").hidden = !busy;
    if (busy) clearProblem(find("write-problem"));
  }
}

/** @param {any} memory */
function report(memory) {
  const weak = memory.pages.flatMap((/** @type {any} */ page) => page.read_back?.weak_lines ?? []);
  return [
    `Written: ${plural(memory.tokens, "token")} on ${plural(memory.pages.length, "page")}.`,
    weak.length ? `Little came back of ${list("line", weak)}.` : "",
    memory.skipped_lines.length
      ? `No records, and skipped: ${list("line", memory.skipped_lines)}.`
      : "",
    memory.duplicate_keys.length
      ? `Only the last value was kept of ${list("key", memory.duplicate_keys)}.`
      : "",
  ].join(" ");
}

/** @param {string} noun @param {(string | number)[]} items */
function list(noun, items) {
  const different = [...new Set(items)];
  return `${noun}${different.length > 1 ? "s" : ""} ${different.join(", ")}`;
}
