// @ts-check
/**
 * The targets of a job as a grid of cells, with the state of each as colour and word. A click shows the details of a
 * target.
 */

import { arrange, byId, element } from "../dom.js";
import { FINAL } from "../../client/job-history.js";

/** @typedef {import("../../client/job-history.js").JobHistory} JobHistory */
/** @typedef {import("../../client/job-history.js").Target} Target */

/** Maximum number of cells in the page. Other targets are found by state or by name. */
const MOST = 1000;
/** Order of the states in the list. Other states are listed before these. */
const ORDER = ["failed", "unreachable", "cancelled", "not_started", "changed", "ok", "skipped"];
const AS_PEOPLE_DO = new Intl.Collator(undefined, { numeric: true });

export class JobTargets {
  /** @type {JobHistory | null} */
  #history = null;
  #revision = 0;
  /** @type {Map<string, HTMLButtonElement>} */
  #cells = new Map();
  /** @type {string | null} State of the targets that are shown. Null: any. */
  #state = null;
  #chosen = "";
  /** All names in natural order, because events arrive in any order. @type {string[]} */
  #names = [];
  /** The target when its details were drawn. @type {Target | undefined} */
  #shown;
  #list = byId("targets");
  #find = /** @type {HTMLInputElement} */ (byId("targets-find"));

  /** @param {(name: string | null) => void} chosen Called with the chosen target, or null. */
  constructor(chosen) {
    this.chosen = chosen;
    this.#find.oninput = () => this.#draw();
    this.#list.onclick = ({ target }) => {
      const cell = /** @type {Element} */ (target).closest("button");
      if (cell) this.#choose(cell.value === this.#chosen ? "" : cell.value);
    };
    this.#list.onkeydown = (event) => this.#moved(event);
    byId("target-close").onclick = () => {
      this.#cells.get(this.#chosen)?.focus();
      this.#choose("");
    };
  }

  /** @param {JobHistory} history */
  show(history) {
    if (history !== this.#history || history.revision !== this.#revision) {
      if (history !== this.#history) {
        this.#state = null;
        this.#find.value = "";
        this.#chosen = "";
      }
      this.#history = history;
      this.#revision = history.revision;
      this.#cells.clear();
      this.#names = [];
      for (const name of history.targets.keys()) history.changedTargets.add(name);
    }
    byId("job-targets").hidden = !history.targets.size;
    if (history.changedTargets.size) this.#draw();
    this.#describe();
  }

  #draw() {
    const history = this.#history;
    if (!history) return;
    for (const name of history.changedTargets) this.#update(history, name);
    history.changedTargets.clear();
    this.#legend(history);
    const sought = this.#find.value.trim().toLowerCase();
    if (this.#names.length !== history.targets.size) this.#names = [...history.targets.keys()].sort(AS_PEOPLE_DO.compare);
    const names = this.#names.filter((name) => this.#isWanted(history, name, sought));
    arrange(this.#list, names.slice(0, MOST).map((name) => /** @type {HTMLElement} */ (this.#cell(history, name).parentElement)));
    const more = names.length - MOST;
    const few = names.length ? "" : "No target has this state and name.";
    byId("targets-more").textContent = more > 0 ? `${more.toLocaleString()} more are not shown. Find them by state or name.` : few;
    this.#find.parentElement?.toggleAttribute("hidden", history.targets.size < 12);
    this.#rove();
  }

  /** @param {JobHistory} history @param {string} name @param {string} sought */
  #isWanted(history, name, sought) {
    return (this.#state === null || stateOf(history, name) === this.#state) && (!sought || name.toLowerCase().includes(sought));
  }

  /** @param {JobHistory} history @param {string} name */
  #cell(history, name) {
    let cell = this.#cells.get(name);
    if (!cell) {
      cell = element("button", { type: "button", value: name, tabIndex: -1 }, element("bdi", {}, name), element("small"));
      cell.setAttribute("aria-pressed", "false");
      element("li", {}, cell);
      this.#cells.set(name, cell);
      this.#update(history, name);
    }
    return cell;
  }

  /** @param {JobHistory} history @param {string} name */
  #update(history, name) {
    const cell = this.#cells.get(name);
    if (!cell) return;
    const state = stateOf(history, name);
    cell.dataset.state = state;
    cell.title = name;
    if (cell.lastElementChild) cell.lastElementChild.textContent = wordOf(state);
    cell.setAttribute("aria-pressed", String(name === this.#chosen));
  }

  /**
   * The number of targets in each state. A click on a number shows only the targets in that state.
   * @param {JobHistory} history
   */
  #legend(history) {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const [state, count] of history.counts) {
      const shown = history.end && !FINAL.has(state) ? "unknown" : state;
      counts.set(shown, (counts.get(shown) ?? 0) + count);
    }
    if (this.#state !== null && !counts.has(this.#state)) this.#state = null;
    const states = [...counts.keys()].sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
    const list = byId("targets-states");
    const buttons = new Map([...list.querySelectorAll("button")].map((button) => [button.value, button]));
    const items = ["", ...states].map((state) => {
      const button = buttons.get(state) ?? element("button", { type: "button", value: state });
      const count = state ? (counts.get(state) ?? 0) : history.targets.size;
      button.textContent = `${count.toLocaleString()} ${state ? wordOf(state) : "in all"}`;
      button.dataset.state = state;
      button.setAttribute("aria-pressed", String(state === (this.#state ?? "")));
      button.onclick = () => {
        this.#state = state || null;
        this.#draw();
      };
      return button.parentElement ?? element("li", {}, button);
    });
    arrange(list, items);
  }

  /** @param {string} name Empty: none. */
  #choose(name) {
    const before = this.#chosen;
    this.#chosen = name;
    for (const each of [before, name]) if (this.#history && each) this.#update(this.#history, each);
    this.#describe();
    this.chosen(name || null);
    if (name) byId("target").scrollIntoView({ block: "nearest" });
  }

  /** Draws the details of the chosen target. */
  #describe() {
    const history = this.#history;
    const target = history?.targets.get(this.#chosen);
    byId("target").hidden = !target;
    if (!history || !target || (target === this.#shown && !history.end)) return;
    this.#shown = target;
    const { state, name, output, steps, ...more } = target;
    const shown = stateOf(history, this.#chosen);
    byId("target-name").textContent = this.#chosen;
    byId("target-state").textContent = shown === "unknown" ? `unknown: it was ${wordOf(state)} when the job ended` : wordOf(state);
    byId("target-state").dataset.state = shown;
    const facts = Object.entries(more).map(([key, value]) => {
      const text = typeof value === "object" ? JSON.stringify(value) : String(value);
      return element("div", {}, element("dt", {}, wordOf(key)), element("dd", { dir: "auto" }, text));
    });
    byId("target-facts").replaceChildren(...facts);
    byId("target-steps").replaceChildren(...(Array.isArray(steps) ? steps : []).map(stepOf));
    byId("target-output").textContent = typeof output === "string" ? output : "";
    byId("target-output").hidden = !output;
    byId("target-brief").hidden = !history.isBrief;
  }

  /** The grid has one tab stop. The arrow keys move inside of it. */
  #rove() {
    const cells = /** @type {HTMLButtonElement[]} */ ([...this.#list.querySelectorAll("button")]);
    const current = cells.find((cell) => cell === document.activeElement) ?? cells.find((cell) => cell.tabIndex === 0) ?? cells[0];
    for (const cell of cells) cell.tabIndex = cell === current ? 0 : -1;
  }

  /** @param {KeyboardEvent} event */
  #moved(event) {
    const cells = /** @type {HTMLButtonElement[]} */ ([...this.#list.querySelectorAll("button")]);
    const at = cells.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    const top = cells[0]?.offsetTop;
    const columns = Math.max(1, cells.findIndex(({ offsetTop }) => offsetTop !== top));
    /** @type {Record<string, number>} */
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: cells.length - 1 - at };
    const next = cells[at + (steps[event.key] ?? 0)];
    if (at < 0 || !(event.key in steps) || !next) return;
    event.preventDefault();
    next.focus();
    this.#rove();
  }
}

/**
 * The current state of a target. It is unknown for a target that had not ended when the job ended.
 * @param {JobHistory} history
 * @param {string} name
 */
function stateOf(history, name) {
  const state = history.targets.get(name)?.state ?? "";
  return history.end && !FINAL.has(state) ? "unknown" : state;
}

/** @param {string} name */
export const wordOf = (name) => name.replaceAll("_", " ");

/** @param {any} step */
function stepOf(step) {
  const { step: name, state = "", ...more } = Object(step);
  const rest = Object.entries(more).map(([key, value]) => `${wordOf(key)} ${value}`);
  const item = element("li", {}, `${name}: `, element("span", { className: "state" }, wordOf(String(state))), rest.length ? ` (${rest.join(", ")})` : "");
  /** @type {HTMLElement} */ (item.children[0]).dataset.state = state;
  return item;
}
