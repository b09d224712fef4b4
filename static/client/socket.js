// @ts-check
/** The reconnecting connection to one of the server's sockets, which sluice.js, chat.js, live.js and jobs.js share. */

/** @typedef {"connecting" | "open" | "waiting" | "closed"} State */
/**
 * `token`: a JWT, or a function that fetches one (called again before it expires). Without a token, the page's cookie
 * is used. `attempts`: how many connections in a row may fail before the first success.
 * @typedef {{token?: string | (() => string | Promise<string>), attempts?: number}} ConnectionOptions
 */

const RESTARTING = 1012;
const NO_CLOSE_FRAME = 1006;
const SILENT = 4408;
/** Milliseconds before the first attempt to reconnect, and the longest pause between two attempts. */
const PAUSE = [250, 15000];
const MOST_FAILURES = 10;

/**
 * A subclass defines `greet`, `receive` and `ended`, and calls `become("open")` when it can be used. Event: "state"
 * (detail: {state, code?, reason?}).
 */
export class Connection extends EventTarget {
  /** @type {State} */
  state = "connecting";
  /** @type {Record<string, any> | null} The server's message `hello`. */
  hello = null;
  /** Why the connection was lost or closed, in the server's words. */
  reason = "";
  /** @type {WebSocket | null} */
  #socket = null;
  #failures = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {string | URL} url @param {ConnectionOptions} [options] */
  constructor(url, options = {}) {
    super();
    this.url = new URL(url, globalThis.location?.href);
    this.url.protocol = this.url.protocol.replace("http", "ws");
    this.token = options.token;
    this.attempts = options.attempts ?? MOST_FAILURES;
    // Later, because the fields of the subclass are set after this constructor has returned.
    queueMicrotask(() => this.#connect());
  }

  /** Closes the connection for good. */
  close() {
    clearTimeout(this.#timer);
    this.become("closed", { code: 1000, reason: "closed by this page" });
    this.#socket?.close(1000);
  }

  /** Sends a message now, or drops it while the connection is down. @param {Record<string, unknown>} message */
  tell(message) {
    if (this.state === "open") this.transmit(JSON.stringify(message));
  }

  // The rest is for subclasses.

  /** Called with the server's greeting on a new connection. @param {Record<string, any>} hello */
  greet(hello) {}

  /**
   * Called with every other message.
   * @param {Record<string, any>} message
   * @param {Uint8Array<ArrayBuffer>} [payload] Of a binary message.
   */
  receive(message, payload) {}

  /** Called when no more messages will arrive. @param {number} code @param {string} reason */
  ended(code, reason) {}

  /** @param {string | Uint8Array<ArrayBuffer>} data */
  transmit(data) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(data);
  }

  /** @param {State} state @param {{code?: number, reason?: string}} [detail] */
  become(state, detail = {}) {
    this.state = state;
    this.reason = detail.reason ?? "";
    this.fire("state", { state, ...detail });
  }

  /** @param {string} type @param {unknown} detail */
  fire(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** Drops a connection that seems dead. The browser would notice only after minutes. @param {string} reason */
  reconnect(reason) {
    const socket = this.#socket;
    if (this.state !== "open" || !socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
    this.#lost(NO_CLOSE_FRAME, reason);
  }

  async #connect() {
    try {
      const token = typeof this.token === "function" ? await this.token() : this.token;
      if (this.state === "closed") return;
      this.#socket = new WebSocket(this.url, token ? ["sluice.v2", `bearer.${token}`] : ["sluice.v2"]);
    } catch (error) {
      return this.#lost(NO_CLOSE_FRAME, String(error));
    }
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = ({ data }) =>
      typeof data === "string" ? this.#receive(JSON.parse(data)) : this.#receive(...unpack(data));
    this.#socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    if (this.state === "closed") return;
    this.#failures += 1;
    // A laptop that was asleep is closed with 4408 (no pong), but its reader has not left.
    const final = code < 4500 && ![RESTARTING, NO_CLOSE_FRAME, SILENT].includes(code);
    if (final || (!this.hello && this.#failures > this.attempts)) {
      this.become("closed", { code, reason });
      return this.ended(code, reason);
    }
    this.become("waiting", { code, reason });
    const pause = Math.min(PAUSE[0] * 2 ** (this.#failures - 1), PAUSE[1]);
    // Random, so that the clients of a restarted server do not all return at the same moment.
    this.#timer = setTimeout(() => {
      this.become("connecting");
      this.#connect();
    }, pause * (0.5 + Math.random()));
  }

  /** @param {Record<string, any>} message @param {Uint8Array<ArrayBuffer>} [payload] */
  #receive(message, payload) {
    if (message.type === "expiring") return this.#renew();
    if (message.type !== "hello") return this.receive(message, payload);
    this.hello = message;
    this.#failures = 0;
    this.greet(message);
  }

  async #renew() {
    if (typeof this.token === "function") this.tell({ type: "token", token: await this.token() });
  }
}

/**
 * Unpacks a binary message: length of the header, header, payload.
 * @param {ArrayBuffer} data
 * @returns {[Record<string, any>, Uint8Array<ArrayBuffer>]}
 */
function unpack(data) {
  const end = 4 + new DataView(data).getUint32(0);
  return [JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, end - 4))), new Uint8Array(data, end)];
}
