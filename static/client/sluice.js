// @ts-check
/**
 * The client of Sluice. It cuts tall pictures into slices, sends the slices nearest to the viewport first, and reports
 * each result.
 *
 * It reconnects by itself and continues where it was. It has no dependencies.
 *
 *     const sluice = new Sluice("wss://pictures.example/ws/images", { token });
 *     const picture = await sluice.send(file, { action: "sharpen", zoom: 0.5 });
 *     picture.follow(document.querySelector("#page"));
 *     picture.addEventListener("slice", ({ detail }) => show(detail));
 */

import { Picture, isOver } from "./picture.js";
import { Connection } from "./socket.js";

export { Picture };

/** @typedef {import("./picture.js").Slice} Slice */
/** @typedef {import("./picture.js").PictureRequest} PictureRequest */
/** @typedef {Blob | ImageBitmap | HTMLImageElement | HTMLCanvasElement} Source */
/** @typedef {{session: string, epoch: string, after: number}} Position */
/**
 * `inFlight`: most slices that are sent and not answered. More keep the server busy, fewer follow the viewport more
 * closely.
 * @typedef {import("./socket.js").ConnectionOptions & {inFlight?: number}} Options
 */

/** Temporary failures of a slice after which it has failed. */
const MOST_ATTEMPTS = 5;

/** A connection to a server, and its pictures. Event: "state" (detail: {state, code?, reason?}). */
export class Sluice extends Connection {
  /** @type {Set<Picture>} */
  pictures = new Set();
  /** @type {Map<string, Slice>} Slices that were sent and have not ended, by id. */
  #inFlight = new Map();
  #pumping = false;
  /** @type {Position | null} The session, and the last of its events that was received. */
  #position = null;
  /** Events of a resumed session that have not arrived yet. Until then it is unknown which slices were lost. */
  #replaying = 0;
  /** @type {Set<string>} Slices that the resumed session is still processing. */
  #pending = new Set();
  /** When a busy server may be asked again, in milliseconds since 1970. */
  #quietUntil = 0;

  /** @param {string | URL} url @param {Options} [options] */
  constructor(url, options = {}) {
    super(url, options);
    this.most = options.inFlight ?? 16;
  }

  /** Cuts a picture into slices and starts to send them. @param {Source} source @param {PictureRequest} [request] */
  async send(source, request = {}) {
    const type = source instanceof Blob && source.type === "image/jpeg" ? source.type : "image/png";
    const picture = new Picture(this, await createImageBitmap(source), { type, ...request });
    this.pictures.add(picture);
    this.pump();
    return picture;
  }

  /** Cancels the slices of a picture that have not ended. @param {Picture} picture */
  cancel(picture) {
    for (const slice of picture.slices) {
      this.#inFlight.delete(idOf(slice));
      if (!isOver(slice)) picture.settle(slice, "cancelled");
    }
    this.tell({ type: "cancel", image: picture.id });
    this.pump();
  }

  /** Sends the nearest slices of all pictures, one after the other, until `inFlight` are not answered. */
  async pump() {
    if (this.#pumping) return;
    this.#pumping = true;
    while (this.state === "open" && this.#inFlight.size < this.most && Date.now() >= this.#quietUntil) {
      const slice = nearest(this.pictures);
      if (!slice) break;
      const { attempt } = slice;
      await this.#sendSlice(slice).catch((error) => {
        if (slice.attempt !== attempt || isOver(slice)) return;
        slice.error = { code: "bad_image", message: String(error) };
        slice.picture.settle(slice, "failed");
      });
    }
    this.#pumping = false;
  }

  /** @param {Slice} slice */
  async #sendSlice(slice) {
    const { picture, attempt } = slice;
    picture.settle(slice, "sent");
    const payload = await picture.encode(slice);
    if (slice.state !== "sent" || slice.attempt !== attempt) return; // cancelled or tried again in the meantime
    if (this.state !== "open") return picture.settle(slice, "waiting");
    const { action = "resize", options = {}, zoom = 1, format = "auto" } = picture.request;
    const place = { id: idOf(slice), offset_top: slice.top, height: slice.height, image: picture.id };
    this.#inFlight.set(place.id, slice);
    this.transmit(pack({ type: "slice", ...place, action, options, zoom, format }, payload));
  }

  /**
   * Fails all slices that have not ended, because no more results will arrive.
   * @param {number} code
   * @param {string} reason
   */
  ended(code, reason) {
    this.#inFlight.clear();
    for (const { slices } of this.pictures) {
      for (const slice of slices.filter((each) => !isOver(each))) {
        slice.error = { code: "closed", message: `connection closed: ${reason || code}` };
        slice.picture.settle(slice, "failed");
      }
    }
  }

  /** @param {Record<string, any>} message */
  receive(message) {
    if (message.seq && this.#position) this.#position.after = message.seq;
    if (message.type === "resumed") this.#resumed(message);
    else if (message.type === "accepted") this.#accepted(message.id);
    else if (message.type === "result" || message.type === "error") this.#ended(message);
    if (message.seq && this.#replaying && --this.#replaying === 0) this.#resend();
  }

  /** @param {Record<string, any>} hello */
  greet(hello) {
    if (this.#position) this.transmit(JSON.stringify({ type: "resume", ...this.#position }));
    else this.#open({ session: hello.session, epoch: hello.epoch, after: 0 });
  }

  /** @param {Record<string, any>} message */
  #resumed({ recovered, replayed, pending }) {
    const fresh = { session: this.hello?.session, epoch: this.hello?.epoch, after: 0 };
    this.#pending = new Set(recovered ? pending : []);
    this.#replaying = recovered ? replayed : 0;
    this.#open(recovered && this.#position ? this.#position : fresh);
    for (const id of this.#pending) if (!this.#inFlight.has(id)) this.tell({ type: "cancel", id });
    if (!this.#replaying) this.#resend();
  }

  /** @param {Position} position */
  #open(position) {
    this.#position = position;
    this.become("open");
    for (const picture of this.pictures) picture.tellViewport();
    this.pump();
  }

  /** Sends slices again that have no event and are not being processed: they never arrived, or were lost. */
  #resend() {
    for (const [id, slice] of [...this.#inFlight]) if (!this.#pending.has(id)) this.#again(id, slice, 0);
    this.pump();
  }

  /** @param {string} id @param {Slice} slice @param {number} pause In milliseconds. */
  #again(id, slice, pause) {
    this.#inFlight.delete(id);
    slice.attempt += 1;
    slice.notBefore = Date.now() + pause;
    slice.picture.settle(slice, "waiting");
    setTimeout(() => this.pump(), pause + 1);
  }

  /** @param {string} id */
  #accepted(id) {
    const slice = this.#inFlight.get(id);
    slice?.picture.settle(slice, "accepted");
  }

  /** @param {Record<string, any>} message */
  #ended(message) {
    const slice = this.#inFlight.get(message.id);
    if (!slice) return;
    const busy = message.code === "busy";
    if (message.temporary && (busy || ++slice.failures < MOST_ATTEMPTS)) {
      const pause = Math.ceil((message.retry_after_ms ?? 500) * (1 + Math.random() / 2));
      if (busy) this.#quietUntil = Date.now() + pause;
      return this.#again(message.id, slice, pause);
    }
    this.#inFlight.delete(message.id);
    if (message.type === "result") slice.result = message;
    else slice.error = /** @type {any} */ (message);
    const cancelled = message.code === "cancelled" && !message.temporary;
    slice.picture.settle(slice, slice.result ? "done" : cancelled ? "cancelled" : "failed");
    this.pump();
  }
}

/** An id is used once in a session, so every attempt has its own. @param {Slice} slice */
const idOf = ({ picture, index, attempt }) => `${picture.id}/${index}/${attempt}`;

/** @param {Iterable<Picture>} pictures @returns {Slice | undefined} */
function nearest(pictures) {
  let best;
  let least = Infinity;
  for (const picture of pictures) {
    for (const slice of picture.slices) {
      if (slice.state !== "waiting" || slice.notBefore > Date.now()) continue;
      const distance = picture.distance(slice);
      if (distance < least) [best, least] = [slice, distance];
    }
  }
  return best;
}

/**
 * Packs a binary message: length of the header, header, payload.
 * @param {object} header
 * @param {ArrayBuffer} payload
 */
function pack(header, payload) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const message = new Uint8Array(4 + text.length + payload.byteLength);
  new DataView(message.buffer).setUint32(0, text.length);
  message.set(text, 4);
  message.set(new Uint8Array(payload), 4 + text.length);
  return message;
}
