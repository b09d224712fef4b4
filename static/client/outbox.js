// @ts-check
/**
 * Messages that are not stored yet. Every message keeps its id, so the server stores it once, however often it is sent.
 */

/** @typedef {import("./place.js").Attachment} Attachment */
/** @typedef {import("./place.js").Outgoing} Outgoing */
/** @typedef {import("./place.js").Place} Place */

const MOST_ATTEMPTS = 5;
/** Milliseconds without an acknowledgement after which the connection counts as dead. */
const DEAF = 20000;

/**
 * `isReady`: whether messages can be sent to the place now. `send`: sends a message. `changed`: called when a message
 * has changed. `deaf`: called when the server does not answer.
 * @typedef {{isReady: (place: Place) => boolean, send: (message: Record<string, unknown>) => void,
 * changed: (place: Place) => void, deaf: () => void}} Callbacks
 */

export class Outbox {
  /** @type {Map<string, Outgoing>} Messages without an acknowledgement, in the order in which they were written. */
  #waiting = new Map();

  /** @param {Callbacks} callbacks */
  constructor(callbacks) {
    this.callbacks = callbacks;
  }

  /** @param {Place} place @param {string} text @param {Attachment[]} attachments */
  add(place, text, attachments) {
    const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
    /** @type {Outgoing} */
    const outgoing = { id, place, at: Date.now(), text, attachments, attempts: 0, state: "sending" };
    place.outgoing.push(outgoing);
    this.send(outgoing);
    return outgoing;
  }

  /** Sends a message now, or later by `resend` when the place is not ready. @param {Outgoing} outgoing */
  send(outgoing) {
    const { id, place, text, attachments } = outgoing;
    this.#waiting.set(id, outgoing);
    this.callbacks.changed(place);
    if (!this.callbacks.isReady(place)) return;
    const attempt = ++outgoing.attempts;
    this.callbacks.send({ type: "send", ...place.address, client_id: id, text, attachments: attachments.map((each) => each.id) });
    setTimeout(() => this.#isSending(outgoing) && outgoing.attempts === attempt && this.callbacks.deaf(), DEAF);
  }

  /** Sends all messages of this place again that have no acknowledgement. @param {Place} place */
  resend(place) {
    for (const outgoing of [...this.#waiting.values()]) if (outgoing.place === place) this.send(outgoing);
  }

  /** Sends a failed message again. @param {Outgoing} outgoing */
  retry(outgoing) {
    Object.assign(outgoing, { state: "sending", attempts: 0, error: undefined });
    this.send(outgoing);
  }

  /** Discards a message. @param {Outgoing} outgoing */
  discard({ id, place }) {
    this.#waiting.delete(id);
    place.outgoing = place.outgoing.filter((each) => each.id !== id);
    this.callbacks.changed(place);
  }

  /** @param {Record<string, any>} ack */
  acknowledged({ client_id, offset }) {
    const outgoing = this.#waiting.get(client_id);
    if (!outgoing) return;
    this.#waiting.delete(client_id);
    outgoing.place.acknowledge(outgoing, offset);
    this.callbacks.changed(outgoing.place);
  }

  /** @param {Record<string, any>} error */
  refused({ client_id, code, message, temporary, retry_after_ms }) {
    const outgoing = this.#waiting.get(client_id);
    if (!outgoing) return;
    if (temporary && outgoing.attempts < MOST_ATTEMPTS) {
      const pause = (retry_after_ms ?? 1000) * (1 + Math.random() / 2);
      return void setTimeout(() => this.#isSending(outgoing) && this.send(outgoing), pause);
    }
    this.#waiting.delete(client_id);
    Object.assign(outgoing, { state: "failed", error: { code, message }, echo: undefined });
    this.callbacks.changed(outgoing.place);
  }

  /** Marks all messages as failed, because nothing can be sent any more. @param {string} message */
  end(message) {
    for (const client_id of [...this.#waiting.keys()]) this.refused({ client_id, code: "closed", message });
  }

  /** @param {Outgoing} outgoing */
  #isSending(outgoing) {
    return this.#waiting.get(outgoing.id) === outgoing;
  }
}
