// @ts-check
/**
 * A slot for one frame, which a newer frame replaces. Frames are shown one at a time. So slow drawing skips frames and
 * never shows old ones.
 */

/**
 * A frame: the members of the server's message, its JPEG, and `isWanted`: whether it may still be drawn. It may not
 * when the viewer has sought to another position while it was being decoded.
 * @typedef {{watch: string, jpeg: Blob, seq: number, pts: number | null, captured_at: number, width: number, height: number,
 * dropped: number, placeholder?: boolean, data?: Record<string, any>, readonly isWanted: boolean}} Frame
 */
/** @typedef {(frame: Frame) => void | Promise<void>} Show */
/**
 * `show` draws a frame. Then `shown` is called if the frame was wanted until the end, and `seen` for every frame. It
 * acknowledges all earlier frames too.
 * @typedef {{show: Show, shown: (frame: Frame) => void, seen: (frame: {watch: string, seq: number}) => void}} Callbacks
 */

export class Mailbox {
  /** Number of frames that the server has dropped, plus those that were replaced here by newer ones. */
  dropped = 0;
  #reported = 0;
  #seq = 0;
  /** Incremented by `empty`. Frames from before are no longer wanted. */
  #turn = 0;
  /** @type {Frame | null} */
  #next = null;
  #isShowing = false;

  /** @param {Callbacks} callbacks */
  constructor(callbacks) {
    this.callbacks = callbacks;
  }

  /** Starts to count frames from the beginning. */
  begin() {
    this.#seq = this.#reported = 0;
    this.empty();
  }

  /** Discards received frames, even one that is being decoded. */
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
        this.dropped += 1; // the browser cannot decode this JPEG
      }
      this.callbacks.seen(frame);
    }
    this.#isShowing = false;
  }
}
