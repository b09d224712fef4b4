// @ts-check
/**
 * The client of the server's chat: rooms, conversations with one user, unread counts and presence.
 *
 * It reconnects by itself. Every message is delivered once and in order, and messages that were said while the
 * connection was down are sent once.
 *
 *     const chat = new Chat("wss://pictures.example/ws/chat", { token });
 *     chat.addEventListener("message", ({ detail: { place, message } }) => show(place.name, message));
 *     chat.open("room/harbour");
 *     chat.say("room/harbour", "hello");
 *     chat.say("direct/bob", "look at this", [await chat.upload(file)]);
 */

import { Outbox } from "./outbox.js";
import { Pace } from "./pace.js";
import { Place } from "./place.js";
import { Connection } from "./socket.js";
import { upload } from "./upload.js";

/** @typedef {import("./place.js").Attachment} Attachment */
/** @typedef {import("./place.js").Message} Message */
/** @typedef {import("./place.js").Outgoing} Outgoing */

const HISTORY = 50;
/**
 * In milliseconds: how long typing is shown, after how long it is sent again, and the shortest time between two read
 * reports.
 */
const TYPING = 5000;
const TYPING_AGAIN = 2500;
const READ_LINGER = 150;
/**
 * Events: "place" (detail: a Place that has changed, is new, or was left), "message" (detail: {place, message}, once
 * for each message), "notice" (detail: {kind: "announcement" | "warning" | "error", text, from?}), "state".
 */
export class Chat extends Connection {
  /** @type {Map<string, Place>} Stream (room/NAME or direct/NAME) -> place. */
  places = new Map();
  #pace = new Pace((message) => this.tell(message));
  #outbox = new Outbox({
    isReady: (place) => this.#isReady(place),
    send: (message) => this.#pace.push(message),
    changed: (place) => this.fire("place", place),
    deaf: () => this.reconnect("server does not answer"),
  });
  #typedAt = 0;
  /**
   * @type {Map<Place, number>} Places whose read report was sent a moment ago, and the offset up to which they were read.
   */
  #reading = new Map();

  /** The user's name. Empty before the first greeting of the server. */
  get user() {
    return /** @type {string} */ (this.hello?.user ?? "");
  }

  /** Returns the place with this stream, and creates it when it is new. @param {string} stream */
  place(stream) {
    let place = this.places.get(stream);
    if (!place) this.places.set(stream, (place = new Place(stream)));
    return place;
  }

  /** Joins the room or starts the conversation, and requests its newest messages. @param {string} stream */
  open(stream) {
    const place = this.place(stream);
    place.wanted = true;
    if (!place.isRoom) this.#request(place, "newest");
    else if (place.state === "away" || place.state === "refused") this.#join(place);
    this.fire("place", place);
    return place;
  }

  /** Leaves a room for good. Its unread messages are no longer counted. @param {Place} place */
  leave(place) {
    this.places.delete(place.stream);
    for (const outgoing of place.outgoing) this.#outbox.discard(outgoing);
    if (place.state === "joined") this.#pace.push({ type: "leave", room: place.name });
    else if (place.state === "away") this.#pace.push({ type: "join", room: place.name }); // the room is left when the join is done
    this.fire("place", place);
  }

  /** Requests the messages before the oldest loaded one. @param {Place} place */
  older(place) {
    if (place.loaded && place.more && place.first > 1) this.#request(place, "older");
  }

  /** @param {string} stream @param {string} text @param {Attachment[]} [attachments] */
  say(stream, text, attachments = []) {
    this.#typedAt = 0;
    return this.#outbox.add(this.open(stream), text, attachments);
  }

  /** Sends a failed message again. @param {Outgoing} outgoing */
  retry(outgoing) {
    this.open(outgoing.place.stream);
    this.#outbox.retry(outgoing);
  }

  /** Discards a failed message. @param {Outgoing} outgoing */
  discard(outgoing) {
    this.#outbox.discard(outgoing);
  }

  /** Reports that the user has seen the newest message. @param {Place} place */
  read(place) {
    if (place.last <= place.reported || !this.#isReady(place)) return;
    const isLingering = this.#reading.has(place);
    this.#reading.set(place, place.last);
    if (isLingering) return;
    this.#reportRead(place);
    setTimeout(() => {
      if (this.#isReady(place)) this.#reportRead(place);
      this.#reading.delete(place);
    }, READ_LINGER);
  }

  /** Reports that the user is typing. @param {Place} place */
  type(place) {
    if (Date.now() - this.#typedAt < TYPING_AGAIN || !this.#isReady(place)) return;
    this.#typedAt = Date.now();
    this.tell({ type: "typing", ...place.address });
  }

  /**
   * Uploads a picture, audio or video, to attach it with `say`. Throws UploadError.
   * @param {Blob} file
   * @param {AbortSignal} [signal]
   * @returns {Promise<Attachment>}
   */
  upload(file, signal) {
    return upload(this, file, signal);
  }

  /** @param {Place} place */
  #join(place) {
    place.state = "joining";
    const position = place.epoch ? { after: place.seen, epoch: place.epoch } : {};
    if (this.state === "open") this.#pace.push({ type: "join", room: place.name, ...position });
  }

  /** @param {Place} place @param {"newest" | "older"} which */
  #request(place, which) {
    if (this.state !== "open" || place.requested || (which === "newest" && place.loaded)) return;
    place.requested = which;
    place.requestedAt = place.last;
    const before = which === "older" ? { before: place.first } : {};
    this.#pace.push({ type: "history", stream: place.stream, limit: HISTORY, ...before });
  }

  /** @param {Place} place */
  #reportRead(place) {
    const offset = this.#reading.get(place) ?? 0;
    if (offset <= place.reported) return;
    place.reported = offset;
    place.unread = place.messages.filter((each) => each.offset > offset && each.from !== this.user).length;
    this.#pace.push({ type: "read", stream: place.stream, offset });
    this.fire("place", place);
  }

  /** Whether messages can be sent to this place now. @param {Place} place */
  #isReady(place) {
    return this.state === "open" && (!place.isRoom || place.state === "joined");
  }

  /** @override @param {Record<string, any>} hello */
  greet(hello) {
    this.#pace.begin(hello.limits.chat_rate);
    for (const place of this.places.values()) {
      // Answers of the last connection will not arrive, and reports to it may be lost.
      place.requested = undefined;
      place.reported = 0;
      if (place.state !== "away") place.state = "joining";
    }
    this.become("open");
    for (const place of this.places.values()) {
      if (place.state === "joining") this.#join(place);
      else if (!place.isRoom) this.#catchUp(place);
    }
  }

  /**
   * Requests the read mark again, because reads on other devices during the interruption are not reported.
   * @param {Place} place
   */
  #catchUp(place) {
    if (place.wanted) {
      place.loaded = false;
      this.#request(place, "newest");
    }
    this.#outbox.resend(place);
  }

  /** @override @param {number} code @param {string} reason */
  ended(code, reason) {
    this.#outbox.end(`connection closed: ${reason || code}`);
  }

  /** @override @param {Record<string, any>} message */
  receive(message) {
    if (message.type === "message") this.#take(/** @type {any} */ (message));
    else if (message.type === "ack") this.#outbox.acknowledged(message);
    else if (message.type === "joined") this.#joined(message);
    else if (message.type === "history") this.#page(message);
    else if (message.type === "unread") this.#counted(message.streams);
    else if (message.type === "presence") this.#moved(message);
    else if (message.type === "typing") this.#typing(message);
    else if (message.type === "error" && message.client_id) this.#outbox.refused(message);
    else if (message.type === "error") this.#refused(message);
    else if (message.type === "announcement") this.fire("notice", { kind: message.type, text: message.text, from: message.from });
    else if (message.type === "warning") this.fire("notice", { kind: message.type, text: message.message });
    else if (message.type === "resumed" && !message.recovered) this.#gone(message.stream);
  }

  /** @param {Message} message */
  #take(message) {
    const place = this.places.get(message.stream) ?? (message.stream.startsWith("direct/") && this.place(message.stream));
    if (!place) return; // a message of a room that was left
    const wasLoaded = place.loaded;
    const isNew = message.offset > place.head;
    if (!place.take(message)) return;
    // The server sends the unread count of conversations. Unread messages of a joined room are counted here.
    const isMine = message.from === this.user;
    if (isMine) place.recognise(message);
    if (isMine && isNew) place.unread = 0;
    else if (place.isRoom && isNew) place.unread += 1;
    if (wasLoaded && !place.loaded) this.#request(place, "newest");
    this.#stopTyping(place, message.from);
    this.fire("message", { place, message });
    this.fire("place", place);
  }

  /** @param {Record<string, any>} message */
  #joined({ stream, room, epoch, offset, recovered, unread, present }) {
    const place = this.places.get(stream);
    if (!place) return this.#pace.push({ type: "leave", room });
    if (!recovered || !place.epoch) place.restart(offset);
    Object.assign(place, { state: "joined", epoch, present, unread, head: offset });
    this.#request(place, "newest");
    this.#outbox.resend(place);
    this.fire("place", place);
  }

  /** @param {Record<string, any>} message */
  #page({ stream, messages, more }) {
    const place = this.places.get(stream);
    if (!place?.requested) return;
    place.takePage(messages, more);
    this.fire("place", place);
  }

  /**
   * @param {Record<string, number | null>} streams Unread counts. Null: the room was left, perhaps on another device.
   */
  #counted(streams) {
    for (const [stream, unread] of Object.entries(streams)) {
      const place = unread === null ? this.places.get(stream) : this.place(stream);
      if (!place) continue;
      if (unread === null && !place.wanted) this.places.delete(stream);
      // A higher count in a joined room is not used: its message is on the way and is counted when it arrives.
      if (unread !== null) place.unread = place.state === "joined" ? Math.min(place.unread, unread) : unread;
      this.fire("place", place);
    }
  }

  /** @param {Record<string, any>} message */
  #moved({ room, present, entered, left }) {
    const place = this.places.get(`room/${room}`);
    if (!place) return;
    if (present) place.present = present;
    if (entered && !place.present.includes(entered)) place.present = [...place.present, entered].sort();
    if (left) place.present = place.present.filter((name) => name !== left);
    this.fire("place", place);
  }

  /** @param {Record<string, any>} message */
  #typing({ stream, from }) {
    const place = this.places.get(stream);
    if (!place || from === this.user) return;
    clearTimeout(place.typing.get(from));
    place.typing.set(from, setTimeout(() => this.#stopTyping(place, from), TYPING));
    this.fire("place", place);
  }

  /** @param {Place} place @param {string} name */
  #stopTyping(place, name) {
    clearTimeout(place.typing.get(name));
    if (place.typing.delete(name)) this.fire("place", place);
  }

  /** Reports an error that concerns no message of this client. @param {Record<string, any>} error */
  #refused({ code, message, temporary, room, stream }) {
    for (const place of this.places.values()) {
      if (place.requested && temporary && stream === place.stream) place.requested = undefined;
      if (place.state !== "joining" || room !== place.name) continue;
      place.state = "refused";
      if (temporary) setTimeout(() => place.state === "refused" && this.open(place.stream), 1000 + Math.random() * 1000);
      else for (const outgoing of place.outgoing) this.#outbox.refused({ client_id: outgoing.id, code, message });
      this.fire("place", place);
    }
    this.fire("notice", { kind: "error", text: message });
  }

  /** @param {string} stream */
  #gone(stream) {
    const place = this.place(stream);
    this.fire("notice", { kind: "warning", text: `Older messages of ${place.name} are no longer stored.` });
  }
}
