/** Bytes of text, memory and KV cache, side by side. */

import { create, find } from "./dom.js";
import { bytes, number } from "./format.js";

const HALF = 2; // bytes of a number in 16 bits, where the model's figure is of 32

/**
 * Show the sizes of a memory and of what it stands for.
 * @param {{bytes: number, dtype: string, tokens: number}} memory
 * @param {{cache_bytes_per_token: number} | undefined} model The model that wrote it, if it is served.
 * @param {string | null} text The document; null where it is gone.
 */
export function showSizes(memory, model, text) {
  const cache = model && (memory.tokens * model.cache_bytes_per_token) / HALF;
  const sizes = /** @type {[string, string, number][]} */ (
    [
      ["Text", "UTF-8", text === null ? null : new TextEncoder().encode(text).length],
      ["Memory", `as stored, ${memory.dtype}`, memory.bytes],
      ["KV cache", "of the text, 16 bits", cache],
    ].filter(([, , size]) => size)
  );
  const most = Math.max(...sizes.map(([, , size]) => size));
  find("sizes").replaceChildren(
    create(
      "table",
      { class: "sizes" },
      create(
        "tbody",
        {},
        ...sizes.map(([name, form, size]) =>
          create(
            "tr",
            { class: name === "Memory" ? "own" : null },
            create("th", { scope: "row" }, name, create("span", {}, form)),
            create("td", { class: "bar" }, create("i", { "--share": size / most })),
            create("td", { class: "size", title: `${number(size)} bytes` }, bytes(size)),
          ),
        ),
      ),
    ),
    create(
      "p",
      { class: "caption" },
      "A memory saves the prefill and the cache. It does not save space on disk: the text is smaller.",
    ),
  );
}
