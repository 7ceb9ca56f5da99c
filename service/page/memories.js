/** The list of memories: search, open, export, import and delete. */

import { send, sendJson } from "./api.js";
import { create, find } from "./dom.js";
import { MEMORY_SUFFIX, watchFiles } from "./files.js";
import { number } from "./format.js";
import { clearProblem, showProblem } from "./problems.js";
import { expiry, moment } from "./times.js";

const PART = 10; // memories fetched at a time

/** The list, the newest memory first. */
export class MemoryList {
  /**
   * @param {(id: string) => void} onOpen Called with the memory that is to be shown.
   * @param {(id: string) => void} onDelete Called with the memory that was deleted.
   */
  constructor(onOpen, onDelete) {
    this.onOpen = onOpen;
    this.onDelete = onDelete;
    /** @type {any[]} */
    this.memories = [];
    /** @type {string | null} */
    this.cursor = null;
    find("filter").addEventListener("input", () => this.draw());
    find("more").addEventListener("click", () => this.fetch());
    find("delete-no").addEventListener("click", () => find("delete-dialog").close());
    watchFiles("import", (file) => this.import(file));
  }

  /** Fetch the list anew. */
  async refresh() {
    this.memories = [];
    this.cursor = null;
    await this.fetch();
  }

  async fetch() {
    const cursor = this.cursor ? `&cursor=${encodeURIComponent(this.cursor)}` : "";
    await this.attempt(async () => {
      const part = await sendJson(`memories?limit=${PART}${cursor}`);
      this.memories = [...(cursor ? this.memories : []), ...part.memories];
      this.cursor = part.next_cursor;
      this.draw();
    });
  }

  draw() {
    const words = find("filter").value.toLowerCase().split(/\s+/);
    const found = this.memories.filter((memory) => {
      const text = [memory.name, memory.memory_id, memory.model, ...entries(memory)].join(" ");
      return words.every((/** @type {string} */ word) => text.toLowerCase().includes(word));
    });
    find("memories").replaceChildren(...found.map((memory) => this.row(memory)));
    find("more").hidden = this.cursor === null;
    find("memories-status").textContent = this.describe(found.length);
  }

  /** @param {number} found Memories that the search leaves. @returns {string} */
  describe(found) {
    const all = this.memories.length;
    const more = this.cursor === null ? "" : " of those fetched so far";
    if (!all) return "No memories yet.";
    return found === all && !more ? "" : `${number(found)} of ${number(all)} memories${more}.`;
  }

  /** @param {any} memory @returns {HTMLElement} */
  row(memory) {
    const id = memory.memory_id;
    const name = memory.name ?? id.slice(0, 8);
    const button = (/** @type {string} */ text, /** @type {() => void} */ act, kind = "") =>
      create(
        "button",
        { type: "button", class: kind, "aria-label": `${text} ${name}`, onclick: act },
        text,
      );
    return create(
      "li",
      {},
      create(
        "div",
        { class: "what" },
        create("strong", { class: memory.name ? "" : "code-name" }, name),
        create(
          "span",
          {},
          `${memory.model} · `,
          moment(memory.created_at),
          " · ",
          expiry(memory.expires_at),
          ...entries(memory).map((entry) => create("em", {}, entry)),
        ),
      ),
      create(
        "div",
        { class: "tools" },
        button("Open", () => this.onOpen(id)),
        button("Export", () => this.export(id, name)),
        button("Delete", () => this.confirm(id, name), "danger"),
      ),
    );
  }

  /** Save the blob of a memory as a file. @param {string} id @param {string} name */
  async export(id, name) {
    await this.attempt(async () => {
      const blob = await (await send(`memories/${id}/blob`, { accept: "*/*" })).blob();
      const url = URL.createObjectURL(blob);
      create("a", { href: url, download: `${name}${MEMORY_SUFFIX}` }).click();
      URL.revokeObjectURL(url);
    });
  }

  /** Store the memory of a file under a new id, and the file's name. @param {File} file */
  async import(file) {
    await this.attempt(async () => {
      const id = newId();
      const name = nameOf(file); // there is none in the file
      await send(`memories/${id}/blob`, { method: "PUT", body: file });
      try {
        await send(`memories/${id}`, { method: "PATCH", body: { name } });
      } catch (error) {
        await send(`memories/${id}`, { method: "DELETE" }); // nobody would know the id
        throw error;
      }
      await this.refresh();
      this.onOpen(id);
    });
  }

  /** Ask before a memory is deleted. @param {string} id @param {string} name */
  confirm(id, name) {
    const dialog = find("delete-dialog");
    find("delete-detail").textContent = `${name} cannot be brought back.`;
    find("delete-yes").onclick = () => {
      dialog.close();
      this.delete(id);
    };
    dialog.showModal();
  }

  /** @param {string} id */
  async delete(id) {
    await this.attempt(async () => {
      await send(`memories/${id}`, { method: "DELETE" });
      this.onDelete(id);
      await this.refresh();
      find("memories-title").focus(); // the button that had the focus is gone
    });
  }

  /** @param {() => Promise<void>} act */
  async attempt(act) {
    const place = find("memories-problem");
    clearProblem(place);
    try {
      await act();
    } catch (error) {
      showProblem(place, error);
    }
  }
}

/** @param {File} file @returns {string | null} The name of its memory; null where none is left. */
const nameOf = ({ name }) =>
  (name.endsWith(MEMORY_SUFFIX) ? name.slice(0, -MEMORY_SUFFIX.length) : name) || null;

/** @returns {string} The id of a new memory; `crypto.randomUUID` needs TLS or this machine. */
const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");

/** @param {{metadata: Record<string, string>}} memory */
const entries = ({ metadata }) => Object.entries(metadata).map(([name, value]) => `${name}: ${value}`);
