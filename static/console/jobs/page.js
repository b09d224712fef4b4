// @ts-check
/** One job: how far it is, what it asks, what came of it, its targets and its log; and what one can do about it. */

import { byId, element, soon } from "../dom.js";
import { showEnd, showRetries } from "./end.js";
import { JobGrid, wordOf } from "./targets.js";
import { JobLog } from "./log.js";

/** @typedef {import("../../client/jobs.js").Jobs} Jobs */
/** @typedef {import("../../client/job-history.js").Story} Story */
/** @typedef {{opened: (id: string) => void, like: (job: string, params: Record<string, unknown>) => void}} Ways */

export class JobPage {
  /** @type {Story | null} */
  #story = null;
  /** What is drawn of it once, and again only when it is another. */
  #approval = "";
  #ended = "";
  #isCancelling = false;
  #log = new JobLog();
  #grid = new JobGrid((name) => this.#log.only(name));
  #cancel = /** @type {HTMLButtonElement} */ (byId("job-cancel"));
  #sure = /** @type {HTMLDialogElement} */ (byId("job-sure"));
  update = soon(() => this.#draw());

  /** @param {Jobs} jobs @param {Ways} ways Where one may go from here. */
  constructor(jobs, ways) {
    this.jobs = jobs;
    this.ways = ways;
    this.#cancel.onclick = () => this.#sure.showModal();
    this.#sure.onclose = () => this.#sure.returnValue === "cancel" && this.#doCancel();
    const form = /** @type {HTMLFormElement} */ (byId("job-approval"));
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#answer(/** @type {HTMLButtonElement | null} */ (event.submitter)?.value === "yes");
    };
    byId("job-like").onclick = () => this.#story && ways.like(this.#story.job, this.#story.params);
    jobs.addEventListener("job", (event) => /** @type {CustomEvent} */ (event).detail === this.#story && this.update());
    jobs.addEventListener("state", () => this.update());
  }

  /** Watches that job; an empty id: none. @param {string} id */
  show(id) {
    if (id === (this.#story?.id ?? "")) return;
    if (this.#story) this.jobs.unwatch(this.#story.id);
    this.#story = id ? this.jobs.watch(id) : null;
    this.#approval = this.#ended = "";
    this.#isCancelling = false;
    this.#sure.close("");
    this.#tell("");
    if (id) byId("job-name").focus({ preventScroll: true });
    this.#draw();
  }

  #draw() {
    const story = this.#story;
    byId("job").hidden = !story;
    if (!story) return;
    const isKnown = story.job !== "";
    byId("job-known").hidden = !isKnown;
    byId("job-name").textContent = story.job || "Job";
    byId("job-missing").hidden = isKnown;
    byId("job-missing").textContent = story.error && !story.error.isTemporary ? story.error.message : "Loading …";
    byId("job-state").hidden = this.#cancel.hidden = !isKnown;
    if (!isKnown) return;
    byId("job-state").textContent = story.approval ? "waits for an answer" : story.state;
    byId("job-state").dataset.state = story.approval ? "asking" : story.state;
    this.#cancel.hidden = story.end !== null;
    this.#cancel.disabled = this.#isCancelling || story.state === "cancelling" || this.jobs.state !== "open";
    this.#facts(story);
    this.#progress(story);
    this.#ask(story);
    this.#finish(story);
    this.#grid.show(story);
    this.#log.show(story);
  }

  /** @param {Story} story */
  #facts(story) {
    const { user, at, ended_at, retryOf, onlyCount, params } = story;
    const parts = [`Started by ${user}, ${new Date(at).toLocaleString()}`];
    if (ended_at) parts.push(`took ${durationOf((ended_at - at) / 1000)}`);
    if (onlyCount) parts.push(`over ${onlyCount.toLocaleString()} of the targets`);
    const again = retryOf ? [" · ", element("a", { href: `#jobs/${retryOf}` }, "a retry of this one")] : [];
    const text = parts.join(" · ");
    const facts = byId("job-facts");
    if (facts.textContent !== text + (retryOf ? " · a retry of this one" : "")) facts.replaceChildren(text, ...again);
    const given = JSON.stringify(params, null, 2);
    byId("job-params").hidden = given === "{}";
    const place = /** @type {HTMLElement} */ (byId("job-params").querySelector("pre"));
    if (place.textContent !== given) place.textContent = given;
  }

  /** @param {Story} story */
  #progress(story) {
    const { done = 0, failed = 0, total, eta_s } = story.progress;
    const { stage: name, end } = story;
    const stage = !name || story.state === "succeeded" ? "" : end ? `Its last stage: ${name}` : name;
    // Only when it is another: whoever listens to it hears it once.
    if (byId("job-stage").textContent !== stage) byId("job-stage").textContent = stage;
    const bar = /** @type {HTMLProgressElement} */ (byId("job-bar"));
    const isCounted = story.progress.done !== undefined;
    bar.hidden = !isCounted && story.end !== null;
    if (total) {
      bar.max = total;
      bar.value = done;
    } else if (story.end) Object.assign(bar, { max: 1, value: story.state === "succeeded" ? 1 : 0 });
    else bar.removeAttribute("value");
    const of = total === null || total === undefined ? "" : ` of ${total.toLocaleString()}`;
    const parts = isCounted ? [`${done.toLocaleString()}${of} done${failed ? `, ${failed.toLocaleString()} of them failed` : ""}`] : [];
    if (!story.end && !story.approval && eta_s) parts.push(`about ${durationOf(eta_s)} left`);
    byId("job-count").textContent = parts.join(" · ");
    if (story.state === "cancelling") this.#tell(cancelled(story));
  }

  /** @param {Story} story */
  #ask(story) {
    const form = byId("job-approval");
    const { approval } = story;
    form.hidden = !approval;
    for (const button of form.querySelectorAll("button")) button.disabled = this.jobs.state !== "open";
    if (!approval || approval.approval === this.#approval) return;
    this.#approval = approval.approval;
    const { approval: id, question, ...more } = approval;
    byId("job-question").textContent = question;
    const rows = Object.entries(more).map(([name, value]) => {
      const text = Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
      return element("div", {}, element("dt", {}, wordOf(name)), element("dd", { dir: "auto" }, text));
    });
    byId("job-asked").replaceChildren(...rows);
    /** @type {HTMLInputElement} */ (byId("job-answer")).value = "";
  }

  /** @param {Story} story */
  #finish(story) {
    const key = story.end ? `${story.id} ${story.edition}` : "";
    byId("job-end").hidden = byId("job-after").hidden = !story.end;
    if (!story.end || key === this.#ended) return;
    this.#ended = key;
    this.#tell("");
    showEnd(story);
    showRetries(story, (only) => this.#try(async () => this.ways.opened((await this.jobs.retry(story.id, only)).id)));
    byId("job-like").hidden = !(story.job in this.jobs.kinds);
  }

  /** @param {boolean} ok */
  #answer(ok) {
    const { id, approval } = this.#story ?? {};
    const text = /** @type {HTMLInputElement} */ (byId("job-answer")).value.trim();
    if (id && approval) this.#try(() => this.jobs.answer(id, approval.approval, ok, text));
  }

  #doCancel() {
    const story = this.#story;
    if (!story) return;
    this.#isCancelling = true;
    this.#tell("Cancelling …");
    this.#try(() => this.jobs.cancel(story.id)).then(() => {
      if (story === this.#story) this.#isCancelling = false;
      this.update();
    });
  }

  /** What is refused is told, on the page that it was asked on. @param {() => Promise<unknown>} work */
  async #try(work) {
    const story = this.#story;
    try {
      await work();
    } catch (error) {
      if (story === this.#story) this.#tell(/** @type {Error} */ (error).message, true);
    }
  }

  /** @param {string} text */
  #tell(text, isBad = false) {
    const place = byId("job-told");
    if (place.textContent !== text) place.textContent = text;
    place.classList.toggle("fault", isBad);
    place.hidden = !text;
  }
}

/** @param {Story} story */
function cancelled({ cancelling }) {
  const by = cancelling ? (cancelling.by === null ? "the server is stopping" : `cancelled by ${cancelling.by}`) : "cancelled";
  return `Cancelling (${by}): the job has some time to clear away; then it is ended.`;
}

/** @param {number} seconds */
export function durationOf(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : seconds < 10 ? `${Math.max(0, seconds).toFixed(1)} s` : `${whole} s`;
}
