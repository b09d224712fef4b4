// @ts-check
/**
 * The client of the server's long jobs: start, watch, cancel, answer and retry them.
 *
 * It reconnects by itself. A job is started once, and every event of a watched job is delivered once. It also works
 * without a page.
 *
 *     const jobs = new Jobs("wss://pictures.example/ws/jobs", { token });
 *     const { id } = await jobs.start("batch", { folder: "scans", action: "sharpen" });
 *     const history = jobs.watch(id);
 *     jobs.addEventListener("job", ({ detail }) => console.log(detail.state, detail.progress));
 */

import { Refused, Requests } from "./job-requests.js";
import { JobHistory } from "./job-history.js";
import { Connection } from "./socket.js";
import { upload } from "./upload.js";

export { Refused, JobHistory };

/** @typedef {import("./job-history.js").JobState} JobState */
/**
 * A JSON Schema, as far as forms read it.
 * @typedef {{type?: string, title?: string, description?: string, default?: any, enum?: any[], const?: any, anyOf?: Schema[], allOf?: Schema[],
 *   $ref?: string, $defs?: Record<string, Schema>, items?: Schema, properties?: Record<string, Schema>, required?: string[],
 *   additionalProperties?: boolean | Schema, minimum?: number, maximum?: number, exclusiveMinimum?: number, exclusiveMaximum?: number, maxItems?: number, examples?: any[]}} Schema
 */
/** @typedef {{help: string, scope: string, params: Schema}} Kind */
/**
 * @typedef {{id: string, job: string, user: string, state: JobState, at: number, ended_at: number | null, retry_of: string | null,
 *   stage: string, progress: import("./job-history.js").Progress, targets: Record<string, number>, waits_for_approval: boolean}} Summary
 */
/** @typedef {{filter?: "mine" | "all", state?: JobState, job?: string, before?: string, limit?: number}} ListFilter */

/** The subject of requests for lists. */
const LIST = "jobs";

/**
 * Requests without a connection wait for it. A refused request rejects with Refused. Events: "job" (detail: a watched
 * JobHistory that has changed), "state".
 */
export class Jobs extends Connection {
  /** Watched jobs by id. @type {Map<string, JobHistory>} */
  histories = new Map();
  #requests = new Requests((message) => this.tell(message));

  get user() {
    return /** @type {string} */ (this.hello?.user ?? "");
  }

  /** Whether this user may see the jobs of all users. */
  get isAdmin() {
    return Boolean(this.hello?.admin);
  }

  /** Kinds of jobs that this user may start, by name. @returns {Record<string, Kind>} */
  get kinds() {
    return this.hello?.jobs ?? {};
  }

  /**
   * Returns a page of jobs, newest first. `before` leads to the next page.
   * @param {ListFilter} [filter]
   * @returns {Promise<{jobs: Summary[], before: string | null}>}
   */
  list(filter = {}) {
    return this.#requests.request(LIST, () => ({ type: "jobs", ...filter }));
  }

  /** @param {string} job @param {Record<string, unknown>} [params] @returns {Promise<{id: string, repeated: boolean}>} */
  start(job, params = {}, client_id = newId()) {
    return this.#requests.request(client_id, () => ({ type: "start", job, params, client_id }));
  }

  /**
   * Starts a new job for the targets of an ended job that are in this state.
   * @param {string} id @param {"failed" | "unreachable" | "not_started" | "cancelled" | "unfinished"} only
   * @returns {Promise<{id: string, repeated: boolean}>}
   */
  retry(id, only, client_id = newId()) {
    return this.#requests.request(client_id, () => ({ type: "retry", id, only, client_id }));
  }

  /**
   * Cancels a job.
   * @param {string} id
   * @returns {Promise<{state: JobState}>} Its final state, when it had already ended.
   */
  cancel(id) {
    return this.#requests.request(id, () => ({ type: "cancel", id }));
  }

  /**
   * Answers a question of a job. Only the first answer counts.
   * @param {string} id
   * @param {string} approval
   * @param {boolean} ok
   */
  answer(id, approval, ok, text = "") {
    return this.#requests.request(id, () => ({ type: "answer", id, approval, ok, text }), { isRepeatable: false });
  }

  /** Watches a job from its first event, until `unwatch` or its end. Returns its history. @param {string} id */
  watch(id) {
    let history = this.histories.get(id);
    if (!history) {
      this.histories.set(id, (history = new JobHistory(id)));
      this.#watch(history);
    }
    return history;
  }

  /** @param {string} id */
  unwatch(id) {
    const history = this.histories.get(id);
    this.histories.delete(id);
    if (!history || history.end || history.watch === "refused") return;
    this.#requests.request(id, () => ({ type: "unwatch", id }), { isRepeatable: false }).catch(() => {}); // without a connection the server watches nothing
  }

  /**
   * Uploads a file for a job. Its name is used in the results. Throws UploadError.
   * @param {Blob} file
   * @param {AbortSignal} [signal]
   */
  upload(file, signal) {
    return upload(this, file, signal, file instanceof File ? file.name : undefined);
  }

  /** @param {JobHistory} history */
  async #watch(history) {
    const { id } = history;
    history.watch = "asking";
    try {
      const onAnswer = (/** @type {Record<string, any>} */ watching) => history.begin(watching);
      await this.#requests.request(id, () => ({ type: "watch", id, ...history.position }), { onAnswer });
      if (this.histories.get(id) === history) this.fire("job", history);
    } catch (error) {
      this.#refused(history, /** @type {Refused} */ (error));
    }
  }

  /** @param {JobHistory} history @param {Refused} error */
  #refused(history, error) {
    history.watch = "refused";
    history.error = error;
    this.fire("job", history);
    // Random, so that clients that were refused together do not all return at the same moment.
    const pause = (error.retryAfter ?? 1000) * (1 + Math.random());
    if (error.isTemporary) setTimeout(() => this.histories.get(history.id) === history && history.watch === "refused" && this.#watch(history), pause);
  }

  /** @override @param {Record<string, any>} hello */
  greet(hello) {
    this.become("open");
    this.#requests.opened();
    for (const history of this.histories.values()) if (history.watch === "watching" && !history.end) this.#watch(history);
  }

  /** @override @param {import("./socket.js").State} state @param {{code?: number, reason?: string}} [detail] */
  become(state, detail) {
    if (state !== "open") this.#requests.lost();
    super.become(state, detail);
    if (state === "closed") this.#requests.end(this.reason || `${detail?.code ?? ""}`);
  }

  /** @override @param {Record<string, any>} message */
  receive(message) {
    const { type, id, client_id } = message;
    if (type === "events") this.#events(message);
    else if (type === "jobs") this.#requests.answered(LIST, message);
    else if (type === "accepted") this.#requests.answered(client_id, message);
    else if (["watching", "cancelling", "answered", "unwatched"].includes(type)) this.#requests.answered(id, message);
    else if (type === "error") this.#requests.refused(client_id ?? id ?? LIST, message);
  }

  /** @param {Record<string, any>} message */
  #events(message) {
    const history = this.histories.get(message.id);
    if (!history) return; // the event was sent before the job was unwatched
    history.take(message);
    this.fire("job", history);
  }
}

/** Not crypto.randomUUID, which is missing on pages without TLS. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
