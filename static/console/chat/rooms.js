// @ts-check
/** The Rooms view: the list of rooms and conversations, the open one, and announcements of the server. */

import { Compose } from "./compose.js";
import { arrange, byId, element, soon } from "../dom.js";
import { Talk } from "./talk.js";

/** @typedef {import("../../client/chat.js").Chat} Chat */
/** @typedef {import("../../client/place.js").Place} Place */

const TITLE = document.title;
const MOST_NOTICES = 4;

export class Rooms {
  #isShown = false;
  /** @type {Place | null} */
  #open = null;
  /** @type {Map<Place, HTMLLIElement>} */
  #lines = new Map();
  #update = soon(() => this.#draw());

  /** @param {Chat} chat */
  constructor(chat) {
    this.chat = chat;
    this.talk = new Talk(chat);
    this.compose = new Compose(chat, (text) => this.#notify("warning", text));
    chat.addEventListener("place", () => this.#update());
    chat.addEventListener("state", () => this.#update());
    chat.addEventListener("notice", (event) => {
      const { kind, text, from } = /** @type {CustomEvent} */ (event).detail;
      this.#notify(kind, text, from);
    });
    byId("go").onsubmit = (event) => {
      event.preventDefault();
      this.#go(/** @type {HTMLButtonElement | null} */ (event.submitter)?.value ?? "room");
    };
    byId("go-name").oninput = () => this.#name.setCustomValidity("");
    byId("leave").onclick = () => this.#open && chat.leave(this.#open);
  }

  /** Whether dropped files are attached to a message. */
  get takesFiles() {
    return this.#isShown && this.#open !== null;
  }

  /** @param {File[]} files */
  attach(files) {
    this.compose.attach(files);
  }

  /** Shows the place with this stream, or only the list. @param {string} stream */
  show(stream) {
    this.#isShown = true;
    this.#open = stream ? this.chat.open(stream) : null;
    this.#draw();
    this.compose.show(this.#open);
  }

  hide() {
    this.#isShown = false;
    this.#open = null;
    this.#draw();
    this.compose.show(null);
  }

  get #name() {
    return /** @type {HTMLInputElement} */ (byId("go-name"));
  }

  /** @param {string} kind */
  #go(kind) {
    const name = this.#name.value.trim();
    const isFit = kind === "direct" ? name.length > 0 : /^[^\s/]{1,100}$/.test(name);
    this.#name.setCustomValidity(isFit ? "" : "A room name has at most 100 characters, without spaces and slashes.");
    if (!this.#name.reportValidity()) return;
    this.#name.value = "";
    location.hash = hashOf(`${kind}/${name}`);
  }

  #draw() {
    const places = [...this.chat.places.values()];
    if (this.#open && this.chat.places.get(this.#open.stream) !== this.#open) location.hash = "#rooms"; // the place was left
    const unread = places.reduce((sum, place) => sum + this.#unread(place), 0);
    document.title = unread ? `(${unread}) ${TITLE}` : TITLE;
    badge(byId("all-unread"), unread);
    this.#list(byId("room-list"), places.filter(({ isRoom }) => isRoom));
    this.#list(byId("direct-list"), places.filter(({ isRoom }) => !isRoom));
    byId("nowhere").hidden = !this.#isShown || this.#open !== null;
    byId("talk").hidden = !this.#open;
    document.body.classList.toggle("talking", this.#open !== null);
    if (this.#open) this.#head(this.#open);
    this.talk.show(this.#open);
  }

  /** Unread count of a place, 0 for the place that is being read. @param {Place} place */
  #unread(place) {
    const isSeen = place === this.#open && document.hasFocus();
    return isSeen ? 0 : place.unread;
  }

  /** @param {HTMLElement} list @param {Place[]} places */
  #list(list, places) {
    places.sort((one, other) => one.name.localeCompare(other.name));
    arrange(list, places.map((place) => this.#line(place)));
    for (const place of this.#lines.keys()) if (this.chat.places.get(place.stream) !== place) this.#lines.delete(place);
  }

  /** @param {Place} place */
  #line(place) {
    let line = this.#lines.get(place);
    if (!line) {
      const link = element("a", { href: hashOf(place.stream) }, element("bdi", {}, place.name), element("b", { className: "badge" }));
      this.#lines.set(place, (line = element("li", {}, link)));
    }
    const link = /** @type {HTMLAnchorElement} */ (line.firstElementChild);
    badge(/** @type {HTMLElement} */ (link.lastElementChild), this.#unread(place));
    if (place === this.#open) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    return line;
  }

  /** @param {Place} place */
  #head(place) {
    byId("talk-name").textContent = place.name;
    byId("log").setAttribute("aria-label", `Messages of ${place.name}`);
    byId("leave").hidden = !place.isRoom;
    /** @type {HTMLButtonElement} */ (byId("leave")).disabled = this.chat.state !== "open";
    const people = place.isRoom && place.state === "joined" ? place.present : [];
    byId("present").hidden = !people.length;
    byId("present").replaceChildren(...people.map((name) => this.#person(name)));
    const names = [...place.typing.keys()].join(", ");
    byId("typing").textContent = names && `${names} ${place.typing.size > 1 ? "are" : "is"} typing …`;
  }

  /** @param {string} name */
  #person(name) {
    if (name === this.chat.user) return element("li", {}, "you");
    const link = element("a", { href: hashOf(`direct/${name}`), title: `Write to ${name}` }, element("bdi", {}, name));
    return element("li", {}, link);
  }

  /** @param {string} kind @param {string} text @param {string} [from] */
  #notify(kind, text, from) {
    const close = element("button", { type: "button" }, "×");
    close.setAttribute("aria-label", "Dismiss");
    const words = element("p", {}, from ? element("b", {}, `${from}: `) : "", text);
    const notice = element("div", { className: `notice ${kind}` }, words, close);
    close.onclick = () => notice.remove();
    const notices = byId("notices");
    if ([...notices.children].some((other) => other.textContent === notice.textContent)) return;
    notices.append(notice);
    if (notices.childElementCount > MOST_NOTICES) notices.firstElementChild?.remove();
  }
}

/** @param {string} stream */
const hashOf = (stream) => `#${stream.split("/", 1)[0]}/${encodeURIComponent(stream.slice(stream.indexOf("/") + 1))}`;

/** @param {string} hash @returns {string | undefined} The stream. Empty for the list, undefined for another view. */
export function streamOf(hash) {
  const [, kind, name] = /^#(room|direct)\/(.+)$/.exec(hash) ?? [];
  if (!kind) return hash === "#rooms" ? "" : undefined;
  try {
    return `${kind}/${decodeURIComponent(name)}`;
  } catch {
    return "";
  }
}

/** @param {HTMLElement} place @param {number} count */
function badge(place, count) {
  place.hidden = count === 0;
  place.textContent = count > 99 ? "99+" : String(count);
  place.setAttribute("aria-label", `${count} unread`);
}
