// @ts-check
/** A room or the conversation with one user: what is known of it. The messages held are one run without a gap. */

/** @typedef {import("./upload.js").Upload} Attachment */
/**
 * @typedef {{stream: string, offset: number, from: string, at: number, text: string, attachments: Attachment[]}} Message
 */
/**
 * What was said here and is not among the messages yet. "sent": stored, its message is on its way back. `echo`: the
 * message that seems to be this one, before the server has said so.
 * @typedef {{id: string, place: Place, at: number, text: string, attachments: Attachment[], attempts: number,
 *   state: "sending" | "sent" | "failed", offset?: number, echo?: number, error?: {code: string, message: string}}} Outgoing
 */

export class Place {
  /** @type {Message[]} In order; each offset one more than the last. */
  messages = [];
  /** @type {Outgoing[]} */
  outgoing = [];
  /** @type {string[]} Who is in the room. */
  present = [];
  /** @type {Map<string, ReturnType<typeof setTimeout>>} Who types. */
  typing = new Map();
  unread = 0;
  /** @type {"away" | "joining" | "joined" | "refused"} Of rooms: messages and presence come only while "joined". */
  state = "away";
  /** @type {string | undefined} What its offsets count in. */
  epoch;
  /** Whether it is shown, whether the newest messages were fetched, and whether there are older ones. */
  wanted = false;
  loaded = false;
  more = true;
  /** @type {"newest" | "older" | undefined} The page of history that was requested and has not come. */
  requested;
  /** The last offset that was held when it was requested. */
  requestedAt = 0;
  /** All up to this offset was received, or was there before; and the offset of the newest message there is. */
  seen = 0;
  head = 0;
  /** The last offset that was reported to the server as read. */
  reported = 0;

  /** @param {string} stream */
  constructor(stream) {
    this.stream = stream;
    this.name = stream.slice(stream.indexOf("/") + 1);
    this.isRoom = stream.startsWith("room/");
  }

  get first() {
    return this.messages[0]?.offset ?? 0;
  }

  get last() {
    return this.messages.at(-1)?.offset ?? 0;
  }

  /** Where messages of this client go. */
  get address() {
    return this.isRoom ? { room: this.name } : { to: this.name };
  }

  /** What is held is void. @param {number} seen */
  restart(seen) {
    this.messages = [];
    this.loaded = false;
    this.more = true;
    this.seen = this.head = seen;
    this.reported = 0;
    this.outgoing = this.outgoing.filter(({ state }) => state !== "sent");
  }

  /** Takes a message that has come by itself; false for one that is held already. @param {Message} message */
  take(message) {
    const { offset } = message;
    const held = this.messages[offset - this.first];
    if (held?.at === message.at && held.from === message.from) return false;
    // Another one at an offset that was passed: the server has lost its log and counts from 1 again.
    if (this.last && offset <= this.last) this.restart(0);
    // A message that is not the next: what lies between comes by history.
    else if (this.last && offset > this.last + 1) this.restart(offset - 1);
    this.messages.push(message);
    this.seen = offset;
    this.head = Math.max(this.head, offset);
    this.#settle();
    return true;
  }

  /** Takes a page of history. @param {Message[]} page @param {boolean} more Whether there are older ones still. */
  takePage(page, more) {
    const isNewest = this.requested === "newest";
    this.requested = undefined;
    if (isNewest) this.loaded = true;
    if (!page.length) {
      // Nothing is newest, and what is held was held when that was requested: the server has lost its log.
      if (isNewest && this.last && this.last === this.requestedAt) this.restart(0);
      this.loaded ||= isNewest;
      this.more = false;
      return;
    }
    const [from, to] = [page[0].offset, page[page.length - 1].offset];
    const touches = this.last && from <= this.last + 1 && to >= this.first - 1;
    const isOther = page.some((each) => (this.messages[each.offset - this.first]?.at ?? each.at) !== each.at);
    if (touches && !isOther) {
      const [first, last] = [this.first, this.last];
      const [older, newer] = [page.filter(({ offset }) => offset < first), page.filter(({ offset }) => offset > last)];
      this.messages = [...older, ...this.messages, ...newer];
    } else if (isNewest || !this.last) this.messages = page;
    else return; // requested before the run was restarted
    if (this.first === from) this.more = more;
    this.seen = Math.max(this.seen, this.last);
    this.head = Math.max(this.head, this.last);
    this.#settle();
  }

  /** Stored messages of this client that are among the messages are no longer on their way. */
  #settle() {
    this.outgoing = this.outgoing.filter(({ offset }) => !offset || offset > this.last);
  }

  /** The server has stored it. @param {Outgoing} outgoing @param {number} offset */
  acknowledge(outgoing, offset) {
    outgoing.state = "sent";
    outgoing.offset = offset;
    this.#settle();
  }

  /** A message of this user has come: of what was sent, it may be the first that says the same. @param {Message} message */
  recognise({ text, attachments, offset }) {
    const same = (/** @type {Outgoing} */ sent) =>
      !sent.echo && sent.text === text && sent.attachments.map(({ id }) => id).join() === attachments.map(({ id }) => id).join();
    const sent = this.outgoing.find((each) => each.state === "sending" && same(each));
    if (sent) sent.echo = offset;
  }
}
