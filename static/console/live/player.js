// @ts-check
/** The enlarged source: its picture, its controls, and the settings of its frames. */

import { byId, element } from "../dom.js";
import { WIDTHS } from "./monitor.js";
import { readOptions, showOptions } from "../images/options.js";

/** @typedef {import("./monitor.js").Monitor} Monitor */

const FACTORS = [0.25, 0.5, 1, 2, 4, 8, 16];
const RATES = [1, 5, 10, 15, 30, 60];
/** Seconds that an arrow key moves. */
const STEP = 5;
/** Milliseconds without a change after which settings are sent. Each change starts the watch again. */
const CALM = 300;

/** @param {number} seconds */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export class Player {
  /** @type {Monitor | null} */
  monitor = null;
  #bar = /** @type {HTMLInputElement} */ (byId("bar"));
  #speed = /** @type {HTMLSelectElement} */ (byId("speed"));
  #action = /** @type {HTMLSelectElement} */ (byId("frame-action"));
  #width = /** @type {HTMLSelectElement} */ (byId("frame-width"));
  #quality = /** @type {HTMLInputElement} */ (byId("frame-quality"));
  #fps = /** @type {HTMLSelectElement} */ (byId("frame-fps"));
  #isDragging = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #calm;
  /** @type {Record<string, {help: string, options: object}>} */
  #actions = {};

  constructor() {
    this.#speed.append(...FACTORS.map((factor) => new Option(`${factor} ×`, String(factor), factor === 1, factor === 1)));
    byId("play").onclick = () => this.#toggle();
    byId("stop").onclick = () => this.monitor?.watch.stop();
    byId("shoot").onclick = () => this.#shoot();
    this.#speed.onchange = () => this.monitor?.watch.speed(Number(this.#speed.value));
    this.#bar.oninput = () => this.monitor?.watch.seek(Number(this.#bar.value));
    for (const type of ["pointerdown", "pointerup", "pointercancel"]) {
      this.#bar.addEventListener(type, () => (this.#isDragging = type === "pointerdown"));
    }
    document.addEventListener("keydown", (event) => this.#press(event));
    byId("tune").onsubmit = (event) => event.preventDefault();
    byId("tune").oninput = ({ target }) => {
      if (target === this.#action) this.#offer();
      clearTimeout(this.#calm);
      this.#calm = setTimeout(() => this.#tune(), CALM);
    };
  }

  /** Applies the server's greeting. @param {Record<string, any>} hello */
  greet({ actions, limits }) {
    this.#actions = actions;
    const { action } = this.monitor?.settings ?? { action: "" };
    this.#action.replaceChildren(new Option("none", ""), ...Object.keys(actions).map((name) => new Option(name, name)));
    this.#action.value = action in actions ? action : "";
    const widths = WIDTHS.filter((width) => width <= limits.video_width);
    this.#width.replaceChildren(new Option("as shown", "0"), ...widths.map((width) => new Option(`${width} pixels`, String(width))));
    const rates = [...RATES.filter((rate) => rate < limits.video_fps), limits.video_fps];
    this.#fps.replaceChildren(...rates.map((rate) => new Option(String(rate), String(rate))));
    this.#fill();
  }

  /** @param {Monitor | null} monitor */
  show(monitor) {
    if (monitor === this.monitor) return;
    clearTimeout(this.#calm);
    this.#isDragging = false;
    this.monitor = monitor;
    byId("enlarged").hidden = !monitor;
    if (!monitor) return;
    byId("enlarged-name").textContent = monitor.name;
    byId("enlarged-picture").replaceChildren(monitor.picture);
    this.#fill();
    this.draw();
  }

  /** Fills the form with the settings of this source. */
  #fill() {
    if (!this.monitor) return;
    const { fps, width, quality, action, options } = this.monitor.settings;
    this.#action.value = action;
    this.#offer(options);
    this.#width.value = String(width);
    this.#quality.value = String(quality);
    const rates = [...this.#fps.options].map(({ value }) => Number(value));
    this.#fps.value = String(rates.findLast((rate) => rate <= fps) ?? rates[0] ?? "");
  }

  /** Shows the options of the chosen action. @param {Record<string, unknown>} [values] */
  #offer(values = {}) {
    const { help = "", options = {} } = this.#actions[this.#action.value] ?? {};
    byId("frame-help").textContent = help.replaceAll("`", "");
    showOptions(byId("frame-options"), /** @type {any} */ (options));
    for (const input of byId("frame-options").querySelectorAll("input, select")) {
      const field = /** @type {HTMLInputElement} */ (input);
      if (field.name in values) field[field.type === "checkbox" ? "checked" : "value"] = /** @type {never} */ (values[field.name]);
    }
  }

  #tune() {
    const form = /** @type {HTMLFormElement} */ (byId("tune"));
    if (!this.monitor || !form.reportValidity()) return;
    this.monitor.settings = {
      fps: Number(this.#fps.value),
      width: Number(this.#width.value),
      quality: this.#quality.valueAsNumber,
      action: this.#action.value,
      options: readOptions(byId("frame-options")),
    };
    this.monitor.found = undefined;
    this.monitor.fit();
  }

  #toggle() {
    const watch = this.monitor?.watch;
    if (!watch) return;
    if (watch.isPaused || ["ended", "stopped", "failed"].includes(watch.state)) watch.play();
    else watch.pause();
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const { key, target, ctrlKey, altKey, metaKey } = event;
    const isHere = this.monitor && !byId("live-view").hidden && (target === document.body || byId("enlarged").contains(/** @type {Node} */ (target)));
    if (!isHere || ctrlKey || altKey || metaKey) return;
    if (key === "Escape") location.hash = "#live";
    else if (target instanceof HTMLInputElement || target instanceof HTMLSelectElement || target instanceof HTMLButtonElement) return;
    else if (key === " ") this.#toggle();
    else if (key === "ArrowLeft" || key === "ArrowRight") this.#skip(key === "ArrowLeft" ? -STEP : STEP);
    else return;
    event.preventDefault();
  }

  /** @param {number} seconds */
  #skip(seconds) {
    const watch = this.monitor?.watch;
    if (watch?.duration) watch.seek(Math.min(Math.max(watch.position + seconds, 0), watch.duration));
  }

  /** Takes a snapshot: one complete picture at the current position, to view and save. */
  async #shoot() {
    if (!this.monitor) return;
    const { name, kind, live, watch } = this.monitor;
    const button = /** @type {HTMLButtonElement} */ (byId("shoot"));
    button.disabled = true;
    try {
      const { jpeg, captured_at } = await live.snapshot(name, kind === "file" ? { position: watch.position } : { max_age: 1 });
      showSnapshot(jpeg, `${name}-${new Date(captured_at).toISOString().replace(/[:.]/g, "-")}.jpg`);
    } catch (error) {
      showDialog(() => {}, element("p", {}, `The snapshot failed: ${/** @type {Error} */ (error).message}`));
    }
    button.disabled = false;
  }

  draw() {
    const { monitor } = this;
    if (!monitor) return;
    const { watch, figures, found } = monitor;
    setText("enlarged-label", monitor.label);
    setText("enlarged-detail", monitor.detail);
    byId("enlarged-state").dataset.state = monitor.state;
    const isOver = ["ended", "stopped", "failed"].includes(watch.state);
    setText("play", watch.state === "failed" ? "Try again" : watch.state === "ended" ? "Replay" : isOver || watch.isPaused ? "Play" : "Pause");
    /** @type {HTMLButtonElement} */ (byId("stop")).disabled = watch.state === "stopped";
    byId("bar").hidden = byId("time").hidden = byId("speed-of").hidden = monitor.kind === "live";
    this.#drawBar(watch);
    setText("fps", figures.fps.toLocaleString(undefined, { maximumFractionDigits: 1 }));
    setText("delay", figures.delayed);
    setText("dropped", watch.dropped.toLocaleString());
    setText("size", figures.width ? `${figures.width} by ${figures.height}` : "–");
    setText("found-now", foundIn(found));
  }

  /** @param {import("../../client/watch.js").Watch} watch */
  #drawBar({ position, duration, factor }) {
    this.#bar.disabled = duration === null;
    this.#bar.max = String(duration ?? 1);
    if (!this.#isDragging) this.#bar.value = String(position);
    this.#bar.setAttribute("aria-valuetext", duration === null ? clock(position) : `${clock(position)} of ${clock(duration)}`);
    setText("time", duration === null ? clock(position) : `${clock(position)} / ${clock(duration)}`);
    this.#speed.value = String(factor);
  }
}

/**
 * Changes a text only when it differs, because screen readers read every change.
 * @param {string} id
 * @param {string} text
 */
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

/** @param {Record<string, any> | undefined} data */
function foundIn(data) {
  const words = Object.entries(data ?? {}).map(([name, items]) => {
    const texts = items.map((/** @type {any} */ item) => item.text).filter(Boolean);
    return texts.length ? `${name}: ${texts.join(", ")}` : `${name}: ${items.length}`;
  });
  return words.join("; ");
}

/** @param {Blob} jpeg @param {string} name */
function showSnapshot(jpeg, name) {
  const url = URL.createObjectURL(jpeg);
  const link = element("a", { href: url, download: name }, `Save ${name}`);
  showDialog(() => URL.revokeObjectURL(url), element("img", { src: url, alt: `Snapshot ${name}` }), element("p", {}, link));
}

/**
 * @param {() => void} closed
 * @param {HTMLElement[]} content Content of the dialog. A button that closes it is added to the last element.
 */
function showDialog(closed, ...content) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("shot"));
  content[content.length - 1].append(element("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close"));
  dialog.replaceChildren(...content);
  dialog.onclick = ({ target }) => {
    if (target === dialog) dialog.close();
  };
  dialog.onclose = () => {
    dialog.replaceChildren();
    closed();
  };
  dialog.showModal();
}
