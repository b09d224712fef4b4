// @ts-check
/** One message as an element: author, time, text and attachments. */

import { byId, element } from "../dom.js";

/** @typedef {import("../../client/place.js").Attachment} Attachment */
/** @typedef {import("../../client/place.js").Message} Message */
/** @typedef {import("../../client/place.js").Outgoing} Outgoing */

const LINK = /https?:\/\/[^\s<>"]+[^\s<>"'.,:;!?()[\]{}]/g;
/** Messages of the same author within this many milliseconds are grouped. */
const TOGETHER = 5 * 60_000;
/** Largest width and height of a picture in pixels, before it is scaled to the available space. */
const BOX = 320;

/** @param {Message} message @param {boolean} isMine */
export function showMessage(message, isMine) {
  const { from, at, text, attachments } = message;
  const time = timeOf(at);
  if (isMine) time.append(element("span", { className: "sign", title: "Sent and stored by the server" }, " ✓"), hidden(" sent"));
  const bubble = element("div", { className: "bubble" }, element("bdi", { className: "author" }, isMine ? "You" : from));
  if (text) bubble.append(element("p", { className: "text", dir: "auto" }, ...linked(text)));
  bubble.append(...(attachments ?? []).map(showAttachment), time);
  return element("li", { className: isMine ? "own" : "" }, element("p", { className: "day" }, dayOf(at)), bubble);
}

/** @param {Outgoing} outgoing @param {{retry: () => void, discard: () => void}} actions */
export function showOutgoing(outgoing, { retry, discard }) {
  const { at, text, attachments, state, error } = outgoing;
  const bubble = element("div", { className: "bubble" }, element("bdi", { className: "author" }, "You"));
  if (text) bubble.append(element("p", { className: "text", dir: "auto" }, ...linked(text)));
  bubble.append(...attachments.map(showAttachment));
  const item = element("li", { className: "own" }, element("p", { className: "day" }, dayOf(at)), bubble);
  item.dataset.state = state;
  if (state !== "failed") {
    const [sign, words] = state === "sent" ? [" ✓", " sent"] : ["", "sending …"];
    bubble.append(state === "sent" ? timeOf(at, sign, hidden(words)) : element("small", {}, words));
  } else {
    const again = element("button", { type: "button", onclick: retry }, "Try again");
    const drop = element("button", { type: "button", onclick: discard }, "Discard");
    bubble.append(element("p", { className: "failure" }, `Not sent: ${error?.message} (${error?.code})`, again, drop));
  }
  return item;
}

/**
 * Whether `next` belongs to the group of the message before it.
 * @param {{from: string, at: number} | undefined} last
 * @param {{from: string, at: number}} next
 */
export const goesOn = (last, next) => last?.from === next.from && next.at - last.at < TOGETHER && dayOf(last.at) === dayOf(next.at);

/** Whether both are of the same day. @param {{at: number} | undefined} last @param {{at: number}} next */
export const isSameDay = (last, next) => last !== undefined && dayOf(last.at) === dayOf(next.at);

const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/** @param {number} at */
const dayOf = (at) => DAY.format(at);

/** @param {number} at @param {(Node | string)[]} more */
function timeOf(at, ...more) {
  const date = new Date(at);
  return element("time", { dateTime: date.toISOString(), title: date.toLocaleString() }, TIME.format(date), ...more);
}

/** A text for screen readers only. @param {string} text */
const hidden = (text) => element("span", { className: "unseen" }, text);

/** The text with its URLs as links. Nothing is fetched before a user follows a link. @param {string} text */
function linked(text) {
  /** @type {(Node | string)[]} */
  const parts = [];
  let end = 0;
  for (const { 0: href, index } of text.matchAll(LINK)) {
    const link = element("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, href);
    parts.push(text.slice(end, index), link);
    end = index + href.length;
  }
  return [...parts, text.slice(end)];
}

/** Returns a URL that is safe to show: http or https, of any server. @param {string | undefined} url */
export function addressOf(url) {
  if (!url || !URL.canParse(url, location.href)) return "";
  const address = new URL(url, location.href);
  return ["http:", "https:"].includes(address.protocol) ? address.href : "";
}

/** @param {Attachment} attachment */
export function showAttachment(attachment) {
  const { kind, type, size } = attachment;
  const url = addressOf(attachment.url);
  if (kind === "image") return showPicture(attachment, url);
  const label = `${kind === "audio" ? "Audio" : "Video"}, ${type}, ${sizeOf(size)}`;
  const player = element(kind === "audio" ? "audio" : "video", { controls: true, preload: "metadata", src: url });
  player.setAttribute("aria-label", label);
  return element("figure", { className: kind }, player, element("figcaption", { className: "quiet" }, label));
}

/**
 * The thumbnail, in a space of its final size. A click shows the whole picture.
 * @param {Attachment} attachment
 * @param {string} url
 */
function showPicture({ thumbnail, width = BOX, height = BOX, size }, url) {
  const scale = Math.min(1, BOX / width, BOX / height);
  const [across, down] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  const image = element("img", { src: addressOf(thumbnail) || url, width: across, height: down, loading: "lazy" });
  image.alt = `Picture, ${width} by ${height} pixels, ${sizeOf(size)}`;
  const link = element("a", { href: url, target: "_blank", rel: "noopener noreferrer", title: "Show the whole picture" }, image);
  link.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    showWhole(url, image.alt);
  };
  return element("figure", { className: "image" }, link);
}

/** @param {string} url @param {string} alt */
export function showWhole(url, alt) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("whole"));
  Object.assign(/** @type {HTMLImageElement} */ (dialog.querySelector("img")), { src: url, alt });
  /** @type {HTMLAnchorElement} */ (dialog.querySelector("a")).href = url;
  dialog.onclick = ({ target }) => {
    if (target === dialog || target instanceof HTMLButtonElement) dialog.close();
  };
  dialog.showModal();
}

/** @param {number} bytes */
export function sizeOf(bytes) {
  const [unit, name] = bytes < 1e6 ? [1e3, "KB"] : [1e6, "MB"];
  return `${(bytes / unit).toLocaleString(undefined, { maximumFractionDigits: unit === 1e6 ? 1 : 0 })} ${name}`;
}
