/** The handle of a memory, with lines that use it elsewhere. */

import { key } from "./api.js";
import { copyable } from "./copying.js";
import { create, find } from "./dom.js";
import { plural } from "./format.js";
import { expiry } from "./times.js";

/**
 * Show a memory's handle.
 * @param {any} memory
 * @param {string} question A question to ask it.
 */
export function showHandle(memory, question) {
  const { memory_id: id, pages } = memory;
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  find("handle-body").replaceChildren(
    create(
      "p",
      { class: "facts" },
      `${memory.name ?? "No name"} · ${memory.model} · ${plural(pages.length, "page")} · `,
      expiry(memory.expires_at),
    ),
    copyable(id, "handle"),
    create(
      "details",
      {},
      create("summary", {}, "Ask it from elsewhere"),
      copyable(curl(base, id, question), "curl command"),
      copyable(python(base, id, question), "Python code"),
    ),
  );
}

/** @param {string} base @param {string} id @param {string} question */
function curl(base, id, question) {
  const header = key.get() ? ' -H "Authorization: Bearer $GRADMEM_KEY"' : "";
  const body = JSON.stringify({ memory_id: id, query: question }).replaceAll("'", "'\\''");
  return `curl -s ${base}/read${header} --json '${body}'`;
}

/** @param {string} base @param {string} id @param {string} question */
function python(base, id, question) {
  return [
    "from service.client import Client",
    "",
    `with Client("${base}") as client:`,
    `    answer = client.memory("${id}").ask(${JSON.stringify(question)})`,
    "print(answer.answer if answer.found else answer.reason, answer.confidence)",
  ].join("\n");
}
