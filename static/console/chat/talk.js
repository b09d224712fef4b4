// @ts-check
/** The messages of one place. Older ones are loaded at the top. Visible messages are reported as read. */

import { arrange, byId, element, soon } from "../dom.js";
import { goesOn, isSameDay, showMessage, showOutgoing } from "./message.js";

/** @typedef {import("../../client/chat.js").Chat} Chat */
/** @typedef {import("../../client/place.js").Place} Place */
/** @typedef {import("../../client/place.js").Message} Message */
/** @typedef {import("../../client/place.js").Outgoing} Outgoing */

/** Messages that are shown at first, and that are added when the user scrolls up. */
const PAGE = 60;
/** Pixels from the end of the log that count as its end, and from its start at which older messages are loaded. */
const AT_END = 48;
const NEAR_START = 400;

export class Talk {
  /** @type {Place | null} */
  #place = null;
  /** @type {Map<string, HTMLLIElement>} Items by offset and time, or by id and state. */
  #items = new Map();
  /** Offset of the first message that is shown, and of the first that was unread when the place was opened. */
  #from = 0;
  #firstNew = 0;
  #top = 0;
  #isAtEnd = true;
  #isOpening = true;
  #log = byId("log");
  #newest = byId("newest");
  update = soon(() => this.#update());

  /** @param {Chat} chat */
  constructor(chat) {
    this.chat = chat;
    this.#log.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#newest.onclick = () => this.#toEnd();
    for (const event of ["focus", "resize"]) addEventListener(event, () => this.#settle());
    document.addEventListener("visibilitychange", () => this.#read());
    const resized = new ResizeObserver(() => this.#settle());
    resized.observe(this.#log);
    resized.observe(byId("messages"));
  }

  /** @param {Place | null} place */
  show(place) {
    if (place === this.#place) return this.update();
    this.#place = place;
    this.#items.clear();
    this.#from = this.#firstNew = 0;
    this.#isAtEnd = this.#isOpening = true;
    byId("messages").replaceChildren();
    this.#update();
  }

  #update() {
    const place = this.#place;
    if (!place) return;
    this.#note(place);
    // Keeps the first visible message in its place when messages are added above it.
    const anchor = this.#isAtEnd ? undefined : this.#inView();
    const before = anchor ? endOf(anchor) : 0;
    arrange(byId("messages"), this.#list(place));
    if (anchor?.isConnected) this.#scroll(this.#log.scrollTop + endOf(anchor) - before);
    this.#settle();
  }

  /** @param {Place} place */
  #note(place) {
    const { loaded, messages, outgoing, more, isRoom, name } = place;
    const isNew = place.unread && (this.#isOpening || !this.#isSeen());
    if (!this.#firstNew && loaded && isNew) this.#firstNew = place.head + 1 - place.unread;
    if (loaded) this.#isOpening = false;
    // After its messages were discarded, a place is shown from its end.
    if (!this.#from || this.#from > place.last || this.#from < place.first) this.#from = Math.max(place.first, place.last - PAGE);
    const isEmpty = loaded && !messages.length && !outgoing.length;
    const nothing = isRoom ? "There are no messages yet. Write the first one." : `There are no messages with ${name} yet. Your messages wait until ${name} is online.`;
    const refused = place.state === "refused" ? "Your token does not allow this room." : "Loading …";
    byId("before").textContent = isEmpty ? nothing : !loaded ? refused : more || this.#from > place.first ? "…" : "This is the first message.";
  }

  /** @param {Place} place */
  #list(place) {
    const items = [];
    /** @type {{from: string, at: number} | undefined} */
    let last;
    for (const message of place.messages.slice(Math.max(0, this.#from - place.first))) {
      const key = `${message.offset} ${message.at}`;
      const item = this.#item(key, () => showMessage(message, message.from === this.chat.user));
      item.classList.toggle("first-new", message.offset === this.#firstNew && message.from !== this.chat.user);
      items.push(this.#join(item, last, message));
      last = message;
    }
    for (const outgoing of place.outgoing.filter(({ echo }) => !echo)) {
      const item = this.#item(`${outgoing.id} ${outgoing.state}`, () => this.#showOutgoing(outgoing));
      const sent = { from: this.chat.user, at: outgoing.at };
      items.push(this.#join(item, last, sent));
      last = sent;
    }
    return items;
  }

  /** @param {string} key @param {() => HTMLLIElement} make */
  #item(key, make) {
    let item = this.#items.get(key);
    if (!item) this.#items.set(key, (item = make()));
    return item;
  }

  /** @param {Outgoing} outgoing */
  #showOutgoing(outgoing) {
    return showOutgoing(outgoing, { retry: () => this.chat.retry(outgoing), discard: () => this.chat.discard(outgoing) });
  }

  /** @param {HTMLLIElement} item @param {{from: string, at: number} | undefined} last @param {{from: string, at: number}} next */
  #join(item, last, next) {
    item.classList.toggle("goes-on", goesOn(last, next));
    item.classList.toggle("new-day", !isSameDay(last, next));
    return item;
  }

  #inView() {
    const top = this.#log.scrollTop;
    const items = /** @type {HTMLElement[]} */ ([...byId("messages").children]);
    return items.find((item) => endOf(item) > top);
  }

  #toEnd() {
    this.#isAtEnd = true;
    this.#settle();
  }

  /** @param {number} top */
  #scroll(top) {
    this.#log.scrollTop = top;
    this.#top = this.#log.scrollTop;
  }

  /**
   * After every change: keeps the end in view, loads older messages until the screen is full, and reports what is read.
   */
  #settle() {
    if (this.#isAtEnd) this.#scroll(this.#log.scrollHeight);
    this.#newest.hidden = this.#isAtEnd || !this.#place?.unread;
    this.#fill();
    this.#read();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    // A list that has grown was not scrolled away from its end by the user.
    const isNear = scrollHeight - scrollTop - clientHeight < AT_END;
    this.#isAtEnd = isNear || (this.#isAtEnd && scrollTop >= this.#top);
    this.#top = scrollTop;
    if (this.#isAtEnd) this.#newest.hidden = true;
    this.#fill();
    this.#read();
  }

  #fill() {
    const place = this.#place;
    if (!place?.loaded || !this.#log.clientHeight || this.#log.scrollTop > NEAR_START) return;
    if (this.#from > place.first) {
      this.#from = Math.max(place.first, this.#from - PAGE);
      this.update();
    } else this.chat.older(place);
  }

  /** Whether the user sees the newest message. */
  #isSeen() {
    return this.#isAtEnd && this.#log.clientHeight > 0 && document.hasFocus() && document.visibilityState === "visible";
  }

  #read() {
    // After drawing, because new messages are marked as such first.
    if (this.#place?.loaded && !this.#isOpening && this.#isSeen()) this.chat.read(this.#place);
  }
}

/**
 * The bottom of a message. Its top moves when a message of the same author or day is inserted before it.
 * @param {HTMLElement} item
 */
const endOf = (item) => item.offsetTop + item.offsetHeight;
