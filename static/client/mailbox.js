// @ts-check
/** Room for one frame, which the newest takes: shown one at a time, so that who shows them slowly has fewer of them, never older ones. */

/**
 * A frame: what the server says of it, its JPEG, and `isWanted`: whether it may still be painted. It may not once the
 * viewer has gone elsewhere in a recording while it was decoded.
 * @typedef {{watch: string, jpeg: Blob, seq: number, pts: number | null, captured_at: number, width: number, height: number,
 *   dropped: number, placeholder?: boolean, data?: Record<string, any>, readonly isWanted: boolean}} Frame
 */
/** @typedef {(frame: Frame) => void | Promise<void>} Show */
/**
 * `show` shows a frame; `shown` is then called for one that was wanted to the end; `seen` for each, and so for all before it.
 * @typedef {{show: Show, shown: (frame: Frame) => void, seen: (frame: {watch: string, seq: number}) => void}} Callbacks
 */

export class Mailbox {
  /** Frames that the server has left out, and those that came and were not shown since newer ones were there. */
  dropped = 0;
  #reported = 0;
  #seq = 0;
  /** Counts emptyings: what came before the last of them is not wanted. */
  #turn = 0;
  /** @type {Frame | null} */
  #next = null;
  #isShowing = false;

  /** @param {Callbacks} callbacks */
  constructor(callbacks) {
    this.callbacks = callbacks;
  }

  /** Frames are counted from the beginning. */
  begin() {
    this.#seq = this.#reported = 0;
    this.empty();
  }

  /** What has come is not wanted any more, even if it is being decoded. */
  empty() {
    this.#turn += 1;
    if (this.#next) this.callbacks.seen(this.#next);
    this.#next = null;
  }

  /** @param {Record<string, any>} message @param {Uint8Array<ArrayBuffer>} payload */
  put(message, payload) {
    if (message.seq <= this.#seq) return this.callbacks.seen(/** @type {Frame} */ (message));
    this.#seq = message.seq;
    this.dropped += message.dropped - this.#reported + (this.#next ? 1 : 0);
    this.#reported = message.dropped;
    const turn = this.#turn;
    const frame = { ...message, jpeg: new Blob([payload], { type: "image/jpeg" }) };
    this.#next = Object.defineProperty(/** @type {any} */ (frame), "isWanted", { get: () => this.#turn === turn });
    this.#pump();
  }

  async #pump() {
    if (this.#isShowing) return;
    this.#isShowing = true;
    for (let frame; (frame = this.#next); ) {
      this.#next = null;
      try {
        await this.callbacks.show(frame);
        if (frame.isWanted) this.callbacks.shown(frame);
      } catch {
        this.dropped += 1; // a JPEG that the browser cannot read
      }
      this.callbacks.seen(frame);
    }
    this.#isShowing = false;
  }
}
