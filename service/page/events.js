/** Server-sent events, read from a response: EventSource cannot send a body. */

/**
 * Yield the events of a response as they come.
 * @param {Response} response
 * @returns {AsyncGenerator<{name: string, data: any}>}
 */
export async function* readEvents(response) {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop() ?? "";
    for (const block of blocks) yield parseEvent(block);
  }
}

/** @param {string} block The lines of an event. */
function parseEvent(block) {
  const fields = block.split("\n").map((line) => /^(\w+): ?(.*)$/.exec(line) ?? []);
  const value = (/** @type {string} */ wanted) =>
    fields.filter(([, name]) => name === wanted).map(([, , text]) => text).join("\n");
  return { name: value("event"), data: JSON.parse(value("data")) };
}
