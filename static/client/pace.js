// @ts-check
/**
 * Sends messages in order, no faster than the server's rate limit, because the server closes connections that exceed
 * it.
 */

export class Pace {
  /** @type {Record<string, unknown>[]} */
  #waiting = [];
  #rate = 10;
  #allowance = 0;
  #at = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {(message: Record<string, unknown>) => void} send */
  constructor(send) {
    this.send = send;
  }

  /**
   * Starts with a new connection and forgets waiting messages of the old one.
   * @param {number} rate Messages a second.
   */
  begin(rate) {
    this.#waiting = [];
    // A little below the limit, because clocks differ and other messages of this page count too.
    this.#rate = this.#allowance = Math.max(1, rate * 0.8);
    this.#at = performance.now();
  }

  /** @param {Record<string, unknown>} message */
  push(message) {
    this.#waiting.push(message);
    this.#run();
  }

  #run() {
    clearTimeout(this.#timer);
    const now = performance.now();
    this.#allowance = Math.min(this.#allowance + ((now - this.#at) / 1000) * this.#rate, this.#rate);
    this.#at = now;
    while (this.#waiting.length && this.#allowance >= 1) {
      this.#allowance -= 1;
      this.send(/** @type {Record<string, unknown>} */ (this.#waiting.shift()));
    }
    if (this.#waiting.length) this.#timer = setTimeout(() => this.#run(), (1 - this.#allowance) * (1000 / this.#rate) + 1);
  }
}
