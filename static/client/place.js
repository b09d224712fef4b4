// @ts-check
/** A room or a conversation with one user. Its loaded messages have consecutive offsets. */

/** @typedef {import("./upload.js").Upload} Attachment */
/**
 * @typedef {{stream: string, offset: number, from: string, at: number, text: string, attachments: Attachment[]}} Message
 */
/**
 * A message of this client that is not among the loaded messages yet. State "sent": stored, and on its way back.
 * `echo`: offset of the received message that is probably this one, before the acknowledgement arrives.
 * @typedef {{id: string, place: Place, at: number, text: string, attachments: Attachment[], attempts: number,
 * state: "sending" | "sent" | "failed", offset?: number, echo?: number, error?: {code: string, message: string}}}
 * Outgoing
 */

export class Place {
  /** @type {Message[]} In order. Each offset is one more than the offset before. */
  messages = [];
  /** @type {Outgoing[]} */
  outgoing = [];
  /** @type {string[]} Users in the room. */
  present = [];
  /** @type {Map<string, ReturnType<typeof setTimeout>>} Users who are typing. */
  typing = new Map();
  unread = 0;
  /**
   * @type {"away" | "joining" | "joined" | "refused"} State of a room. Messages and presence arrive only while "joined".
   */
  state = "away";
  /** @type {string | undefined} Epoch of the offsets. */
  epoch;
  /** Whether it is shown, whether the newest messages were loaded, and whether there are older ones. */
  wanted = false;
  loaded = false;
  more = true;
  /** @type {"newest" | "older" | undefined} The requested page of history that has not arrived yet. */
  requested;
  /** Last loaded offset at the time of that request. */
  requestedAt = 0;
  /**
   * `seen`: all events up to this offset were received or are older than this client. `head`: offset of the newest
   * message.
   */
  seen = 0;
  head = 0;
  /** Last offset that was reported to the server as read. */
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

  /** Members that address messages to this place. */
  get address() {
    return this.isRoom ? { room: this.name } : { to: this.name };
  }

  /** Discards the loaded messages. @param {number} seen */
  restart(seen) {
    this.messages = [];
    this.loaded = false;
    this.more = true;
    this.seen = this.head = seen;
    this.reported = 0;
    this.outgoing = this.outgoing.filter(({ state }) => state !== "sent");
  }

  /** Adds a new message. Returns false when it is already loaded. @param {Message} message */
  take(message) {
    const { offset } = message;
    const held = this.messages[offset - this.first];
    if (held?.at === message.at && held.from === message.from) return false;
    // Another message at a known offset: the server has lost its events and counts from 1 again.
    if (this.last && offset <= this.last) this.restart(0);
    // Not the next message: history will fill the gap.
    else if (this.last && offset > this.last + 1) this.restart(offset - 1);
    this.messages.push(message);
    this.seen = offset;
    this.head = Math.max(this.head, offset);
    this.#settle();
    return true;
  }

  /** Adds a page of history. @param {Message[]} page @param {boolean} more Whether there are older messages. */
  takePage(page, more) {
    const isNewest = this.requested === "newest";
    this.requested = undefined;
    if (isNewest) this.loaded = true;
    if (!page.length) {
      // No newest message, although messages were loaded at the time of the request: the server has lost its events.
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
    else return; // requested before the messages were discarded
    if (this.first === from) this.more = more;
    this.seen = Math.max(this.seen, this.last);
    this.head = Math.max(this.head, this.last);
    this.#settle();
  }

  /** Removes stored messages of this client from `outgoing` when they are among the loaded messages. */
  #settle() {
    this.outgoing = this.outgoing.filter(({ offset }) => !offset || offset > this.last);
  }

  /** The server has stored the message. @param {Outgoing} outgoing @param {number} offset */
  acknowledge(outgoing, offset) {
    outgoing.state = "sent";
    outgoing.offset = offset;
    this.#settle();
  }

  /**
   * The server has delivered a message of this user before its acknowledgement. Marks the oldest message that is being
   * sent and has the same content as delivered. This is a guess, because the delivered message has no `client_id`.
   * @param {Message} message
   */
  recognise({ text, attachments, offset }) {
    const same = (/** @type {Outgoing} */ sent) =>
      !sent.echo && sent.text === text && sent.attachments.map(({ id }) => id).join() === attachments.map(({ id }) => id).join();
    const sent = this.outgoing.find((each) => each.state === "sending" && same(each));
    if (sent) sent.echo = offset;
  }
}
