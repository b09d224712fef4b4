// @ts-check
/** Seeks, one after the other: the next goes out when the first frame of the last was shown. So a bar that is dragged shows where it is. */

/** Milliseconds that the first frame after a seek is waited for. */
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

  /** Where it goes, in seconds, until it is there. @returns {number | null} */
  get position() {
    return this.#next ?? this.#under?.position ?? null;
  }

  /** Whether frames that come now are from before it. */
  get isUnanswered() {
    return this.#under?.isAnswered === false;
  }

  /** @param {number} position @param {boolean} isOpen Whether it can be sent now; else by `go`. */
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

  /** The server is there: whether this is the answer. @param {number | undefined} position */
  answer(position) {
    if (!this.#under || this.#under.isAnswered || position === undefined) return false;
    return (this.#under.isAnswered = Math.abs(position - this.#under.position) < 0.01);
  }

  /** Its first frame was shown, or there is none, or it was refused. */
  done() {
    clearTimeout(this.#timer);
    this.#under = null;
    this.go();
  }

  /** A frame was shown. */
  shown() {
    if (this.#under?.isAnswered) this.done();
  }

  forget() {
    clearTimeout(this.#timer);
    this.#under = this.#next = null;
  }
}
