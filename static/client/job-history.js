// @ts-check
/** The history of one job, as far as it has come: each event is taken once, in order. */

/** @typedef {"running" | "cancelling" | "succeeded" | "failed" | "cancelled" | "interrupted"} JobState */
/** A line of the log, or a note of what happened amid it; `at` in milliseconds since 1970, if it is known. @typedef {{at?: number, target: string, line: string, isNote?: boolean}} Line */
/** @typedef {{state: string, [more: string]: any}} Target */
/** @typedef {{done?: number, failed?: number, total?: number | null, eta_s?: number | null}} Progress */
/** @typedef {Record<string, any>} Message */

const ENDED = ["succeeded", "failed", "cancelled", "interrupted"];
/** States in which a target has ended. */
export const FINAL = new Set(["ok", "changed", "failed", "unreachable", "skipped", "not_started", "cancelled"]);
/** Those of which a retry of all that is unfinished leaves out. */
const DONE = new Set(["ok", "changed", "skipped"]);

export class JobHistory {
  job = "";
  user = "";
  /** When it was started and when it ended, in milliseconds since 1970. */
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
  /** How many targets it is to do, of a job that does not do all. @type {number | null} */
  onlyCount = null;
  /** What the job asks and waits for. @type {{approval: string, question: string, [more: string]: any} | null} */
  approval = null;
  /** Who has cancelled it, and why; `by` is null when the server is stopping. @type {{by: string | null, reason: string} | null} */
  cancelling = null;
  /** The last event. @type {Message | null} */
  end = null;
  /** As many as the server keeps of a log (its setting job_log_bytes). @type {Line[]} */
  lines = [];
  /** @type {Map<string, Target>} */
  targets = new Map();
  /** How many targets are in each state. @type {Map<string, number>} */
  counts = new Map();
  /** Targets that have changed since they were drawn last. @type {Set<string>} */
  changedTargets = new Set();
  /** Counts the snapshots: after each, everything is drawn again. */
  revision = 0;
  /** Whether the log is there from its first line on. */
  isComplete = true;
  /** Whether of the targets only the states are known. */
  isBrief = false;
  offset = 0;
  epoch = "";
  /** Events come only while it is watched; one that is refused has an `error`. @type {"asking" | "watching" | "refused"} */
  watch = "asking";
  /** @type {import("./job-requests.js").Refused | null} */
  error = null;

  /** @param {string} id */
  constructor(id) {
    this.id = id;
  }

  /** The position after which events are requested. */
  get position() {
    return this.epoch ? { after: this.offset, epoch: this.epoch } : { after: 0 };
  }

  /** How many targets a retry of those would do again. @param {string} only */
  retryable(only) {
    if (only !== "unfinished") return this.counts.get(only) ?? 0;
    return [...this.counts].reduce((sum, [state, count]) => sum + (DONE.has(state) ? 0 : count), 0);
  }

  /** It is watched from now on; the events that follow come after those that are known, or after this snapshot. @param {Message} watching */
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
    else if (type === "stage") this.#stage(/** @type {any} */ (event), at);
    else if (type === "started") this.#started(event, at);
    else if (type === "approval") this.#ask(/** @type {any} */ (event), at);
    else if (type === "answered") this.#answered(event, at);
    else if (type === "cancelling") this.#cancel(/** @type {any} */ (event), at);
    else if (ENDED.includes(type)) this.#end(type, event, at);
  }

  /** The time that was left is of the stage before. @param {{name: string}} event @param {number} at */
  #stage({ name }, at) {
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
    // The state of those that had not ended is unknown from now on.
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
