// @ts-check
/**
 * Matches answers with requests. An answer of the server names the subject of its request, but not the request. So only
 * one request per subject is sent at a time, and the others wait. After a reconnect, requests that may be repeated are
 * sent again.
 */

/** @typedef {Record<string, unknown>} Message */
/**
 * `onAnswer` gets the answer immediately, because the next message may arrive before the promise is settled.
 * @typedef {{isRepeatable?: boolean, onAnswer?: (answer: any) => void}} Options
 */
/** @typedef {{make: () => Message, options: Options, resolve: (answer: any) => void, reject: (error: Error) => void}} PendingRequest */

/** The server has refused a request. `errors` name the wrong fields. */
export class Refused extends Error {
  /** @param {Record<string, any>} error */
  constructor({ code, message, temporary, retry_after_ms, errors }) {
    super(message);
    this.code = /** @type {string} */ (code);
    this.isTemporary = Boolean(temporary);
    /** Milliseconds after which a busy server may be asked again. */
    this.retryAfter = /** @type {number | undefined} */ (retry_after_ms);
    this.errors = /** @type {{field: string, message: string}[]} */ (errors ?? []);
  }
}

export class Requests {
  /** @type {Map<string, PendingRequest[]>} Subject -> its requests. The first one is sent, the others wait. */
  #queues = new Map();
  #isOpen = false;
  #why = "";

  /** @param {(message: Message) => void} send */
  constructor(send) {
    this.send = send;
  }

  /**
   * Queues a request.
   * @param {string} subject @param {() => Message} make Creates the message, again for each time that it is sent.
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

  /** Sends waiting requests on a new connection. */
  opened() {
    this.#isOpen = true;
    for (const [first] of this.#queues.values()) this.send(first.make());
  }

  /** Rejects requests that must not be repeated, because their outcome is unknown after a lost connection. */
  lost() {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    for (const [subject, [first]] of [...this.#queues]) {
      if (first.options.isRepeatable === false) this.refused(subject, { code: "lost", message: "connection lost", temporary: true });
    }
  }

  /** Rejects all requests, because no more answers will arrive. @param {string} why */
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
const closed = (why) => new Refused({ code: "closed", message: `connection closed: ${why}` });
