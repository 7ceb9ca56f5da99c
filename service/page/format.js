/** Numbers, sizes and times as people read them. */

const NUMBERS = new Intl.NumberFormat("en");
const TIMES = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });
const SPANS = new Intl.RelativeTimeFormat("en", { numeric: "always" });
/** @type {[Intl.RelativeTimeFormatUnit, number][]} Units by their seconds, the longest first. */
const UNITS = [
  ["year", 31536000],
  ["month", 2592000],
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];

/** @param {number} value */
export const number = (value) => NUMBERS.format(value);

/** @param {number} share From 0 to 1. */
export function percent(share) {
  const percents = 100 * share;
  const nearEnd = Math.min(percents, 100 - percents);
  return `${percents.toFixed(nearEnd > 0.05 && nearEnd < 0.95 ? 1 : 0)}\u00a0%`;
}

/** @param {number} count @param {string} noun */
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** @param {number} count Bytes. */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const [value, unit] = count < 1e6 ? [count / 1e3, "KB"] : [count / 1e6, "MB"];
  return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
}

/** @param {string} time RFC 3339. */
export const clock = (time) => TIMES.format(new Date(time));

/** @param {string} time RFC 3339. @returns {string} Such as "in 3 hours" or "2 days ago". */
export function fromNow(time) {
  const seconds = (Date.parse(time) - Date.now()) / 1000;
  const [unit, length] = UNITS.find(([, each]) => Math.abs(seconds) >= each) ?? ["second", 1];
  return SPANS.format(Math.round(seconds / length), unit);
}

/** @param {{first_line: number | null, last_line: number | null}} page */
export function lines(page) {
  if (page.first_line === null) return "";
  if (page.first_line === page.last_line) return `line ${page.first_line}`;
  return `lines ${page.first_line}–${page.last_line}`;
}
