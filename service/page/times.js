/** Times as people read them, with the exact one at the pointer. */

import { create } from "./dom.js";
import { clock, fromNow } from "./format.js";

/** @param {string} time RFC 3339. @returns {HTMLElement} */
export const moment = (time, before = "") =>
  create("time", { datetime: time, title: clock(time) }, `${before}${fromNow(time)}`);

/** @param {string | null} time When a memory expires; null for never. @returns {Node | string} */
export const expiry = (time) => (time ? moment(time, "expires ") : "kept until deleted");
