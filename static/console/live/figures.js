// @ts-check
/** Figures of a source: frames a second and delay over the last two seconds, and the size of its frames. */

/** In milliseconds. After a pause, the first frames are counted over a shorter time. */
const SPAN = 2000;
const LEAST_SPAN = 500;

export class Figures {
  /** When the last frame was drawn, in milliseconds since 1970. 0: none yet. */
  at = 0;
  width = 0;
  height = 0;
  /** @type {{at: number, delay: number}[]} */
  #frames = [];
  #begun = 0;

  /**
   * Counts a frame that is drawn now.
   * @param {{captured_at: number, width: number, height: number}} frame
   * @param {number} ahead Milliseconds by which the clock of `captured_at` is ahead of this one.
   */
  count({ captured_at, width, height }, ahead) {
    [this.at, this.width, this.height] = [Date.now(), width, height];
    this.#forget();
    if (!this.#frames.length) this.#begun = this.at;
    this.#frames.push({ at: this.at, delay: this.at + ahead - captured_at });
  }

  get fps() {
    this.#forget();
    const span = Math.max(LEAST_SPAN, Math.min(SPAN, Date.now() - this.#begun));
    return this.#frames.length / (span / 1000);
  }

  /** Median of the milliseconds from capture to drawing, or null without frames. */
  get delay() {
    this.#forget();
    if (!this.#frames.length) return null;
    const delays = this.#frames.map(({ delay }) => delay).sort((one, other) => one - other);
    return Math.max(0, Math.round(delays[delays.length >> 1]));
  }

  /** `delay` as text. */
  get delayed() {
    const { delay } = this;
    if (delay === null) return "–";
    return delay < 1000 ? `${delay} ms` : `${(delay / 1000).toFixed(1)} s`;
  }

  #forget() {
    while (this.#frames.length && this.#frames[0].at < Date.now() - SPAN) this.#frames.shift();
  }
}
