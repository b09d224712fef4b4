// @ts-check
/**
 * Requests and their answers. An answer of the server names the subject of its request, not the request itself: so of
 * those with the same subject one is sent at a time, and the others wait. After a lost connection, requests that may be
 * repeated are sent again.
 */

/** @typedef {Record<string, unknown>} Message */
/**
 * `onAnswer` gets the answer at once: the next message may come before the promise is settled.
 * @typedef {{isRepeatable?: boolean, onAnswer?: (answer: any) => void}} Options
 */
/** @typedef {{make: () => Message, options: Options, resolve: (answer: any) => void, reject: (error: Error) => void}} PendingRequest */

/** What the server has refused; `errors` name the fields that are wrong. */
export class Refused extends Error {
  /** @param {Record<string, any>} error */
  constructor({ code, message, temporary, retry_after_ms, errors }) {
    super(message);
    this.code = /** @type {string} */ (code);
    this.isTemporary = Boolean(temporary);
    /** Milliseconds, of a server that is busy. */
    this.retryAfter = /** @type {number | undefined} */ (retry_after_ms);
    this.errors = /** @type {{field: string, message: string}[]} */ (errors ?? []);
  }
}

export class Requests {
  /** @type {Map<string, PendingRequest[]>} By subject; the first of each is sent, the others wait. */
  #queues = new Map();
  #isOpen = false;
  #why = "";

  /** @param {(message: Message) => void} send */
  constructor(send) {
    this.send = send;
  }

  /**
   * @param {string} subject @param {() => Message} make Called when it is sent, and again when it is sent again.
   * @param {Options} [options] @returns {Promise<any>} The answer. Rejects with Refused.
   */
  request(subject, make, options = {}) {
    if (this.#why) return Promise.reject(closed(this.#why));
    return new Promise((resolve, reject) => {
      const queue = this.#queues.get(subject) ?? [];
      this.#queues.set(subject, queue);
      queue.push({ make, options, resolve, reject });
      if (this.#isOpen && queue.length === 1) this.send(make());
    });
  }

  /** @param {string} subject @param {unknown} answer */
  answered(subject, answer) {
    const request = this.#next(subject);
    request?.options.onAnswer?.(answer);
    request?.resolve(answer);
  }

  /** @param {string} subject @param {Record<string, any>} error */
  refused(subject, error) {
    this.#next(subject)?.reject(new Refused(error));
  }

  /** The connection stands: what waits is sent. */
  opened() {
    this.#isOpen = true;
    for (const [first] of this.#queues.values()) this.send(first.make());
  }

  /** The connection was lost: the outcome of requests that must not be repeated is unknown, and they are rejected. */
  lost() {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    for (const [subject, [first]] of [...this.#queues]) {
      if (first.options.isRepeatable === false) this.refused(subject, { code: "lost", message: "the connection was lost", temporary: true });
    }
  }

  /** Nothing more will be answered. @param {string} why */
  end(why) {
    this.#isOpen = false;
    this.#why = why;
    const queues = [...this.#queues.values()];
    this.#queues.clear();
    for (const { reject } of queues.flat()) reject(closed(why));
  }

  /** @param {string} subject */
  #next(subject) {
    const queue = this.#queues.get(subject);
    const first = queue?.shift();
    if (!queue?.length) this.#queues.delete(subject);
    else if (this.#isOpen) this.send(queue[0].make());
    return first;
  }
}

/** @param {string} why */
const closed = (why) => new Refused({ code: "closed", message: `the connection was closed: ${why}` });
