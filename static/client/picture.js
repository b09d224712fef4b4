// @ts-check
/** One tall picture: its slices, the state of each, and the viewport (the part that the reader sees). */

/** @typedef {import("./sluice.js").Sluice} Sluice */
/** @typedef {"waiting" | "sent" | "accepted" | "done" | "failed" | "cancelled"} SliceState */
/** @typedef {{code: string, message: string, temporary?: boolean, retry_after_ms?: number}} Failure */
/**
 * A band of a picture, in source pixels. When `state` is "done", `result` is the server's message: url, width, height,
 * data, timing. When it is "failed", `error` is set. Every `attempt` has an id of its own.
 * @typedef {{picture: Picture, index: number, top: number, height: number, state: SliceState, attempt: number,
 * failures: number, notBefore: number, result?: Record<string, any>, error?: Failure}} Slice
 */
/**
 * How to process a picture. `type` is the format in which slices are sent: by default that of the file, or PNG when it
 * is unknown.
 * @typedef {{action?: string, options?: Record<string, unknown>, zoom?: number, format?: string, sliceHeight?: number,
 * type?: string}} PictureRequest
 */

/** Pixels per slice unless `sliceHeight` is set. A slice of this size takes some milliseconds and some 50 KB. */
const SLICE_PIXELS = 400_000;

/** @param {Slice} slice */
export const isOver = ({ state }) => state === "done" || state === "failed" || state === "cancelled";

/** Events: "slice" (detail: a Slice whose state has changed), "progress" and "end" (detail: {done, failed, total}). */
export class Picture extends EventTarget {
  /** @type {Slice[]} */
  slices = [];
  #viewport = { top: 0, height: 0 };
  #unfollow = new AbortController();

  /** @param {Sluice} sluice @param {ImageBitmap} bitmap @param {PictureRequest} request */
  constructor(sluice, bitmap, request) {
    super();
    this.id = crypto.getRandomValues(new Uint32Array(2)).join("");
    this.sluice = sluice;
    this.request = request;
    this.bitmap = bitmap;
    const step = request.sliceHeight ?? Math.min(512, Math.max(64, Math.round(SLICE_PIXELS / bitmap.width)));
    for (let top = 0, index = 0; top < bitmap.height; top += step, index++) {
      const height = Math.min(step, bitmap.height - top);
      this.slices.push({ picture: this, index, top, height, state: "waiting", attempt: 0, failures: 0, notBefore: 0 });
    }
  }

  /** Numbers of slices: done, failed or cancelled, and all. */
  get progress() {
    const done = this.slices.filter(({ state }) => state === "done").length;
    return { done, failed: this.slices.filter(isOver).length - done, total: this.slices.length };
  }

  /**
   * Sets the viewport, in source pixels from the top of the picture. It may be outside of the picture.
   * @param {number} top @param {number} height
   */
  look(top, height) {
    const { top: before, height: extent } = this.#viewport;
    if (Math.abs(top - before) < 1 && Math.abs(height - extent) < 1) return;
    this.#viewport = { top, height };
    this.tellViewport();
  }

  /**
   * Keeps the viewport equal to the visible part of `element`, which shows the whole picture, also when the page scrolls.
   * @param {Element} element
   */
  follow(element) {
    const measure = () => {
      due = 0;
      const box = element.getBoundingClientRect();
      const scale = this.bitmap.height / (box.height || 1);
      this.look(-box.top * scale, innerHeight * scale);
    };
    let due = 0;
    const soon = () => (due ||= requestAnimationFrame(measure));
    this.#unfollow.abort();
    this.#unfollow = new AbortController();
    const options = { signal: this.#unfollow.signal, passive: true, capture: true };
    addEventListener("scroll", soon, options);
    addEventListener("resize", soon, options);
    measure();
  }

  /** Cancels all slices that have not ended. */
  cancel() {
    this.sluice.cancel(this);
  }

  /** Sends slices again: by default all that failed or were cancelled. @param {Slice[]} [slices] */
  retry(slices = this.slices.filter((slice) => isOver(slice) && slice.state !== "done")) {
    for (const slice of slices) {
      slice.attempt += 1;
      slice.failures = 0;
      delete slice.error;
      this.settle(slice, "waiting");
    }
    this.sluice.pump();
  }

  /** Cancels all slices and releases the pixels. */
  close() {
    this.#unfollow.abort();
    this.cancel();
    this.sluice.pictures.delete(this);
    this.bitmap.close();
  }

  // The rest is for Sluice.

  tellViewport() {
    this.sluice.tell({ type: "viewport", image: this.id, ...this.#viewport });
  }

  /** Distance to the viewport in source pixels, 0 when the slice is visible. @param {Slice} slice */
  distance({ top, height }) {
    return Math.max(this.#viewport.top - top - height, top - this.#viewport.top - this.#viewport.height, 0);
  }

  /** @param {Slice} slice @param {SliceState} state */
  settle(slice, state) {
    slice.state = state;
    this.dispatchEvent(new CustomEvent("slice", { detail: slice }));
    if (!isOver(slice)) return;
    const detail = this.progress;
    this.dispatchEvent(new CustomEvent("progress", { detail }));
    if (detail.done + detail.failed === detail.total) this.dispatchEvent(new CustomEvent("end", { detail }));
  }

  /** Returns the slice as an encoded file. @param {Slice} slice @returns {Promise<ArrayBuffer>} */
  async encode({ top, height }) {
    const canvas = new OffscreenCanvas(this.bitmap.width, height);
    canvas.getContext("2d")?.drawImage(this.bitmap, 0, -top);
    const blob = await canvas.convertToBlob({ type: this.request.type ?? "image/png", quality: 0.92 });
    return blob.arrayBuffer();
  }
}
