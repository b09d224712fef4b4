// @ts-check
/** The page of one job: progress, question, result, targets and log, with the buttons to cancel, answer and retry. */

import { byId, element, soon } from "../dom.js";
import { showEnd, showRetries } from "./end.js";
import { JobTargets, wordOf } from "./targets.js";
import { JobLog } from "./log.js";

/** @typedef {import("../../client/jobs.js").Jobs} Jobs */
/** @typedef {import("../../client/job-history.js").JobHistory} JobHistory */
/** @typedef {{opened: (id: string) => void, like: (job: string, params: Record<string, unknown>) => void}} Actions */

export class JobPage {
  /** @type {JobHistory | null} */
  #history = null;
  /** Parts that are drawn once, and again only for another job. */
  #approval = "";
  #ended = "";
  #isCancelling = false;
  #log = new JobLog();
  #targets = new JobTargets((name) => this.#log.only(name));
  #cancel = /** @type {HTMLButtonElement} */ (byId("job-cancel"));
  #sure = /** @type {HTMLDialogElement} */ (byId("job-sure"));
  update = soon(() => this.#draw());

  /** @param {Jobs} jobs @param {Actions} actions Called to open another job or form. */
  constructor(jobs, actions) {
    this.jobs = jobs;
    this.actions = actions;
    this.#cancel.onclick = () => this.#sure.showModal();
    this.#sure.onclose = () => this.#sure.returnValue === "cancel" && this.#doCancel();
    const form = /** @type {HTMLFormElement} */ (byId("job-approval"));
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#answer(/** @type {HTMLButtonElement | null} */ (event.submitter)?.value === "yes");
    };
    byId("job-like").onclick = () => this.#history && actions.like(this.#history.job, this.#history.params);
    jobs.addEventListener("job", (event) => /** @type {CustomEvent} */ (event).detail === this.#history && this.update());
    jobs.addEventListener("state", () => this.update());
  }

  /** Watches the job with this id. An empty id watches none. @param {string} id */
  show(id) {
    if (id === (this.#history?.id ?? "")) return;
    if (this.#history) this.jobs.unwatch(this.#history.id);
    this.#history = id ? this.jobs.watch(id) : null;
    this.#approval = this.#ended = "";
    this.#isCancelling = false;
    this.#sure.close("");
    this.#tell("");
    if (id) byId("job-name").focus({ preventScroll: true });
    this.#draw();
  }

  #draw() {
    const history = this.#history;
    byId("job").hidden = !history;
    if (!history) return;
    const isKnown = history.job !== "";
    byId("job-known").hidden = !isKnown;
    byId("job-name").textContent = history.job || "Job";
    byId("job-missing").hidden = isKnown;
    byId("job-missing").textContent = history.error && !history.error.isTemporary ? history.error.message : "Loading …";
    byId("job-state").hidden = this.#cancel.hidden = !isKnown;
    if (!isKnown) return;
    byId("job-state").textContent = history.approval ? "waits for an answer" : history.state;
    byId("job-state").dataset.state = history.approval ? "asking" : history.state;
    this.#cancel.hidden = history.end !== null;
    this.#cancel.disabled = this.#isCancelling || history.state === "cancelling" || this.jobs.state !== "open";
    this.#facts(history);
    this.#progress(history);
    this.#ask(history);
    this.#finish(history);
    this.#targets.show(history);
    this.#log.show(history);
  }

  /** @param {JobHistory} history */
  #facts(history) {
    const { user, at, ended_at, retryOf, onlyCount, params } = history;
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

  /** @param {JobHistory} history */
  #progress(history) {
    const { done = 0, failed = 0, total, eta_s } = history.progress;
    const { stage: name, end } = history;
    const stage = !name || history.state === "succeeded" ? "" : end ? `Last stage: ${name}` : name;
    // Updated only when it changes, because a screen reader reads every update.
    if (byId("job-stage").textContent !== stage) byId("job-stage").textContent = stage;
    const bar = /** @type {HTMLProgressElement} */ (byId("job-bar"));
    const isCounted = history.progress.done !== undefined;
    bar.hidden = !isCounted && history.end !== null;
    if (total) {
      bar.max = total;
      bar.value = done;
    } else if (history.end) Object.assign(bar, { max: 1, value: history.state === "succeeded" ? 1 : 0 });
    else bar.removeAttribute("value");
    const of = total === null || total === undefined ? "" : ` of ${total.toLocaleString()}`;
    const parts = isCounted ? [`${done.toLocaleString()}${of} done${failed ? `, ${failed.toLocaleString()} of them failed` : ""}`] : [];
    if (!history.end && !history.approval && eta_s) parts.push(`about ${durationOf(eta_s)} left`);
    byId("job-count").textContent = parts.join(" · ");
    if (history.state === "cancelling") this.#tell(cancelled(history));
  }

  /** @param {JobHistory} history */
  #ask(history) {
    const form = byId("job-approval");
    const { approval } = history;
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

  /** @param {JobHistory} history */
  #finish(history) {
    const key = history.end ? `${history.id} ${history.revision}` : "";
    byId("job-end").hidden = byId("job-after").hidden = !history.end;
    if (!history.end || key === this.#ended) return;
    this.#ended = key;
    this.#tell("");
    showEnd(history);
    showRetries(history, (only) => this.#try(async () => this.actions.opened((await this.jobs.retry(history.id, only)).id)));
    byId("job-like").hidden = !(history.job in this.jobs.kinds);
  }

  /** @param {boolean} ok */
  #answer(ok) {
    const { id, approval } = this.#history ?? {};
    const text = /** @type {HTMLInputElement} */ (byId("job-answer")).value.trim();
    if (id && approval) this.#try(() => this.jobs.answer(id, approval.approval, ok, text));
  }

  #doCancel() {
    const history = this.#history;
    if (!history) return;
    this.#isCancelling = true;
    this.#tell("Cancelling …");
    this.#try(() => this.jobs.cancel(history.id)).then(() => {
      if (history === this.#history) this.#isCancelling = false;
      this.update();
    });
  }

  /** Runs a request, and shows its error on the page where it was made. @param {() => Promise<unknown>} work */
  async #try(work) {
    const history = this.#history;
    try {
      await work();
    } catch (error) {
      if (history === this.#history) this.#tell(/** @type {Error} */ (error).message, true);
    }
  }

  /** @param {string} text */
  #tell(text, isBad = false) {
    const place = byId("job-notice");
    if (place.textContent !== text) place.textContent = text;
    place.classList.toggle("fault", isBad);
    place.hidden = !text;
  }
}

/** @param {JobHistory} history */
function cancelled({ cancelling }) {
  const by = cancelling ? (cancelling.by === null ? "the server is stopping" : `cancelled by ${cancelling.by}`) : "cancelled";
  return `Cancelling (${by}). The job has some time to clean up, then it is stopped.`;
}

/** @param {number} seconds */
export function durationOf(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : seconds < 10 ? `${Math.max(0, seconds).toFixed(1)} s` : `${whole} s`;
}
