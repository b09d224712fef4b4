// @ts-check
/**
 * The log of a job: a window of its lines, for logs of any length. It follows the end unless the user has scrolled up.
 * Scrolling adds lines on one side and removes them on the other.
 */

import { byId, element } from "../dom.js";

/** @typedef {import("../../client/job-history.js").JobHistory} JobHistory */
/** @typedef {import("../../client/job-history.js").Line} Line */

/** Maximum number of lines in the page, and how many are added when the user scrolls. */
const MOST = 600;
const STEP = 200;
/** Pixels from the end that count as the end, and from either end of the window at which it is moved. */
const AT_END = 24;
const NEAR = 300;
/** Targets in the list of choices. The others are found in the grid of targets. */
const CHOICES = 2000;

export class JobLog {
  /** @type {JobHistory | null} */
  #history = null;
  #revision = 0;
  /** The target whose lines are shown. Null: all lines. @type {string | null} */
  #only = null;
  /** @type {Line[]} Lines of the history that match the choice. */
  #lines = [];
  /** Number of lines of the history that were examined, and the range of #lines in the page. */
  #looked = 0;
  #from = 0;
  #to = 0;
  #top = 0;
  #isAtEnd = true;
  #choices = 0;
  #box = byId("job-log");
  #list = byId("job-lines");
  #select = /** @type {HTMLSelectElement} */ (byId("job-log-of"));
  #end = byId("job-log-end");

  constructor() {
    this.#box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#select.onchange = () => this.only(this.#select.value === "*" ? null : this.#select.value);
    this.#end.onclick = () => this.#toEnd();
    byId("job-log-save").onclick = () => this.#save();
    new ResizeObserver(() => this.#isAtEnd && this.#follow()).observe(this.#box);
  }

  /** @param {JobHistory} history */
  show(history) {
    if (history !== this.#history) {
      this.#only = null;
      this.#choices = 0;
      this.#select.replaceChildren(new Option("everything", "*"), new Option("the job itself", ""));
    }
    if (history !== this.#history || history.revision !== this.#revision) this.#begin(history);
    this.update();
  }

  /** Shows the lines of one target, or all lines. @param {string | null} target */
  only(target) {
    if (!this.#history || target === this.#only) return;
    this.#only = target;
    this.#begin(this.#history);
    this.update();
  }

  /** Adds new lines. */
  update() {
    const history = this.#history;
    if (!history) return;
    this.#offer(history);
    for (; this.#looked < history.lines.length; this.#looked += 1) {
      const line = history.lines[this.#looked];
      if (this.#only === null || line.target === this.#only) this.#lines.push(line);
    }
    const note = history.isComplete ? "" : "Earlier lines are no longer stored.";
    byId("job-log-note").textContent = history.lines.length ? note : history.end ? "The log is empty." : "The log is empty so far.";
    if (this.#isAtEnd) this.#follow();
    this.#tellNews();
  }

  /** @param {JobHistory} history */
  #begin(history) {
    this.#history = history;
    this.#revision = history.revision;
    this.#lines = [];
    this.#looked = this.#from = this.#to = 0;
    this.#isAtEnd = true;
    this.#list.replaceChildren();
  }

  /** Fills the list of targets. @param {JobHistory} history */
  #offer(history) {
    if (this.#choices < Math.min(history.targets.size, CHOICES)) {
      const names = [...history.targets.keys()].slice(this.#choices, CHOICES);
      this.#select.append(...names.map((name) => new Option(name, name)));
      this.#choices += names.length;
    }
    const value = this.#only ?? "*";
    if (![...this.#select.options].some((option) => option.value === value)) this.#select.append(new Option(value, value));
    this.#select.value = value;
  }

  /** Moves the window to the end. */
  #follow() {
    const end = this.#lines.length;
    if (end - this.#to > MOST) this.#replace(end - MOST, end);
    else {
      this.#append(end);
      this.#cutAbove(Math.max(this.#from, end - MOST));
    }
    this.#scroll(this.#box.scrollHeight);
  }

  #toEnd() {
    this.#isAtEnd = true;
    this.#follow();
    this.#tellNews();
    this.#box.focus();
  }

  /** @param {number} from @param {number} to */
  #replace(from, to) {
    this.#list.replaceChildren();
    this.#from = this.#to = from;
    this.#append(to);
  }

  /** @param {number} to */
  #append(to) {
    this.#list.append(...this.#lines.slice(this.#to, to).map((line) => this.#item(line)));
    this.#to = to;
  }

  /** @param {number} from */
  #cutAbove(from) {
    for (; this.#from < from; this.#from += 1) this.#list.firstElementChild?.remove();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#box;
    const below = scrollHeight - scrollTop - clientHeight;
    // A log that has grown was not scrolled away from its end by the user.
    const isNear = below < AT_END && this.#to === this.#lines.length;
    this.#isAtEnd = isNear || (this.#isAtEnd && scrollTop >= this.#top);
    this.#top = scrollTop;
    if (!this.#isAtEnd && scrollTop < NEAR && this.#from > 0) this.#up();
    else if (!this.#isAtEnd && below < NEAR && this.#to < this.#lines.length) this.#down();
    this.#tellNews();
  }

  /** Adds earlier lines, and keeps the visible ones in their place. */
  #up() {
    const from = Math.max(0, this.#from - STEP);
    const before = this.#box.scrollHeight;
    this.#list.prepend(...this.#lines.slice(from, this.#from).map((line) => this.#item(line)));
    this.#from = from;
    this.#scroll(this.#box.scrollTop + this.#box.scrollHeight - before);
    for (; this.#to - this.#from > MOST; this.#to -= 1) this.#list.lastElementChild?.remove();
  }

  /** Adds later lines. */
  #down() {
    this.#append(Math.min(this.#lines.length, this.#to + STEP));
    const before = this.#box.scrollHeight;
    this.#cutAbove(Math.max(this.#from, this.#to - MOST));
    this.#scroll(this.#box.scrollTop + this.#box.scrollHeight - before);
  }

  /** @param {number} top */
  #scroll(top) {
    this.#box.scrollTop = top;
    this.#top = this.#box.scrollTop;
  }

  #tellNews() {
    const below = this.#lines.length - this.#to;
    this.#end.hidden = this.#isAtEnd;
    const words = below ? `${below.toLocaleString()} more lines below` : "Go to the end";
    if (this.#end.textContent !== words) this.#end.textContent = words;
  }

  /** @param {Line} line */
  #item({ at, target, line, isNote }) {
    const item = element("li", { className: isNote ? "note" : "" });
    if (at) item.title = new Date(at).toLocaleString();
    if (target && this.#only === null) item.append(element("b", {}, target), " ");
    item.append(element("span", { dir: "auto" }, line));
    return item;
  }

  /** Saves all lines, or those of one target, as a file. */
  #save() {
    const lines = this.#lines.map(({ at, target, line, isNote }) => {
      const head = [at ? new Date(at).toISOString() : "", isNote ? "--" : target].filter(Boolean);
      return [...head, line].join(" ");
    });
    const url = URL.createObjectURL(new Blob([lines.map((line) => `${line}\n`).join("")], { type: "text/plain" }));
    element("a", { href: url, download: `${this.#history?.job}-${this.#history?.id}.log` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }
}
