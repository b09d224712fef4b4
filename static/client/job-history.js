// @ts-check
/** The history of one job up to the newest known event. Each event is applied once, in order. */

/** @typedef {"running" | "cancelling" | "succeeded" | "failed" | "cancelled" | "interrupted"} JobState */
/**
 * A line of the log, or a note about an event between lines. `at` is in milliseconds since 1970, if known.
 * @typedef {{at?: number, target: string, line: string, isNote?: boolean}} Line
 */
/** @typedef {{state: string, [more: string]: any}} Target */
/** @typedef {{done?: number, failed?: number, total?: number | null, eta_s?: number | null}} Progress */
/** @typedef {Record<string, any>} Message */

const ENDED = ["succeeded", "failed", "cancelled", "interrupted"];
/** Final states of a target. */
export const FINAL = new Set(["ok", "changed", "failed", "unreachable", "skipped", "not_started", "cancelled"]);
/** Final states that a retry of all unfinished targets leaves out. */
const DONE = new Set(["ok", "changed", "skipped"]);

export class JobHistory {
  job = "";
  user = "";
  /** Start and end of the job, in milliseconds since 1970. */
  at = 0;
  ended_at = 0;
  /** @type {JobState} */
  state = "running";
  stage = "";
  /** @type {Progress} */
  progress = {};
  /** @type {Record<string, unknown>} */
  params = {};
  /** @type {string | null} */
  retryOf = null;
  /** Number of targets of a retry. Null for a job with all targets. @type {number | null} */
  onlyCount = null;
  /** The question that the job waits for. @type {{approval: string, question: string, [more: string]: any} | null} */
  approval = null;
  /**
   * The user who has cancelled the job, and the reason. `by` is null when the server is stopping.
   * @type {{by: string | null, reason: string} | null}
   */
  cancelling = null;
  /** The last event. @type {Message | null} */
  end = null;
  /** Lines of the log, at most as many as the server stores (setting job_log_bytes). @type {Line[]} */
  lines = [];
  /** @type {Map<string, Target>} */
  targets = new Map();
  /** State -> number of targets. @type {Map<string, number>} */
  counts = new Map();
  /** Targets that have changed since they were last drawn. @type {Set<string>} */
  changedTargets = new Set();
  /** Number of snapshots. After each, everything must be drawn again. */
  revision = 0;
  /** Whether the log starts with its first line. */
  isComplete = true;
  /** Whether only the states of the targets are known. */
  isBrief = false;
  offset = 0;
  epoch = "";
  /**
   * "asking": not answered yet. "watching": events arrive. "refused": see `error`.
   * @type {"asking" | "watching" | "refused"}
   */
  watch = "asking";
  /** @type {import("./job-requests.js").Refused | null} */
  error = null;

  /** @param {string} id */
  constructor(id) {
    this.id = id;
  }

  /** The offset after which events are requested. */
  get position() {
    return this.epoch ? { after: this.offset, epoch: this.epoch } : { after: 0 };
  }

  /** Number of targets that a retry with this state would process. @param {string} only */
  retryable(only) {
    if (only !== "unfinished") return this.counts.get(only) ?? 0;
    return [...this.counts].reduce((sum, [state, count]) => sum + (DONE.has(state) ? 0 : count), 0);
  }

  /** Starts with the snapshot in the answer, or continues after the known events. @param {Message} watching */
  begin({ job, user, at, epoch, offset, snapshot }) {
    Object.assign(this, { job, user, at, epoch, watch: "watching", error: null });
    if (snapshot) this.#load(snapshot, offset);
  }

  /** @param {Message} message Of the type `events`. */
  take({ offset, at, events }) {
    if (this.watch !== "watching" || offset <= this.offset) return;
    this.offset = offset;
    for (const event of events) this.#apply(event, at);
  }

  /** @param {Message} snapshot @param {number} offset */
  #load(snapshot, offset) {
    const { state, ended_at, stage, progress, params, retry_of, only_count, approval, end, log, states, brief } = snapshot;
    Object.assign(this, { state, stage, progress, params, onlyCount: only_count, approval, end, offset });
    this.ended_at = ended_at ?? 0;
    this.retryOf = retry_of;
    this.lines = [...log];
    this.isComplete = false;
    this.isBrief = brief;
    this.targets.clear();
    this.counts.clear();
    for (const [name, target] of Object.entries(states)) this.#target(name, /** @type {Target} */ (target));
    this.revision += 1;
  }

  /** @param {Message} event @param {number} at */
  #apply({ type, ...event }, at) {
    if (type === "log") this.lines.push({ at, target: event.target, line: event.line, isNote: event.cut });
    else if (type === "target") this.#target(event.name, /** @type {any} */ (event));
    else if (type === "progress") this.progress = event;
    else if (type === "stage") this.#enlarged(/** @type {any} */ (event), at);
    else if (type === "started") this.#started(event, at);
    else if (type === "approval") this.#ask(/** @type {any} */ (event), at);
    else if (type === "answered") this.#answered(event, at);
    else if (type === "cancelling") this.#cancel(/** @type {any} */ (event), at);
    else if (ENDED.includes(type)) this.#end(type, event, at);
  }

  /** The estimate of the time left belonged to the previous stage. @param {{name: string}} event @param {number} at */
  #enlarged({ name }, at) {
    this.stage = name;
    this.progress = { ...this.progress, eta_s: null };
    this.#note(at, `stage: ${name}`);
  }

  /** @param {Message} event @param {number} at */
  #started({ job, user, params, retry_of, only_count }, at) {
    Object.assign(this, { job, user, params, onlyCount: only_count, at, retryOf: retry_of });
  }

  /** @param {{approval: string, question: string}} event @param {number} at */
  #ask(event, at) {
    this.approval = event;
    this.#note(at, `asks: ${event.question}`);
  }

  /** @param {Message} event @param {number} at */
  #answered({ ok, by, text }, at) {
    this.approval = null;
    this.#note(at, `${by} says ${ok ? "yes" : "no"}${text ? `: ${text}` : ""}`);
  }

  /** @param {{by: string | null, reason: string}} event @param {number} at */
  #cancel(event, at) {
    this.cancelling = event;
    this.state = "cancelling";
    this.#note(at, `${event.by === null ? "the server is stopping" : `${event.by} cancels it`}${event.reason ? `: ${event.reason}` : ""}`);
  }

  /** @param {string} type @param {Message} event @param {number} at */
  #end(type, event, at) {
    this.state = /** @type {JobState} */ (type);
    this.end = { type, ...event };
    this.ended_at = at;
    this.approval = null;
    this.stage = event.stage ?? this.stage;
    this.progress = event.progress ?? this.progress;
    this.#note(at, type + (event.message ? `: ${event.message}` : ""));
    // Targets without a final state are in an unknown state from now on.
    for (const [name, { state }] of this.targets) if (!FINAL.has(state)) this.changedTargets.add(name);
  }

  /** @param {string} name @param {Target} target */
  #target(name, target) {
    const before = this.targets.get(name)?.state;
    if (before !== undefined) this.#count(before, -1);
    this.#count(target.state, 1);
    this.targets.set(name, target);
    this.changedTargets.add(name);
  }

  /** @param {string} state @param {number} by */
  #count(state, by) {
    const count = (this.counts.get(state) ?? 0) + by;
    if (count) this.counts.set(state, count);
    else this.counts.delete(state);
  }

  /** @param {number} at @param {string} line */
  #note(at, line) {
    this.lines.push({ at, target: "", line, isNote: true });
  }
}
