// @ts-check
/**
 * A field for the files of a job. They are uploaded when they are chosen, a few at a time. Its value is the ids of the
 * uploads.
 */

import { arrange, element, soon } from "../dom.js";
import { labelled } from "./fields.js";
import { sizeOf } from "../chat/message.js";

/** @typedef {import("./fields.js").Field} Field */
/** @typedef {import("./fields.js").Schema} Schema */
/** @typedef {"waiting" | "uploading" | "done" | "failed"} State */
/** @typedef {{name: string, file?: File, id: string, state: State, why: string, stop: AbortController, item: HTMLLIElement}} Attached */
/** @typedef {(file: File, signal: AbortSignal) => Promise<{id: string}>} Send */

/** Name of a job's parameter with ids of uploads -> the file types that it accepts. */
const TAKEN = /** @type {Record<string, string>} */ ({
  uploads: "image/jpeg,image/png,image/webp",
  upload: "video/*",
  zip: ".zip,application/zip",
});
/** Concurrent uploads. The server's limit per user is uploads_per_user, by default 4. */
const AT_ONCE = 3;
/** Files that are listed. The rest is only counted. */
const SHOWN = 100;

/** @param {string} name @param {Schema} schema */
export const isAttached = (name, schema) => name in TAKEN && (name === "uploads") === (schema.type === "array");

export class Attach {
  /** @type {Attached[]} */
  #files = [];
  #waiters = /** @type {(() => void)[]} */ ([]);
  #isMany;
  #input;
  #list = element("ul", { className: "attached" });
  #count = element("p", { className: "quiet" });
  #labelled;
  #draw = soon(() => this.#show());

  /** @param {string} name @param {Schema} schema @param {Send} send */
  constructor(name, schema, send) {
    this.send = send;
    this.#isMany = schema.type === "array";
    this.#input = element("input", { name, type: "file", multiple: this.#isMany, accept: TAKEN[name] });
    this.#input.onchange = () => {
      this.add([...(this.#input.files ?? [])]);
      this.#input.value = "";
    };
    this.#count.setAttribute("role", "status");
    const most = schema.maxItems ? `; at most ${schema.maxItems.toLocaleString()}, send more in a zip` : "";
    this.#labelled = labelled(name, schema, this.#input, this.#isMany ? `Choose files, or drop them anywhere on this page${most}` : "Choose a file, or drop it anywhere on this page");
    this.#labelled.node.append(this.#count, this.#list);
  }

  /** @returns {Field} */
  get field() {
    const { node, clear, fault } = this.#labelled;
    const where = (/** @type {string[]} */ [index]) => (index ? `${this.#files[Number(index)]?.name ?? index}: ` : "");
    return { node, clear, read: () => this.#read(), write: (value) => this.#write(value), fault: (path, message) => fault(where(path) + message) };
  }

  /** Whether a file has a type that this field accepts. @param {File} file */
  takes({ name, type }) {
    return this.#input.accept.split(",").some((each) => {
      if (each.startsWith(".")) return name.toLowerCase().endsWith(each);
      return each.endsWith("/*") ? type.startsWith(each.slice(0, -1)) : type === each;
    });
  }

  /** @param {File[]} files */
  add(files) {
    if (!this.#isMany && files.length) this.#drop(this.#files);
    for (const file of this.#isMany ? files : files.slice(0, 1)) this.#files.push({ ...blank(file.name), file });
    this.#pump();
  }

  /** Resolves when all chosen files are uploaded. Throws Error when some could not be uploaded. */
  async settled() {
    while (this.#files.some(({ state }) => state === "waiting" || state === "uploading")) {
      await new Promise((resolve) => this.#waiters.push(() => resolve(undefined)));
    }
    const failed = this.#files.filter(({ state }) => state === "failed").length;
    if (failed) throw new Error(`${failed.toLocaleString()} could not be uploaded. Try again, or remove them.`);
  }

  /** Cancels uploads in progress. */
  close() {
    this.#drop(this.#files);
  }

  #read() {
    const ids = this.#files.map(({ id }) => id);
    return this.#isMany ? ids : (ids[0] ?? "");
  }

  /** Shows uploads of an earlier job. @param {string | string[]} value */
  #write(value) {
    this.#drop(this.#files);
    for (const id of [value].flat().filter(Boolean)) this.#files.push({ ...blank(`uploaded before: ${id}`), id, state: "done" });
    this.#draw();
  }

  /** @param {Attached[]} files */
  #drop(files) {
    for (const { stop } of files) stop.abort();
    this.#files = this.#files.filter((each) => !files.includes(each));
    this.#pump();
  }

  /** Starts uploads up to the limit. */
  #pump() {
    const count = this.#files.filter(({ state }) => state === "uploading").length;
    const next = this.#files.filter(({ state }) => state === "waiting").slice(0, Math.max(0, AT_ONCE - count));
    for (const attached of next) this.#upload(attached);
    this.#draw();
    for (const go of this.#waiters.splice(0)) go();
  }

  /** @param {Attached} attached */
  async #upload(attached) {
    attached.state = "uploading";
    try {
      attached.id = (await this.send(/** @type {File} */ (attached.file), attached.stop.signal)).id;
      attached.state = "done";
    } catch (error) {
      const { message, retryAfter } = /** @type {import("../../client/upload.js").UploadError} */ (error);
      attached.state = "failed";
      attached.why = message;
      // Random, because other pages of this user may be waiting too.
      if (retryAfter) setTimeout(() => this.#again(attached), retryAfter * (0.5 + Math.random()));
    }
    this.#pump();
  }

  /** @param {Attached} attached */
  #again(attached) {
    if (attached.state !== "failed" || !this.#files.includes(attached)) return;
    attached.state = "waiting";
    this.#pump();
  }

  #show() {
    const files = this.#files;
    const done = files.filter(({ state }) => state === "done").length;
    const bytes = files.reduce((sum, { file }) => sum + (file?.size ?? 0), 0);
    const summary = `${done.toLocaleString()} of ${files.length.toLocaleString()} uploaded${bytes ? `, ${sizeOf(bytes)} in all` : ""}`;
    const more = files.length > SHOWN ? `; ${(files.length - SHOWN).toLocaleString()} are not shown` : "";
    this.#count.textContent = files.length ? summary + more : "";
    // Failed files are always among the listed ones.
    const first = [...files].sort((one, other) => Number(other.state === "failed") - Number(one.state === "failed")).slice(0, SHOWN);
    for (const attached of first) this.#describe(attached);
    arrange(this.#list, first.map(({ item }) => item));
  }

  /** @param {Attached} attached */
  #describe(attached) {
    const { item, name, state, why } = attached;
    if (item.dataset.state === state && item.title === why) return;
    item.dataset.state = state;
    item.title = why;
    const remove = element("button", { type: "button", onclick: () => this.#drop([attached]) }, "×");
    remove.setAttribute("aria-label", `Remove ${name}`);
    const again = element("button", { type: "button", onclick: () => this.#again(attached) }, "Try again");
    const words = state === "failed" ? why : state === "done" ? "" : state;
    item.replaceChildren(element("span", { className: "name" }, name), element("small", {}, words), ...(state === "failed" ? [again] : []), remove);
  }
}

/** @param {string} name @returns {Attached} */
const blank = (name) => ({ name, id: "", state: "waiting", why: "", stop: new AbortController(), item: element("li") });
