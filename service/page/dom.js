/** Find and build elements. */

/**
 * Return the element of an id.
 * @param {string} id
 * @returns {any} The element; its kind is known where it is used.
 */
export function find(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element #${id}`);
  return element;
}

/**
 * Build an element. Text is never read as HTML.
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] Attributes; `on…` are listeners, `--…` CSS
 *   properties, and false or null leaves an attribute out.
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function create(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * Build an element of SVG; see `create`.
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes]
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function createSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/**
 * @param {HTMLElement | SVGElement} element
 * @param {Record<string, unknown>} attributes
 * @param {(Node | string | null)[]} children
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), /** @type {any} */ (value));
    else if (name.startsWith("--")) element.style.setProperty(name, String(value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
