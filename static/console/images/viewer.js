// @ts-check
/** Shows one picture while it is worked on: the original, the slices that replace it, and a map of their states. */

/** @typedef {import("../../client/picture.js").Picture} Picture */
/** @typedef {import("../../client/picture.js").Slice} Slice */

/** Milliseconds before a result that could not be fetched is tried again, and the longest pause between two tries. */
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

  /** @param {Picture} picture @param {string} url Of the original. */
  show(picture, url) {
    const { width, height } = picture.bitmap;
    const original = new Image(width, height);
    original.src = url;
    original.alt = "The picture that is worked on";
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
    place.title = `No. ${this.#order} to be done: waited ${timing.queued_ms} ms, worked ${timing.work_ms} ms, ${width} pixels wide`;
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
 * Shows a result, tried again for a minute while it cannot be fetched: a proxy, a server or a store may be starting.
 * A browser itself tries once. @param {HTMLImageElement} image @param {string} url
 */
function fetchInto(image, url) {
  let pause = FETCH_PAUSE;
  image.onerror = () => {
    if (pause > MOST_PAUSE) image.alt = "This slice is done, but its result could not be fetched.";
    else if (image.isConnected) setTimeout(() => (image.src = url), pause * (0.5 + Math.random()));
    pause *= 2;
  };
  image.src = url;
}

/** What an action found, whatever it calls it. @param {Record<string, any>} [data] @returns {any[]} */
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
