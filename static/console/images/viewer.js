// @ts-check
/**
 * Shows one picture during processing: the original, the results that replace it, and a map of the states of its
 * slices.
 */

/** @typedef {import("../../client/picture.js").Picture} Picture */
/** @typedef {import("../../client/picture.js").Slice} Slice */

/** Milliseconds before a failed fetch of a result is repeated, and the longest pause between two attempts. */
const FETCH_PAUSE = 500;
const MOST_PAUSE = 32000;

export class Viewer {
  /** @type {HTMLElement[]} */
  #slices = [];
  /** @type {HTMLElement[]} */
  #cells = [];
  #frame = document.createElement("b");
  #order = 0;

  /** @param {HTMLElement} sheet @param {HTMLElement} map */
  constructor(sheet, map) {
    this.sheet = sheet;
    this.map = map;
    addEventListener("scroll", () => this.#mark(), { passive: true });
    addEventListener("resize", () => this.#mark(), { passive: true });
    map.addEventListener("click", ({ clientY }) => {
      const box = sheet.getBoundingClientRect();
      scrollBy({ top: box.top + (clientY / map.clientHeight) * box.height - innerHeight / 2, behavior: "smooth" });
    });
  }

  /** @param {Picture} picture @param {string} url URL of the original. */
  show(picture, url) {
    const { width, height } = picture.bitmap;
    const original = new Image(width, height);
    original.src = url;
    original.alt = "The picture before processing";
    this.#order = 0;
    this.#slices = picture.slices.map((slice) => this.#place(slice, height));
    this.#cells = picture.slices.map(() => document.createElement("i"));
    this.sheet.replaceChildren(original, ...this.#slices);
    this.map.replaceChildren(...this.#cells, this.#frame);
    picture.slices.forEach((slice) => this.#update(slice));
    picture.addEventListener("slice", (event) => this.#update(/** @type {CustomEvent} */ (event).detail));
    this.#mark();
  }

  /** @param {Slice} slice @param {number} total */
  #place(slice, total) {
    const place = document.createElement("div");
    place.className = "slice";
    place.style.top = `${(slice.top / total) * 100}%`;
    place.style.height = `${(slice.height / total) * 100}%`;
    return place;
  }

  /** @param {Slice} slice */
  #update(slice) {
    const place = this.#slices[slice.index];
    place.dataset.state = this.#cells[slice.index].dataset.state = slice.state;
    if (slice.state !== "done" || !slice.result) return place.replaceChildren();
    const { url, timing, data, width } = slice.result;
    const result = new Image();
    result.alt = "";
    fetchInto(result, url);
    place.dataset.order = String(++this.#order);
    place.title = `Result number ${this.#order}: waited ${timing.queued_ms} ms, processed in ${timing.work_ms} ms, ${width} pixels wide`;
    place.replaceChildren(result, ...boxes(data).map((box) => outline(box, slice)));
  }

  #mark() {
    const box = this.sheet.getBoundingClientRect();
    if (!box.height) return;
    this.#frame.style.top = `${Math.max(0, (-box.top / box.height) * 100)}%`;
    this.#frame.style.height = `${Math.min(100, (innerHeight / box.height) * 100)}%`;
  }
}

/**
 * Shows a result. A failed fetch is repeated for a minute, because a proxy, a server or a store may be starting. The
 * browser itself tries only once. @param {HTMLImageElement} image @param {string} url
 */
function fetchInto(image, url) {
  let pause = FETCH_PAUSE;
  image.onerror = () => {
    if (pause > MOST_PAUSE) image.alt = "The slice is done, but its result could not be loaded. Retry it.";
    else if (image.isConnected) setTimeout(() => (image.src = url), pause * (0.5 + Math.random()));
    pause *= 2;
  };
  image.src = url;
}

/** Returns the findings of an action, whatever their name is. @param {Record<string, any>} [data] @returns {any[]} */
export const boxes = (data) => Object.values(data ?? {}).flat();

/** @param {any} found @param {Slice} slice */
function outline({ box: [x, y, width, height], text }, slice) {
  const mark = document.createElement("div");
  mark.className = "box";
  mark.title = text ?? "";
  const across = 100 / slice.picture.bitmap.width;
  const down = 100 / slice.height;
  Object.assign(mark.style, { left: `${x * across}%`, width: `${width * across}%` });
  Object.assign(mark.style, { top: `${y * down}%`, height: `${height * down}%` });
  return mark;
}
