/** Requests to the service, and its problems as errors. */

import { readEvents } from "./events.js";

/**
 * A problem of RFC 9457.
 * @typedef {{title: string, status: number, detail: string, request_id?: string}} Problem
 */

const KEY = "gradmem.key";
const JSON_TYPE = "application/json";
const FILE_TYPE = "application/octet-stream";

/** A request that failed, in the words of its problem. */
export class ProblemError extends Error {
  /**
   * @param {Problem} problem
   * @param {number | null} retryAfter Seconds after which the same request may be sent again.
   */
  constructor(problem, retryAfter = null) {
    super(problem.detail);
    this.problem = problem;
    this.retryAfter = retryAfter;
  }

  /** True where the service wants a key, or another one. */
  get needsKey() {
    return this.problem.status === 401;
  }
}

/** The key of the service, which this tab keeps until it is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  /** @param {string} value Empty to forget it. */
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/**
 * Send a request.
 * @param {string} path Relative to the page, so that it works behind a prefix too.
 * @param {{method?: string, body?: object | File, accept?: string, signal?: AbortSignal}} [options]
 *   A file is sent as it is, another body as JSON.
 * @returns {Promise<Response>} A successful response.
 * @throws {ProblemError} The service refused it, or cannot be reached.
 */
export async function send(path, { method = "GET", body, accept = JSON_TYPE, signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = { Accept: accept };
  if (body) headers["Content-Type"] = body instanceof File ? FILE_TYPE : JSON_TYPE;
  if (key.get()) headers["Authorization"] = `Bearer ${key.get()}`;
  const response = await fetch(path, {
    method,
    headers,
    signal,
    body: body instanceof File ? body : body && JSON.stringify(body),
    credentials: "omit",
    cache: "no-store",
  }).catch((error) => {
    throw signal?.aborted ? error : unreachable();
  });
  if (!response.ok) throw await readProblem(response);
  return response;
}

/**
 * Return the JSON of a response; see `send`.
 * @param {string} path
 * @param {Parameters<typeof send>[1]} [options]
 * @returns {Promise<any>}
 */
export async function sendJson(path, options) {
  return (await send(path, options)).json();
}

/**
 * Send a request that is answered by events; return its result.
 * @param {string} path
 * @param {object} body
 * @param {Record<string, (data: any) => void>} listeners Called with the data of events, by name.
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 * @throws {ProblemError} The service refused or failed, or the connection broke.
 */
export async function stream(path, body, listeners, signal) {
  const accept = "text/event-stream";
  const response = await send(path, { method: "POST", body, accept, signal });
  let result = null;
  try {
    for await (const { name, data } of readEvents(response)) {
      if (name === "result") result = data;
      else if (name === "error") throw new ProblemError(data);
      else listeners[name]?.(data);
    }
  } catch (error) {
    throw error instanceof ProblemError || signal?.aborted ? error : unreachable();
  }
  if (!result) throw unreachable();
  return result;
}

/** @param {Response} response */
async function readProblem(response) {
  const wait = Number(response.headers.get("retry-after")) || null;
  const plain = {
    title: response.statusText || "No answer",
    status: response.status,
    detail: `the response had the status ${response.status} and no problem in it`,
  };
  return new ProblemError(await response.json().catch(() => plain), wait);
}

function unreachable() {
  return new ProblemError({
    title: "No connection",
    status: 0,
    detail: "the service did not answer, or the connection broke; is it still running?",
  });
}
