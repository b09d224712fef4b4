// @ts-check
/**
 * The form for a new message: text, and files that are attached by button, drop or paste. Every place has its own
 * draft.
 */

import { arrange, byId, element } from "../dom.js";
import { showAttachment } from "./message.js";

/** @typedef {import("../../client/chat.js").Chat} Chat */
/** @typedef {import("../../client/place.js").Place} Place */
/** @typedef {import("../../client/place.js").Attachment} Attachment */
/**
 * @typedef {{file: File, item: HTMLLIElement, stop: AbortController, state: "uploading" | "done" | "failed",
 *   attachment?: Attachment}} Attached
 */
/** @typedef {{text: string, files: Attached[]}} Draft */

/** Maximum number of files of one message, a limit of the server. */
const MOST_FILES = 10;

export class Compose {
  /** @type {Place | null} */
  #place = null;
  /** @type {Map<string, Draft>} */
  #drafts = new Map();
  #form = /** @type {HTMLFormElement} */ (byId("compose"));
  #text = /** @type {HTMLTextAreaElement} */ (byId("text"));
  #send = /** @type {HTMLButtonElement} */ (this.#form.querySelector("button.main"));

  /** @param {Chat} chat @param {(text: string) => void} tell Shows why a file cannot be attached. */
  constructor(chat, tell) {
    this.chat = chat;
    this.tell = tell;
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    this.#text.oninput = () => {
      this.#draft.text = this.#text.value;
      if (this.#place && this.#text.value.trim()) chat.type(this.#place);
      this.#update();
    };
    this.#text.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    };
    this.#text.onpaste = (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) event.preventDefault();
      this.attach(files);
    };
    const input = /** @type {HTMLInputElement} */ (this.#form.querySelector("input[type=file]"));
    input.onchange = () => {
      this.attach([...(input.files ?? [])]);
      input.value = "";
    };
  }

  /** @param {Place | null} place */
  show(place) {
    if (place === this.#place) return;
    this.#place = place;
    if (!place) return;
    this.#text.value = this.#draft.text;
    this.#update();
    // A phone's keyboard would cover the messages.
    if (matchMedia("(hover: hover)").matches) this.#text.focus();
  }

  /** @returns {Draft} */
  get #draft() {
    const stream = this.#place?.stream ?? "";
    let draft = this.#drafts.get(stream);
    if (!draft) this.#drafts.set(stream, (draft = { text: "", files: [] }));
    return draft;
  }

  /** Uploads files to attach them to the draft. @param {File[]} files */
  attach(files) {
    if (!this.#place || !files.length) return;
    const draft = this.#draft;
    const room = Math.max(0, MOST_FILES - draft.files.length);
    if (files.length > room) this.tell(`A message can have at most ${MOST_FILES} files.`);
    for (const file of files.slice(0, room)) {
      /** @type {Attached} */
      const attached = { file, item: element("li"), stop: new AbortController(), state: "uploading" };
      draft.files.push(attached);
      this.#upload(draft, attached);
    }
    this.#text.focus();
  }

  /** @param {Draft} draft @param {Attached} attached */
  async #upload(draft, attached) {
    attached.state = "uploading";
    this.#describe(draft, attached, "uploading …");
    try {
      attached.attachment = await this.chat.upload(attached.file, attached.stop.signal);
      attached.state = "done";
      this.#describe(draft, attached, "");
    } catch (error) {
      attached.state = "failed";
      this.#describe(draft, attached, /** @type {Error} */ (error).message);
    }
  }

  /** @param {Draft} draft @param {Attached} attached @param {string} words */
  #describe(draft, attached, words) {
    const { file, item, attachment, state } = attached;
    const remove = element("button", { type: "button", title: `Remove ${file.name}` }, "×");
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.onclick = () => {
      attached.stop.abort();
      draft.files = draft.files.filter((each) => each !== attached);
      this.#update();
    };
    const again = element("button", { type: "button", onclick: () => this.#upload(draft, attached) }, "Try again");
    const preview = attachment?.kind === "image" ? [showAttachment(attachment)] : [];
    const name = element("span", { className: "name" }, file.name);
    const status = element("small", { role: "status" }, words);
    item.dataset.state = state;
    item.replaceChildren(...preview, name, status, ...(state === "failed" ? [again] : []), remove);
    this.#update();
  }

  #update() {
    if (this.chat.hello) this.#text.maxLength = this.chat.hello.limits.chat_text;
    const { text, files } = this.#draft;
    arrange(byId("attached"), files.map(({ item }) => item));
    const isReady = files.every(({ state }) => state === "done");
    this.#send.disabled = !isReady || !(text.trim() || files.length);
  }

  #submit() {
    const draft = this.#draft;
    if (!this.#place || this.#send.disabled) return;
    const attachments = draft.files.map(({ attachment }) => /** @type {Attachment} */ (attachment));
    this.chat.say(this.#place.stream, draft.text.trim(), attachments);
    Object.assign(draft, { text: "", files: [] });
    this.#text.value = "";
    this.#update();
    this.#text.focus();
  }
}
