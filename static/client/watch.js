// @ts-check
/** One watch: a source as one viewer sees it. It stores the request and sends it again on each new connection. */

import { Mailbox } from "./mailbox.js";
import { Seek } from "./seek.js";

/** @typedef {import("./live.js").Live} Live */
/** @typedef {import("./mailbox.js").Show} Show */
/**
 * Properties of the frames. docs/video.md describes them.
 * @typedef {{fps?: number, width?: number, quality?: number, action?: string, options?: Record<string, unknown>}} FrameRequest
 */
/**
 * "waiting": not requested or not answered yet. "stopped": by the viewer. "failed": see `error`. The other states are
 * the server's.
 * @typedef {"waiting" | "connecting" | "playing" | "paused" | "reconnecting" | "ended" | "stopped" | "failed"} WatchState
 */

/**
 * Frames in flight: one is drawn, one waits, one is on the network. That allows 30 a second with a round trip of 100
 * ms.
 */
const WINDOW = 3;
/** Milliseconds after which a held watch is stopped on the server. Before that it is only paused. */
const LINGER = 5000;
/** Milliseconds before a temporarily failed watch is tried again, and the longest such pause. */
const PAUSE = [1000, 30_000];

/** Event: "change", when any member below has changed. */
export class Watch extends EventTarget {
  /** @type {WatchState} */
  state = "waiting";
  /** Why it is reconnecting, as the server reports it. */
  reason = "";
  /** When it is tried again, in milliseconds since 1970, or 0 when unknown. */
  retryAt = 0;
  /** @type {{code: string, message: string, temporary?: boolean} | null} Why it has failed. */
  error = null;
  /** Message of a refused seek or action, which does not end the watch. */
  trouble = "";
  /** @type {"live" | "file" | undefined} */
  kind;
  /** @type {number | null} Duration of a recording in seconds. */
  duration = null;
  factor = 1;
  /**
   * @type {{width?: number, quality?: number, action?: string}} Properties of the frames that the server sends, which may be less than requested.
   */
  given = {};
  isPaused = false;
  /** Whether the picture is not visible: see `hold`. */
  isHeld = false;
  /** Its name on the connection. Empty while the server does not know it. */
  #name = "";
  #isAnswered = false;
  #isSentPaused = false;
  #at = 0;
  #failures = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #again;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #linger;
  #seek = new Seek((position) => {
    this.#mailbox.empty();
    this.#tell("seek", { position });
  });
  #mailbox;

  /** @param {Live} live @param {string} source @param {FrameRequest} request @param {Show} show */
  constructor(live, source, request, show) {
    super();
    this.live = live;
    this.source = source;
    this.request = request;
    const seen = (/** @type {{watch: string, seq: number}} */ { watch, seq }) => this.#name === watch && this.#tell("seen", { seq });
    this.#mailbox = new Mailbox({ show, seen, shown: (frame) => this.#shown(frame) });
  }

  /** Whether the server knows this watch. */
  get isOpen() {
    return this.#name !== "";
  }

  /** Position in a recording in seconds: the target of a seek, or that of the last frame that was shown. */
  get position() {
    return this.#seek.position ?? this.#at;
  }

  /** Frames that were dropped because newer ones arrived before the network or the page was ready. */
  get dropped() {
    return this.#mailbox.dropped;
  }

  pause() {
    this.isPaused = true;
    this.#settle();
    this.#changed();
  }

  /** Continues. A recording that has ended starts again, and a stopped or failed watch is requested again. */
  play() {
    this.isPaused = false;
    if (!["ended", "stopped", "failed"].includes(this.state)) this.#settle();
    else if (this.#name) this.#tell("play");
    else {
      if (this.state === "ended") this.#at = 0;
      this.#restart();
    }
    this.#changed();
  }

  /** @param {number} position In seconds. */
  seek(position) {
    this.#seek.to(position, this.#isAnswered);
    if (!this.#name) this.#restart();
    this.#changed();
  }

  /** @param {number} factor Speed as a factor of the normal speed. */
  speed(factor) {
    this.factor = factor;
    if (this.#isAnswered) this.#tell("speed", { factor });
    this.#changed();
  }

  /** Stops the watch on the server until `play`. */
  stop() {
    this.#drop();
    [this.state, this.#at] = ["stopped", 0];
    this.#changed();
  }

  /** Requests other frames of the same source. @param {FrameRequest} request */
  change(request) {
    if (JSON.stringify(request) === JSON.stringify(this.request)) return;
    this.request = request;
    if (!this.#name && this.state !== "failed") return;
    const hasEnded = this.state === "ended";
    this.#drop();
    // A recording that has ended stays at its end.
    if (!hasEnded) this.#restart();
    this.#changed();
  }

  /** Pauses the watch while its picture is not visible. @param {boolean} isHeld */
  hold(isHeld) {
    if (isHeld === this.isHeld) return;
    this.isHeld = isHeld;
    clearTimeout(this.#linger);
    if (isHeld) this.#linger = setTimeout(() => this.release(), LINGER);
    this.#settle();
    this.begin();
  }

  /** Stops a held watch on the server. */
  release() {
    if (!this.isHeld || !this.#name) return;
    this.#drop();
    if (this.state !== "ended") this.state = "waiting";
    this.#changed();
  }

  /** Closes the watch for good. */
  close() {
    this.#drop();
    clearTimeout(this.#linger);
    this.isHeld = true;
    this.live.watches.delete(this);
  }

  // The rest is for Live.

  /** Requests the watch, unless it is requested, held, ended or stopped. */
  begin() {
    if (this.#name || this.isHeld || this.live.state !== "open" || ["ended", "stopped"].includes(this.state)) return;
    clearTimeout(this.#again);
    [this.state, this.error, this.retryAt] = ["waiting", null, 0];
    this.#name = this.live.enter(this);
    this.#isSentPaused = this.isPaused;
    this.#mailbox.begin();
    this.#at = this.position;
    this.#seek.forget();
    const from = this.#at > 0 && this.kind !== "live" ? { position: this.#at } : {};
    this.#tell("watch", { source: this.source, window: WINDOW, paused: this.isPaused, ...this.request, ...from });
    this.#changed();
  }

  /** Called when the connection is lost. */
  lost() {
    this.#forget();
    if (!["ended", "stopped"].includes(this.state)) this.state = "waiting";
    this.#changed();
  }

  /** @param {Record<string, any>} message @param {Uint8Array<ArrayBuffer>} [payload] */
  receive(message, payload) {
    if (message.type === "frame" && payload) return this.#arrived(message, payload);
    if (message.type === "watching") this.#answered(message);
    else if (message.type === "state") this.#setState(message);
    else if (message.type === "error") this.#refused(message);
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new CustomEvent("change"));
  }

  /** @param {string} type @param {Record<string, unknown>} [members] */
  #tell(type, members = {}) {
    this.live.tell({ type, watch: this.#name, ...members });
  }

  #restart() {
    this.state = "waiting";
    this.begin();
  }

  #drop() {
    if (this.#name) this.#tell("stop");
    this.live.leave(this.#name);
    this.#forget();
  }

  #forget() {
    clearTimeout(this.#again);
    this.#at = this.position;
    this.#seek.forget();
    [this.#name, this.#isAnswered, this.trouble] = ["", false, ""];
    this.#mailbox.empty();
  }

  /** Tells the server whether frames are wanted. Not after the end, because `play` would start again. */
  #settle() {
    const isPaused = this.isPaused || this.isHeld;
    if (!this.#isAnswered || this.state === "ended" || isPaused === this.#isSentPaused) return;
    this.#isSentPaused = isPaused;
    this.#tell(isPaused ? "pause" : "play");
  }

  /** @param {Record<string, any>} message */
  #answered(message) {
    this.#isAnswered = true;
    this.#failures = 0;
    this.kind = message.kind;
    this.given = { width: message.width, quality: message.quality, action: message.action };
    this.#setState(message);
    if (this.factor !== 1 && this.kind === "file") this.#tell("speed", { factor: this.factor });
    this.#seek.go();
    this.#settle();
  }

  /** @param {Record<string, any>} message */
  #setState({ state, reason = "", retry_ms, position, duration }) {
    const wasEnded = this.state === "ended";
    [this.state, this.reason, this.retryAt] = [state, reason, retry_ms === undefined ? 0 : Date.now() + retry_ms];
    if (duration !== undefined) this.duration = duration;
    if (this.#seek.answer(position)) {
      this.#mailbox.empty();
      this.#at = position;
    }
    if (state === "ended") {
      this.#at = this.duration ?? position ?? this.#at;
      this.#seek.shown();
    } else if (wasEnded) {
      this.#isSentPaused = state === "paused"; // it was started again, or a seek has moved it
      this.#settle();
    }
  }

  /** @param {Record<string, any>} message */
  #refused({ code, message, temporary, ended, retry_after_ms, action }) {
    if (this.#isAnswered && !ended) {
      this.trouble = message;
      if (!action) this.#seek.done();
      return;
    }
    this.live.leave(this.#name);
    this.#forget();
    [this.state, this.error] = ["failed", { code, message, temporary }];
    if (!temporary) return;
    const pause = Math.max(retry_after_ms ?? 0, Math.min(PAUSE[0] * 2 ** this.#failures++, PAUSE[1])) * (1 + Math.random() / 2);
    this.retryAt = Date.now() + pause;
    this.#again = setTimeout(() => this.begin(), pause);
  }

  /** @param {Record<string, any>} message @param {Uint8Array<ArrayBuffer>} payload */
  #arrived(message, payload) {
    if (this.#seek.isUnanswered) this.#tell("seen", { seq: message.seq }); // the frame is from before the seek
    else this.#mailbox.put(message, payload);
  }

  /** @param {import("./mailbox.js").Frame} frame */
  #shown({ pts, placeholder }) {
    if (placeholder) return;
    this.trouble = "";
    if (this.state !== "ended") this.#at = pts ?? this.#at;
    this.#seek.shown();
  }
}
