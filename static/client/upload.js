// @ts-check
/** Sends a file to a server that speaks one of our sockets, to refer to it there by its id. */

/**
 * What an upload is known by from then on.
 * @typedef {{id: string, url: string, type: string, kind: "image" | "audio" | "video" | "archive", size: number,
 *   width?: number, height?: number, thumbnail?: string}} Upload
 */

/** One that was refused: an error's code, and for how long (milliseconds) a server that is busy wants to be left alone. */
export class UploadError extends Error {
  /** @param {string} message @param {string} code @param {number | null} retryAfter */
  constructor(message, code, retryAfter) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/**
 * Raises UploadError, or what `fetch` does for a server that cannot be reached.
 * @param {import("./socket.js").Connection} connection Whose server and token are used. @param {Blob} file @param {AbortSignal} [signal]
 * @param {string} [name] What jobs call it.
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
