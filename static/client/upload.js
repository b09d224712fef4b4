// @ts-check
/** Uploads a file to the server of a connection, so that messages can refer to it by its id. */

/**
 * An upload as messages refer to it.
 * @typedef {{id: string, url: string, type: string, kind: "image" | "audio" | "video" | "archive", size: number,
 * width?: number, height?: number, thumbnail?: string}} Upload
 */

/**
 * The server has refused an upload. It has the error's code, and the milliseconds after which a busy server may be
 * asked again.
 */
export class UploadError extends Error {
  /** @param {string} message @param {string} code @param {number | null} retryAfter */
  constructor(message, code, retryAfter) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/**
 * Throws UploadError, or the error of `fetch` when the server cannot be reached.
 * @param {import("./socket.js").Connection} connection The connection whose server and token are used. @param {Blob} file @param {AbortSignal} [signal]
 * @param {string} [name] The name of the file for jobs.
 * @returns {Promise<Upload>}
 */
export async function upload({ url, token }, file, signal, name) {
  const address = new URL("/upload", url);
  if (name) address.searchParams.set("name", name);
  address.protocol = address.protocol.replace("ws", "http");
  const given = typeof token === "function" ? await token() : token;
  const headers = given ? { Authorization: `Bearer ${given}` } : undefined;
  const answer = await fetch(address, { method: "POST", body: file, headers, signal });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const after = Number(answer.headers.get("Retry-After")) * 1000;
  const { code = "internal", message = `the server answered ${answer.status}` } = body.error ?? {};
  throw new UploadError(message, code, code === "busy" ? after || 1000 : null);
}
