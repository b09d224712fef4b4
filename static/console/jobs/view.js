// @ts-check
/** The Jobs view: the kinds of jobs and the list of jobs, and next to them the open form or job. */

import { arrange, byId, element } from "../dom.js";
import { JobForm } from "./form.js";
import { JobList } from "./list.js";
import { JobPage } from "./page.js";
import { Jobs } from "../../client/jobs.js";

/**
 * The open part of the view: the kind of job whose form is shown, or the id of the job that is shown.
 * @typedef {{kind: string, id: string}} Place
 */

export class JobsView {
  /** @type {Jobs | null} Created when the view is first shown. */
  jobs = null;
  /** @type {{list: JobList, form: JobForm, page: JobPage} | null} */
  #parts = null;
  #isShown = false;
  /** @type {Place} */
  #place = { kind: "", id: "" };
  /** Initial parameters of the form. @type {Record<string, unknown> | undefined} */
  #params;

  /**
   * @param {() => void} changed Called when the state of the connection changes.
   * @param {() => import("./form.js").Actions} actions
   */
  constructor(changed, actions) {
    this.changed = changed;
    this.actions = actions;
  }

  /** Whether dropped files are for a job. */
  get takesFiles() {
    return this.#isShown && Boolean(this.#parts?.form.takesFiles);
  }

  /** @param {File[]} files */
  attach(files) {
    this.#parts?.form.attach(files);
  }

  /** @param {Place} place */
  show(place) {
    const isOther = place.kind !== this.#place.kind || place.id !== this.#place.id;
    this.#isShown = true;
    this.#place = place;
    const parts = (this.#parts ??= this.#open());
    parts.page.show(place.id);
    parts.list.show(place.id);
    this.update();
    if (place.kind && isOther) byId("job-new-name").focus({ preventScroll: true });
    if (isOther) scrollTo({ top: 0 });
  }

  hide() {
    if (!this.#isShown) return;
    this.#isShown = false;
    this.#parts?.list.hide();
    document.body.classList.remove("at-job");
  }

  /** Draws the kinds of jobs from the server's greeting. */
  update() {
    const { jobs } = this;
    if (!this.#isShown || !jobs || !this.#parts) return;
    const { kind, id } = this.#place;
    const names = Object.keys(jobs.kinds);
    const lines = names.map((name) => this.#line(name));
    arrange(byId("job-kinds"), lines);
    byId("no-kinds").hidden = !jobs.hello || names.length > 0;
    document.body.classList.toggle("at-job", Boolean(kind || id));
    byId("no-job").hidden = Boolean(kind || id);
    byId("job-new").hidden = !kind;
    if (!kind) return;
    const known = jobs.hello ? this.#params : undefined;
    if (jobs.hello) this.#params = undefined;
    this.#parts.form.show(kind, known);
  }

  /** @param {string} name */
  #line(name) {
    const lines = /** @type {HTMLElement[]} */ ([...byId("job-kinds").children]);
    const line = lines.find((each) => each.dataset.kind === name) ?? element("li", {}, element("a", { href: `#jobs/new/${encodeURIComponent(name)}` }, name));
    line.dataset.kind = name;
    if (name === this.#place.kind) line.firstElementChild?.setAttribute("aria-current", "true");
    else line.firstElementChild?.removeAttribute("aria-current");
    return line;
  }

  #open() {
    // A token without the scope for jobs is refused on every attempt.
    const jobs = (this.jobs = new Jobs("/ws/jobs", { attempts: 2 }));
    const opened = (/** @type {string} */ id) => (location.hash = `#jobs/${id}`);
    const like = (/** @type {string} */ job, /** @type {Record<string, unknown>} */ params) => {
      this.#params = params;
      location.hash = `#jobs/new/${encodeURIComponent(job)}`;
    };
    const list = new JobList(jobs);
    const page = new JobPage(jobs, { opened, like });
    const form = new JobForm(jobs, this.actions, opened);
    jobs.addEventListener("state", () => {
      this.update();
      this.changed();
    });
    return { list, page, form };
  }
}

/** @param {string} hash @returns {Place | undefined} Undefined for another view. */
export function jobOf(hash) {
  if (hash === "#jobs") return { kind: "", id: "" };
  const [, kind, id] = /^#jobs\/(?:new\/(.+)|([0-9a-f]+))$/.exec(hash) ?? [];
  if (id) return { kind: "", id };
  if (!kind) return hash.startsWith("#jobs/") ? { kind: "", id: "" } : undefined;
  try {
    return { kind: decodeURIComponent(kind), id: "" };
  } catch {
    return { kind: "", id: "" };
  }
}
