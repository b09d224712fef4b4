// @ts-check
/**
 * Requests and their answers. The server names in its answer what a request was about, not which request: so of those
 * about the same thing one is under way at a time, the others wait their turn. A lost connection loses none that may be
 * asked again.
 */

/** @typedef {Record<string, unknown>} Message */
/**
 * `heed` is given the answer at once: what the server says next may be there before a promise has told of it.
 * @typedef {{isRepeatable?: boolean, heed?: (answer: any) => void}} Options
 */
/** @typedef {{make: () => Message, options: Options, resolve: (answer: any) => void, reject: (error: Error) => void}} Ask */

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

export class Asks {
  /** @type {Map<string, Ask[]>} What is asked about each thing; the first is under way. */
  #lines = new Map();
  #isOpen = false;
  #why = "";

  /** @param {(message: Message) => void} send */
  constructor(send) {
    this.send = send;
  }

  /**
   * @param {string} about @param {() => Message} make Called when it is sent, and again when it is sent again.
   * @param {Options} [options] @returns {Promise<any>} The answer. Rejects with Refused.
   */
  ask(about, make, options = {}) {
    if (this.#why) return Promise.reject(closed(this.#why));
    return new Promise((resolve, reject) => {
      const line = this.#lines.get(about) ?? [];
      this.#lines.set(about, line);
      line.push({ make, options, resolve, reject });
      if (this.#isOpen && line.length === 1) this.send(make());
    });
  }

  /** @param {string} about @param {unknown} answer */
  answered(about, answer) {
    const ask = this.#next(about);
    ask?.options.heed?.(answer);
    ask?.resolve(answer);
  }

  /** @param {string} about @param {Record<string, any>} error */
  refused(about, error) {
    this.#next(about)?.reject(new Refused(error));
  }

  /** The connection stands: what waits is sent. */
  opened() {
    this.#isOpen = true;
    for (const [first] of this.#lines.values()) this.send(first.make());
  }

  /** The connection was lost. Of what cannot be asked twice it is not known what came of it. */
  lost() {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    for (const [about, [first]] of [...this.#lines]) {
      if (first.options.isRepeatable === false) this.refused(about, { code: "lost", message: "the connection was lost", temporary: true });
    }
  }

  /** Nothing more will be answered. @param {string} why */
  end(why) {
    this.#isOpen = false;
    this.#why = why;
    const lines = [...this.#lines.values()];
    this.#lines.clear();
    for (const { reject } of lines.flat()) reject(closed(why));
  }

  /** @param {string} about */
  #next(about) {
    const line = this.#lines.get(about);
    const first = line?.shift();
    if (!line?.length) this.#lines.delete(about);
    else if (this.#isOpen) this.send(line[0].make());
    return first;
  }
}

/** @param {string} why */
const closed = (why) => new Refused({ code: "closed", message: `the connection was closed: ${why}` });
