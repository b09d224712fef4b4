// @ts-check
/**
 * The Live view: all sources side by side, and one of them enlarged after a click. Only visible sources are watched.
 */

import { arrange, byId, element, soon } from "../dom.js";
import { Live } from "../../client/live.js";
import { Monitor } from "./monitor.js";
import { Player } from "./player.js";

/** @typedef {{monitor: Monitor, tile: HTMLLIElement, slot: HTMLElement, state: HTMLElement, figures: HTMLElement, line: HTMLLIElement}} Place */

/**
 * Milliseconds between two updates of the figures, and between two requests for the states of sources that are not
 * watched.
 */
const DRAWN = 250;
const ASKED = 10_000;

export class SourceGrid {
  /** @type {Live | null} Created when the view is first shown. */
  live = null;
  player = new Player();
  /** @type {Map<string, Place>} */
  #places = new Map();
  #isShown = false;
  #wanted = "";
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #drawing;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #asking;
  #draw = soon(() => this.#drawAll());
  #admit = soon(() => this.#admitAll());
  #fit = soon(() => this.#places.forEach(({ monitor }) => monitor.fit()));
  #sight = new IntersectionObserver((entries) => this.#look(entries), { threshold: 0.01 });
  #size = new ResizeObserver(() => this.#fit());

  /** @param {() => void} changed Called when the state of the connection changes. */
  constructor(changed) {
    this.changed = changed;
    document.addEventListener("visibilitychange", () => this.#admitAll());
    byId("pause-all").onclick = () => this.#pauseAll();
  }

  /** Shows all sources, or one enlarged. @param {string} name */
  show(name) {
    this.#isShown = true;
    if (!this.live) this.#connect();
    clearInterval(this.#drawing);
    clearInterval(this.#asking);
    this.#drawing = setInterval(() => this.#drawAll(), DRAWN);
    this.#asking = setInterval(() => this.live?.ask(), ASKED);
    this.live?.ask();
    this.#enlarge(name);
    this.#drawAll();
  }

  hide() {
    if (!this.#isShown) return;
    this.#isShown = false;
    clearInterval(this.#drawing);
    clearInterval(this.#asking);
    this.#admitAll();
  }

  #connect() {
    // A token without the scope for video is refused on every attempt.
    const live = (this.live = new Live("/ws/video", { attempts: 2 }));
    live.addEventListener("state", () => {
      if (live.state === "open" && live.hello) this.player.greet(live.hello);
      this.#admit();
      this.#draw();
      this.changed();
    });
    live.addEventListener("sources", () => this.#list());
  }

  #list() {
    const { live } = this;
    if (!live) return;
    const names = new Set(live.sources.map(({ name }) => name));
    for (const [name, { monitor }] of this.#places) {
      if (names.has(name)) continue;
      this.#sight.unobserve(monitor.picture);
      this.#size.unobserve(monitor.picture);
      monitor.close();
      this.#places.delete(name);
    }
    for (const source of live.sources) if (!this.#places.has(source.name)) this.#places.set(source.name, this.#place(live, source));
    const places = live.sources.map(({ name }) => /** @type {Place} */ (this.#places.get(name)));
    arrange(byId("tiles"), places.map(({ tile }) => tile));
    arrange(byId("source-list"), places.map(({ line }) => line));
    byId("no-sources").hidden = places.length > 0;
    byId("sources-of").hidden = !places.length;
    this.#enlarge(this.#wanted);
    this.#drawAll();
  }

  /** @param {Live} live @param {import("../../client/live.js").Source} source @returns {Place} */
  #place(live, source) {
    const monitor = new Monitor(live, source);
    const href = `#live/${encodeURIComponent(source.name)}`;
    const slot = element("a", { href, className: "slot" }, monitor.picture);
    slot.setAttribute("aria-label", `Enlarge ${source.name}`);
    const state = element("span", { className: "state" });
    const figures = element("p", { className: "quiet" });
    const tile = element("li", {}, slot, element("p", {}, element("bdi", {}, source.name), state), figures);
    const line = element("li", {}, element("a", { href }, element("bdi", {}, source.name), element("span", { className: "state" })));
    monitor.watch.addEventListener("change", this.#draw);
    this.#sight.observe(monitor.picture);
    this.#size.observe(monitor.picture);
    return { monitor, tile, slot, state, figures, line };
  }

  /** Moves the picture of this source into the player, and the previous one back to its tile. @param {string} name */
  #enlarge(name) {
    this.#wanted = name;
    const before = this.player.monitor;
    const place = this.#places.get(name);
    const monitor = place?.monitor ?? null;
    byId("tiles").hidden = monitor !== null;
    document.body.classList.toggle("enlarged", monitor !== null);
    if (before !== monitor) {
      if (before) this.#putBack(before);
      if (monitor) monitor.isLarge = true;
      this.player.show(monitor);
      if (monitor) byId("enlarged-name").focus();
      for (const each of [before, monitor]) each?.fit();
    }
    for (const [each, { line }] of this.#places) {
      if (each === name) line.firstElementChild?.setAttribute("aria-current", "true");
      else line.firstElementChild?.removeAttribute("aria-current");
    }
  }

  /** @param {Monitor} monitor */
  #putBack(monitor) {
    monitor.isLarge = false;
    const place = this.#places.get(monitor.name);
    if (place?.monitor !== monitor) return;
    place.slot.append(monitor.picture);
    if (this.#isShown && !byId("tiles").hidden) place.slot.focus();
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #look(entries) {
    const monitors = [...this.#places.values()].map(({ monitor }) => monitor);
    for (const { target, isIntersecting } of entries) {
      const monitor = monitors.find(({ picture }) => picture === target);
      if (monitor) monitor.isVisible = isIntersecting;
    }
    this.#admitAll();
  }

  /**
   * Watches the visible sources, as many as the server allows per socket. Sources that were visible a moment ago give
   * up their place.
   */
  #admitAll() {
    const most = this.live?.hello?.limits.video_watches ?? 0;
    const isSeen = this.#isShown && !document.hidden;
    const monitors = [...this.#places.values()].map(({ monitor }) => monitor);
    const seen = monitors.filter(({ isVisible }) => isSeen && isVisible);
    const admitted = new Set(seen.slice(0, most));
    for (const monitor of monitors) {
      monitor.isLeftOut = !admitted.has(monitor) && seen.includes(monitor);
      if (!admitted.has(monitor)) monitor.watch.hold(true);
    }
    const held = monitors.filter(({ watch }) => watch.isHeld && watch.isOpen);
    for (const { watch } of held.slice(0, Math.max(0, held.length + admitted.size - most))) watch.release();
    for (const monitor of admitted) {
      if (monitor.watch.isHeld) monitor.fit();
      monitor.watch.hold(false);
    }
    this.#draw();
  }

  #pauseAll() {
    const watches = [...this.#places.values()].map(({ monitor }) => monitor.watch);
    const isPausing = watches.some(({ isPaused }) => !isPaused);
    for (const watch of watches) {
      if (isPausing) watch.pause();
      else if (["ended", "stopped", "failed"].includes(watch.state)) watch.isPaused = false; // `play` would start the recording again
      else watch.play();
    }
    this.#drawAll();
  }

  #drawAll() {
    if (!this.#isShown) return;
    const states = new Map(this.live?.sources.map(({ name, state }) => [name, state]));
    for (const [name, { monitor, state, figures, line }] of this.#places) {
      monitor.draw();
      const label = monitor.isVisible || !states.has(name) ? monitor.label : this.#elsewhere(monitor, states.get(name));
      for (const each of [state, /** @type {HTMLElement} */ (line.querySelector(".state"))]) {
        if (each.textContent !== label) each.textContent = label;
        each.dataset.state = monitor.isVisible || label === "failed" ? monitor.state : "";
      }
      const { fps, delayed } = monitor.figures;
      const counted = `${fps.toLocaleString(undefined, { maximumFractionDigits: 1 })} frames/s · delay ${delayed} · ${monitor.watch.dropped.toLocaleString()} dropped`;
      if (figures.textContent !== counted) figures.textContent = counted;
    }
    this.player.draw();
    const watches = [...this.#places.values()].map(({ monitor }) => monitor.watch);
    byId("pause-all").textContent = watches.length && watches.every(({ isPaused }) => isPaused) ? "Play all" : "Pause all";
  }

  /**
   * State of a source that is not visible, as the server reports it when others watch it.
   * @param {Monitor} monitor
   * @param {string | undefined} state
   */
  #elsewhere({ watch, kind }, state = "") {
    if (["ended", "stopped", "failed"].includes(watch.state)) return watch.state;
    return kind === "live" && state !== "idle" ? state : "not on screen";
  }
}

/**
 * @param {string} hash
 * @returns {string | undefined} The source. Empty for all sources, undefined for another view.
 */
export function sourceOf(hash) {
  const name = /^#live\/(.+)$/.exec(hash)?.[1];
  if (!name) return hash === "#live" ? "" : undefined;
  try {
    return decodeURIComponent(name);
  } catch {
    return "";
  }
}
