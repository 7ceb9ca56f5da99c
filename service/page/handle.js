/** The handle of a memory, with lines that use it elsewhere. */

import { key } from "./api.js";
import { copyable } from "./copying.js";
import { create, find } from "./dom.js";
import { clock, fromNow, plural } from "./format.js";

/**
 * Show a memory's handle.
 * @param {any} memory
 * @param {string} question A question to ask it.
 */
export function showHandle(memory, question) {
  const { memory_id: id, pages, expires_at: expires } = memory;
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  find("handle-body").replaceChildren(
    create(
      "p",
      { class: "facts" },
      `${memory.name ?? "No name"} · ${memory.model} · ${plural(pages.length, "page")} · `,
      expires
        ? create("time", { datetime: expires, title: clock(expires) }, `expires ${fromNow(expires)}`)
        : "kept until deleted",
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
