// @ts-check
/** The list of jobs, newest first: those of this user, or of all users. Older ones are loaded in pages. */

import { arrange, byId, element, soon } from "../dom.js";
import { wordOf } from "./targets.js";

/** @typedef {import("../../client/jobs.js").Jobs} Jobs */
/** @typedef {import("../../client/jobs.js").Summary} Summary */
/** @typedef {import("../../client/jobs.js").ListFilter} ListFilter */

const PAGE = 30;
/** Milliseconds between two updates of jobs that are not watched, while the list is shown. */
const ASKED = 10_000;
const TIME = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

export class JobList {
  /** @type {Map<string, Summary>} */
  #jobs = new Map();
  /** @type {Map<string, HTMLLIElement>} */
  #lines = new Map();
  /** Start of the next page of older jobs. Null when there is none. @type {string | null} */
  #before = null;
  /**
   * Whether a page was received, and whether later pages were requested. Then the first page no longer sets where to
   * continue.
   */
  #isLoaded = false;
  #hasMore = false;
  #open = "";
  /** Incremented when the filter changes. Answers to earlier requests are ignored. */
  #turn = 0;
  #why = "";
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #asking;
  #filter = /** @type {HTMLSelectElement} */ (byId("jobs-filter"));
  #state = /** @type {HTMLSelectElement} */ (byId("jobs-state"));
  #older = /** @type {HTMLButtonElement} */ (byId("jobs-older"));
  #draw = soon(() => this.#show());

  /** @param {Jobs} jobs */
  constructor(jobs) {
    this.jobs = jobs;
    this.#filter.onchange = this.#state.onchange = () => this.#restart();
    this.#older.onclick = () => this.#next();
    jobs.addEventListener("state", () => {
      if (jobs.state === "open") this.refresh();
      this.#draw();
    });
    jobs.addEventListener("job", (event) => this.#onJob(/** @type {CustomEvent} */ (event).detail));
  }

  /** @param {string} open The id of the job that is shown next to the list. */
  show(open) {
    this.#open = open;
    clearInterval(this.#asking);
    this.#asking = setInterval(() => this.jobs.state === "open" && !document.hidden && this.refresh(), ASKED);
    this.refresh();
    this.#draw();
  }

  hide() {
    clearInterval(this.#asking);
  }

  /** Requests the newest jobs. */
  refresh() {
    if (this.jobs.state === "open") this.#ask({});
  }

  #restart() {
    this.#turn += 1;
    this.#jobs.clear();
    this.#before = null;
    this.#isLoaded = this.#hasMore = false;
    this.refresh();
    this.#draw();
  }

  #next() {
    if (!this.#before) return;
    this.#hasMore = true;
    this.#older.disabled = true;
    this.#ask({ before: this.#before });
  }

  /** @param {ListFilter} page */
  async #ask(page) {
    const turn = this.#turn;
    const state = /** @type {ListFilter["state"]} */ (this.#state.value || undefined);
    const filter = /** @type {ListFilter["filter"]} */ (this.#filter.value);
    try {
      const { jobs, before } = await this.jobs.list({ filter, limit: PAGE, ...(state && { state }), ...page });
      if (turn !== this.#turn) return;
      if (!page.before) this.#drop(before);
      for (const job of jobs) this.#jobs.set(job.id, job);
      if (page.before || !this.#hasMore) this.#before = before;
      this.#isLoaded = true;
      this.#why = "";
    } catch (error) {
      if (turn === this.#turn) this.#why = /** @type {Error} */ (error).message;
    }
    this.#draw();
  }

  /**
   * Removes jobs that the first page covers but does not contain: they have another state now, or are deleted.
   * @param {string | null} before
   */
  #drop(before) {
    for (const id of this.#jobs.keys()) if (before === null || id >= before) this.#jobs.delete(id);
  }

  /** A watched job is updated by its events. @param {import("../../client/job-history.js").JobHistory} history */
  #onJob(history) {
    const known = this.#jobs.get(history.id);
    if (!known) return;
    const { state, progress, stage } = history;
    const isNews = known.state !== state || known.waits_for_approval !== (history.approval !== null);
    Object.assign(known, { state, progress, stage, ended_at: history.ended_at || null, waits_for_approval: history.approval !== null });
    if (isNews && this.#state.value) this.refresh();
    this.#draw();
  }

  #show() {
    byId("jobs-whose").hidden = !this.jobs.isAdmin;
    const jobs = [...this.#jobs.values()].sort((one, other) => (one.id < other.id ? 1 : -1));
    arrange(byId("job-list"), jobs.map((job) => this.#line(job)));
    for (const id of this.#lines.keys()) if (!this.#jobs.has(id)) this.#lines.delete(id);
    this.#older.hidden = !this.#before;
    this.#older.disabled = this.jobs.state !== "open";
    const none = this.#state.value ? `No job is ${this.#state.value}.` : "None yet.";
    const words = this.#why || (!this.#isLoaded ? "Loading …" : jobs.length ? "" : this.#before ? "None among the newest jobs. Load older ones." : none);
    byId("jobs-none").textContent = words;
    byId("jobs-none").hidden = !words;
  }

  /** @param {Summary} job */
  #line(job) {
    let line = this.#lines.get(job.id);
    if (!line) {
      const link = element("a", { href: `#jobs/${job.id}` }, element("b"), element("span", { className: "state" }), element("small", { className: "quiet" }));
      this.#lines.set(job.id, (line = element("li", {}, link)));
    }
    const link = /** @type {HTMLAnchorElement} */ (line.firstElementChild);
    const [name, state, more] = /** @type {HTMLElement[]} */ ([...link.children]);
    const shown = job.waits_for_approval ? "asking" : job.state;
    const parts = [TIME.format(job.at), this.#filter.value === "all" ? job.user : "", countOf(job)].filter(Boolean);
    const texts = [job.job, job.waits_for_approval ? "waits for an answer" : wordOf(job.state), parts.join(" · ")];
    [name, state, more].forEach((each, index) => each.textContent !== texts[index] && (each.textContent = texts[index]));
    state.dataset.state = shown;
    if (job.id === this.#open) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    return line;
  }
}

/** @param {Summary} job */
function countOf({ progress: { done, failed, total } }) {
  if (done === undefined) return "";
  const of = total ? ` of ${total.toLocaleString()}` : " done";
  return `${done.toLocaleString()}${of}${failed ? `, ${failed.toLocaleString()} failed` : ""}`;
}
