// @ts-check
/**
 * One source on the page: its picture, its state in words, and its figures. It requests frames of the size at which its
 * picture is shown.
 */

import { element } from "../dom.js";
import { Figures } from "./figures.js";

/** @typedef {import("../../client/live.js").Live} Live */
/** @typedef {import("../../client/live.js").Source} Source */
/** @typedef {import("../../client/mailbox.js").Frame} Frame */
/** @typedef {{fps: number, width: number, quality: number, action: string, options: Record<string, unknown>}} Settings */

/** Widths that are requested. They are few, because all viewers with the same width share one encoding. */
export const WIDTHS = [320, 640, 1280, 1920];
/** For small pictures, because many play at the same time. */
const SMALL = { fps: 10, quality: 70 };
/**
 * Milliseconds without a picture after which the page says that it waits for one. Changes of the same source are
 * faster.
 */
const PATIENCE = 2000;

/** @type {Record<string, string>} */
const REASONS = {
  unreachable: "the source cannot be reached",
  no_video: "the source sends no video",
  ended: "the stream has ended",
  silent: "the source sends no data",
  crashed: "the stream could not be decoded",
};
/** @type {Record<string, string>} */
const LABELS = { waiting: "connecting", lost: "no connection", full: "not watched" };

export class Monitor {
  /** Whether this source is enlarged. */
  isLarge = false;
  isVisible = false;
  /** Whether the limit of watched sources is reached. */
  isLeftOut = false;
  /**
   * @type {Settings} Settings of the enlarged picture. `width` 0: as wide as it is shown. The action also applies to the small picture.
   */
  settings = { fps: 30, width: 0, quality: 80, action: "", options: {} };
  /** @type {Record<string, any> | undefined} Findings of the action on the current frame. */
  found;
  figures = new Figures();
  #canvas = element("canvas", { width: 16, height: 9 });
  #veil = element("p", { className: "veil" });
  #text = "";

  /** @param {Live} live @param {Source} source */
  constructor(live, { name, kind }) {
    this.live = live;
    this.name = name;
    this.kind = kind;
    this.#canvas.setAttribute("role", "img");
    this.#canvas.setAttribute("aria-label", `Picture of ${name}`);
    this.#veil.setAttribute("aria-hidden", "true"); // also shown next to the picture
    this.picture = element("div", { className: "picture" }, this.#canvas, this.#veil);
    this.watch = live.watch(name, this.#request(), (frame) => this.#show(frame), true);
  }

  /** Requests frames of the size at which the picture is shown. */
  fit() {
    if (this.picture.isConnected && this.picture.clientWidth) this.watch.change(this.#request());
  }

  close() {
    this.watch.close();
    this.picture.remove();
  }

  /** The state in one word: one of ours, or one in docs/video.md. */
  get state() {
    if (this.live.state !== "open") return "lost";
    return this.isLeftOut ? "full" : this.watch.state;
  }

  get label() {
    return LABELS[this.state] ?? this.state;
  }

  /** Why there is no picture, and since when. */
  get detail() {
    const { state, watch } = this;
    if (state === "lost" && this.live.state === "closed") return `${sentence(this.live.reason || "connection closed")} Reload the page.`;
    if (state === "lost") return "The server cannot be reached. Reconnecting.";
    if (state === "full") return `At most ${this.live.hello?.limits.video_watches} sources are shown at the same time. Open this one to see it.`;
    if (state === "reconnecting") return `${sentence(REASONS[watch.reason] ?? watch.reason)} ${this.#since()}`.trim();
    if (state === "failed") return watch.error?.message ?? "";
    return sentence(watch.trouble);
  }

  /** @returns {string} It changes every second, so screen readers do not get it. */
  get #countdown() {
    const seconds = Math.ceil((this.watch.retryAt - Date.now()) / 1000);
    if (!this.watch.retryAt || !["reconnecting", "failed"].includes(this.state)) return "";
    return seconds > 0 ? `Next try in ${seconds} s.` : "Trying now.";
  }

  #since() {
    return this.figures.at ? `Last picture ${new Date(this.figures.at).toLocaleTimeString()}.` : "";
  }

  /** Shows the state on the picture, unless it plays. */
  draw() {
    this.picture.dataset.state = this.state;
    const isShort = this.state === "waiting" && Date.now() - this.figures.at < PATIENCE;
    const isWell = isShort || ["playing", "paused"].includes(this.state);
    const text = isWell && !this.watch.trouble ? "" : `${this.label}|${this.detail}|${this.#countdown}`;
    if (text === this.#text) return;
    this.#text = text;
    const [label, ...lines] = text.split("|").filter(Boolean);
    this.#veil.replaceChildren(...(label ? [element("b", {}, label), ...lines.map((line) => element("span", {}, line))] : []));
  }

  #request() {
    const { video_fps = 30, video_width = 1920 } = this.live.hello?.limits ?? {};
    const { action, options } = this.settings;
    const { fps, quality } = this.isLarge ? this.settings : SMALL;
    const shown = this.picture.clientWidth * (globalThis.devicePixelRatio ?? 1);
    const fitting = WIDTHS.find((width) => width >= shown * 0.9) ?? WIDTHS[WIDTHS.length - 1];
    const width = Math.min((this.isLarge && this.settings.width) || fitting, video_width);
    return { fps: Math.min(fps, video_fps), width, quality, ...(action ? { action, options } : {}) };
  }

  /** @param {Frame} frame */
  async #show(frame) {
    if (frame.placeholder) return; // the overlay says more
    const bitmap = await createImageBitmap(frame.jpeg);
    try {
      // The frame is acknowledged when it is drawn. So the server sends no frames to a hidden page.
      await new Promise(requestAnimationFrame);
      if (frame.isWanted) this.#paint(bitmap, frame);
    } finally {
      bitmap.close();
    }
  }

  /** @param {ImageBitmap} bitmap @param {Frame} frame */
  #paint(bitmap, frame) {
    const canvas = this.#canvas;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
    this.found = frame.data;
    this.figures.count(frame, this.live.ahead);
  }
}

/** @param {string} words */
const sentence = (words) => words && `${words[0].toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? "" : "."}`;
