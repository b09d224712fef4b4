// @ts-check
/**
 * Seeks one at a time: the next one is sent when the first frame of the last one was shown. So dragging a slider shows
 * frames.
 */

/** Milliseconds to wait for the first frame after a seek. */
const PATIENCE = 10_000;

export class Seek {
  /** @type {{position: number, isAnswered: boolean} | null} */
  #under = null;
  /** @type {number | null} */
  #next = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {(position: number) => void} send */
  constructor(send) {
    this.send = send;
  }

  /** Target position in seconds until it is reached, otherwise null. @returns {number | null} */
  get position() {
    return this.#next ?? this.#under?.position ?? null;
  }

  /** Whether frames that arrive now are from before the seek. */
  get isUnanswered() {
    return this.#under?.isAnswered === false;
  }

  /**
   * @param {number} position In seconds.
   * @param {boolean} isOpen Whether it can be sent now. Otherwise `go` sends it.
   */
  to(position, isOpen) {
    this.#next = position;
    if (isOpen) this.go();
  }

  go() {
    if (this.#under || this.#next === null) return;
    this.#under = { position: this.#next, isAnswered: false };
    this.#next = null;
    this.#timer = setTimeout(() => this.done(), PATIENCE);
    this.send(this.#under.position);
  }

  /** Handles the server's position. Returns whether it answers this seek. @param {number | undefined} position */
  answer(position) {
    if (!this.#under || this.#under.isAnswered || position === undefined) return false;
    return (this.#under.isAnswered = Math.abs(position - this.#under.position) < 0.01);
  }

  /** Ends the seek: its first frame was shown, there is no frame, or it was refused. */
  done() {
    clearTimeout(this.#timer);
    this.#under = null;
    this.go();
  }

  /** Called when a frame was shown. */
  shown() {
    if (this.#under?.isAnswered) this.done();
  }

  forget() {
    clearTimeout(this.#timer);
    this.#under = this.#next = null;
  }
}
