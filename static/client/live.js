// @ts-check
/**
 * The client of the server's live video: cameras and recordings, always with the newest frame.
 *
 * It reconnects by itself and watches the same sources again, a recording at its last position. It has no dependencies
 * and also works without a page.
 *
 *     const live = new Live("wss://pictures.example/ws/video", { token });
 *     const watch = live.watch("yard", { width: 640, fps: 15 }, async (frame) => {
 *       const bitmap = await createImageBitmap(frame.jpeg);
 *       if (frame.isWanted) canvas.getContext("2d").drawImage(bitmap, 0, 0);
 *       bitmap.close();
 *     });
 *     watch.addEventListener("change", () => console.log(watch.state, watch.reason));
 *     watch.pause();
 */

import { Connection } from "./socket.js";
import { Watch } from "./watch.js";

export { Watch };

/** @typedef {import("./watch.js").FrameRequest} FrameRequest */
/** @typedef {import("./mailbox.js").Show} Show */
/** @typedef {{name: string, kind: "live" | "file", state: string}} Source */
/** @typedef {{jpeg: Blob, seq: number, pts: number | null, captured_at: number, width: number, height: number}} Snapshot */

/** Events: "sources" (the list of sources was received), and those of a Connection. */
export class Live extends Connection {
  /** @type {Source[]} Sources that this user may watch. */
  sources = [];
  /** Milliseconds by which the server's clock is ahead of the page's, measured with the fastest answer. */
  ahead = 0;
  /** @type {Set<Watch>} Watches that were started and not closed. */
  watches = new Set();
  /** @type {Map<string, Watch>} Watches by their names on this connection. */
  #named = new Map();
  /** @type {Map<string, {resolve: (shot: Snapshot) => void, reject: (error: Error) => void}>} */
  #snapshots = new Map();
  #names = 0;
  /** @type {number[]} Times of the unanswered requests for the list of sources. */
  #asked = [];
  #quickest = Infinity;

  /**
   * Watches a source until `close`. Every frame is passed to `show`. A held watch starts with `hold(false)`.
   * @param {string} source @param {FrameRequest} request @param {Show} show
   */
  watch(source, request, show, isHeld = false) {
    const watch = new Watch(this, source, request, show);
    watch.isHeld = isHeld;
    this.watches.add(watch);
    watch.begin();
    return watch;
  }

  /**
   * Returns one picture of a source. `max_age` is in seconds (0: a new picture), `position` in seconds, for recordings.
   * @param {string} source @param {{width?: number, quality?: number, position?: number, max_age?: number}} [request]
   * @returns {Promise<Snapshot>}
   */
  snapshot(source, request = {}) {
    if (this.state !== "open") return Promise.reject(new Error("not connected to the server"));
    const id = this.#name();
    this.tell({ type: "snapshot", id, source, ...request });
    return new Promise((resolve, reject) => this.#snapshots.set(id, { resolve, reject }));
  }

  /** Requests the list of sources with their states. The event "sources" follows. */
  ask() {
    if (this.state !== "open") return;
    this.#asked.push(Date.now());
    this.tell({ type: "sources" });
  }

  /** A name is used only once. So late messages with an old name cannot reach a new watch. */
  #name() {
    return `${++this.#names}`;
  }

  // The rest is for Watch.

  /** @param {Watch} watch */
  enter(watch) {
    const name = this.#name();
    this.#named.set(name, watch);
    return name;
  }

  /** @param {string} name */
  leave(name) {
    this.#named.delete(name);
  }

  // The rest is for Connection.

  /** @param {Record<string, any>} hello */
  greet(hello) {
    this.become("open");
    this.ahead = hello.now - Date.now();
    this.ask(); // unknown, because the greeting answers no request
    this.#list(hello.sources);
    for (const watch of this.watches) watch.begin();
  }

  /** @param {import("./socket.js").State} state @param {{code?: number, reason?: string}} [detail] */
  become(state, detail) {
    if (state !== "open") this.#forget();
    super.become(state, detail);
  }

  /** Forgets the state of the lost connection. */
  #forget() {
    this.#named.clear();
    for (const watch of this.watches) watch.lost();
    for (const { reject } of this.#snapshots.values()) reject(new Error("connection lost"));
    this.#snapshots.clear();
    this.#asked = [];
    this.#quickest = Infinity;
  }

  /** @param {Record<string, any>} message @param {Uint8Array<ArrayBuffer>} [payload] */
  receive(message, payload) {
    if (message.type === "sources") {
      this.#compare(message.now, this.#asked.shift() ?? NaN);
      this.#list(message.sources);
    } else if (message.id) this.#shot(message, payload);
    else this.#named.get(message.watch)?.receive(message, payload);
  }

  /**
   * The answer has the server's time. It is assumed to be that of the middle of the round trip.
   * @param {number} now
   * @param {number} asked
   */
  #compare(now, asked) {
    const took = Date.now() - asked;
    if (!(took < this.#quickest)) return;
    this.#quickest = took;
    this.ahead = now - asked - took / 2;
  }

  /** @param {Source[]} sources */
  #list(sources) {
    this.sources = sources;
    this.fire("sources", sources);
  }

  /** @param {Record<string, any>} message @param {Uint8Array<ArrayBuffer>} [payload] */
  #shot({ id, type, ...members }, payload) {
    const waiting = this.#snapshots.get(id);
    this.#snapshots.delete(id);
    if (type === "error") waiting?.reject(new Error(`${members.message} (${members.code})`));
    else if (payload) waiting?.resolve(/** @type {any} */ ({ ...members, jpeg: new Blob([payload], { type: "image/jpeg" }) }));
  }
}
