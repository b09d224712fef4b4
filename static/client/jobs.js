// @ts-check
/**
 * The client of a server's long jobs: start them, watch how they go, cancel, answer, retry. A lost connection comes back
 * by itself: what was started is started once, and of what is watched every event is had once. No page is needed.
 *
 *     const jobs = new Jobs("wss://pictures.example/ws/jobs", { token });
 *     const { id } = await jobs.start("batch", { folder: "scans", action: "sharpen" });
 *     const story = jobs.watch(id);
 *     jobs.addEventListener("job", ({ detail }) => console.log(detail.state, detail.progress));
 */

import { Asks, Refused } from "./job-requests.js";
import { Story } from "./job-history.js";
import { Connection } from "./socket.js";
import { upload } from "./upload.js";

export { Refused, Story };

/** @typedef {import("./job-history.js").JobState} JobState */
/** @typedef {{help: string, scope: string, params: import("../console/jobs/fields.js").Schema}} Kind */
/**
 * @typedef {{id: string, job: string, user: string, state: JobState, at: number, ended_at: number | null, retry_of: string | null,
 *   stage: string, progress: import("./job-history.js").Progress, targets: Record<string, number>, waits_for_approval: boolean}} Summary
 */
/** @typedef {{filter?: "mine" | "all", state?: JobState, job?: string, before?: string, limit?: number}} Wish */

/** What lists are asked about. */
const LIST = "jobs";

/**
 * Requests made while there is no connection wait for it. Those refused reject with Refused.
 * Events: "job" (detail: a watched Story that has changed in whatever way), "state".
 */
export class Jobs extends Connection {
  /** What is watched, by id. @type {Map<string, Story>} */
  stories = new Map();
  #asks = new Asks((message) => this.tell(message));

  get user() {
    return /** @type {string} */ (this.hello?.user ?? "");
  }

  /** Whether everybody's jobs may be seen. */
  get isAdmin() {
    return Boolean(this.hello?.admin);
  }

  /** What this user may start, by name. @returns {Record<string, Kind>} */
  get kinds() {
    return this.hello?.jobs ?? {};
  }

  /** A page of jobs, newest first; `before` leads to the next one. @param {Wish} [wish] @returns {Promise<{jobs: Summary[], before: string | null}>} */
  list(wish = {}) {
    return this.#asks.ask(LIST, () => ({ type: "jobs", ...wish }));
  }

  /** @param {string} job @param {Record<string, unknown>} [params] @returns {Promise<{id: string, repeated: boolean}>} */
  start(job, params = {}, client_id = newId()) {
    return this.#asks.ask(client_id, () => ({ type: "start", job, params, client_id }));
  }

  /**
   * Does the targets of an ended job in that state again, as a new job.
   * @param {string} id @param {"failed" | "unreachable" | "not_started" | "cancelled" | "unfinished"} only
   * @returns {Promise<{id: string, repeated: boolean}>}
   */
  retry(id, only, client_id = newId()) {
    return this.#asks.ask(client_id, () => ({ type: "retry", id, only, client_id }));
  }

  /** @param {string} id @returns {Promise<{state: JobState}>} As what it had ended, if it was too late. */
  cancel(id) {
    return this.#asks.ask(id, () => ({ type: "cancel", id }));
  }

  /** Answers what a job asks; the first answer counts. @param {string} id @param {string} approval @param {boolean} ok */
  answer(id, approval, ok, text = "") {
    return this.#asks.ask(id, () => ({ type: "answer", id, approval, ok, text }), { isRepeatable: false });
  }

  /** The story of a job from its first event on, and what happens, until `unwatch` or its end. @param {string} id */
  watch(id) {
    let story = this.stories.get(id);
    if (!story) {
      this.stories.set(id, (story = new Story(id)));
      this.#watch(story);
    }
    return story;
  }

  /** @param {string} id */
  unwatch(id) {
    const story = this.stories.get(id);
    this.stories.delete(id);
    if (!story || story.end || story.watch === "refused") return;
    this.#asks.ask(id, () => ({ type: "unwatch", id }), { isRepeatable: false }).catch(() => {}); // a lost connection watches nothing
  }

  /** Sends a file for a job to work on, which has its name in what comes of it. @param {Blob} file @param {AbortSignal} [signal] */
  upload(file, signal) {
    return upload(this, file, signal, file instanceof File ? file.name : undefined);
  }

  /** @param {Story} story */
  async #watch(story) {
    const { id } = story;
    story.watch = "asking";
    try {
      const heed = (/** @type {Record<string, any>} */ watching) => story.begin(watching);
      await this.#asks.ask(id, () => ({ type: "watch", id, ...story.position }), { heed });
      if (this.stories.get(id) === story) this.fire("job", story);
    } catch (error) {
      this.#refused(story, /** @type {Refused} */ (error));
    }
  }

  /** @param {Story} story @param {Refused} error */
  #refused(story, error) {
    story.watch = "refused";
    story.error = error;
    this.fire("job", story);
    // Jitter: those who were sent away together do not come back together.
    const pause = (error.retryAfter ?? 1000) * (1 + Math.random());
    if (error.isTemporary) setTimeout(() => this.stories.get(story.id) === story && story.watch === "refused" && this.#watch(story), pause);
  }

  /** @override @param {Record<string, any>} hello */
  greet(hello) {
    this.become("open");
    this.#asks.opened();
    for (const story of this.stories.values()) if (story.watch === "watching" && !story.end) this.#watch(story);
  }

  /** @override @param {import("./socket.js").State} state @param {{code?: number, reason?: string}} [detail] */
  become(state, detail) {
    if (state !== "open") this.#asks.lost();
    super.become(state, detail);
    if (state === "closed") this.#asks.end(this.reason || `${detail?.code ?? ""}`);
  }

  /** @override @param {Record<string, any>} message */
  receive(message) {
    const { type, id, client_id } = message;
    if (type === "events") this.#events(message);
    else if (type === "jobs") this.#asks.answered(LIST, message);
    else if (type === "accepted") this.#asks.answered(client_id, message);
    else if (["watching", "cancelling", "answered", "unwatched"].includes(type)) this.#asks.answered(id, message);
    else if (type === "error") this.#asks.refused(client_id ?? id ?? LIST, message);
  }

  /** @param {Record<string, any>} message */
  #events(message) {
    const story = this.stories.get(message.id);
    if (!story) return; // they were on their way when it was let go of
    story.take(message);
    this.fire("job", story);
  }
}

/** Not crypto.randomUUID, which pages without TLS do not have. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
