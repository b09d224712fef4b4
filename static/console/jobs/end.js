// @ts-check
/** The end of a job: its result, targets in an unknown state, and its files. */

import { byId, element } from "../dom.js";
import { wordOf } from "./targets.js";
import { addressOf, showWhole, sizeOf } from "../chat/message.js";

/** @typedef {import("../../client/job-history.js").JobHistory} JobHistory */
/** @typedef {{name: string, url: string, bytes?: number}} File */

const HEADINGS = { succeeded: "Succeeded", failed: "Failed", cancelled: "Cancelled", interrupted: "Interrupted" };
const RETRIES = /** @type {const} */ (["failed", "unreachable", "not_started", "cancelled", "unfinished"]);
const PICTURE = /\.(jpe?g|png|webp|gif)$/i;
const FILM = /\.(webm|mp4)$/i;

/** @param {JobHistory} history */
export function showEnd(history) {
  const end = /** @type {Record<string, any>} */ (history.end);
  const state = /** @type {keyof HEADINGS} */ (history.state);
  const section = byId("job-end");
  section.dataset.state = state;
  const { files, errors, ...result } = Object(end.result ?? {});
  const kept = Array.isArray(files) ? /** @type {File[]} */ (files.filter(isFile)) : [];
  section.replaceChildren(
    element("h3", {}, HEADINGS[state]),
    ...paragraphs(history, end).map((text) => element("p", { dir: "auto" }, text)),
    ...(Array.isArray(errors) ? [listOf(errors.map(faultOf))] : []),
    ...pictures(kept),
    ...(kept.length ? [listOf(kept.map(linkTo), "job-files")] : []),
    ...facts(result),
  );
}

/** @param {JobHistory} history @param {Record<string, any>} end */
function paragraphs(history, end) {
  const texts = end.message ? [`${end.message}${end.code && end.code !== history.state ? ` (${end.code})` : ""}`] : [];
  if (history.state === "interrupted") texts.push("The job did not finish. This is its last known state.");
  const unknown = end.unknown_count ?? 0;
  if (unknown) {
    const names = (end.unknown ?? []).join(", ");
    const more = unknown - (end.unknown ?? []).length;
    const of = unknown === 1 ? "one target that was running" : `${unknown.toLocaleString()} targets that were running`;
    texts.push(`Unknown result of ${of}: ${names}${more > 0 ? ` and ${more.toLocaleString()} more` : ""}.`);
  }
  if (end.lines_cut) texts.push(`The log is incomplete: ${end.lines_cut.toLocaleString()} lines were not stored.`);
  return texts;
}

/** @param {any} file @returns {file is File} */
const isFile = (file) => typeof file?.name === "string" && typeof file?.url === "string" && addressOf(file.url) !== "";

/** Shows contact sheets and films. @param {File[]} files */
function pictures(files) {
  return files.filter(({ name }) => PICTURE.test(name) || FILM.test(name)).map(({ name, url }) => {
    const figure = element("figure", { className: "job-result" });
    const gone = () => figure.replaceChildren(element("p", { className: "quiet" }, `${name} can no longer be shown: results are stored for a limited time.`));
    const src = addressOf(url);
    if (FILM.test(name)) {
      const film = element("video", { controls: true, preload: "metadata", src, onerror: gone });
      film.setAttribute("aria-label", name);
      figure.append(film);
    } else {
      const image = element("img", { src, alt: name, onerror: gone });
      const link = element("a", { href: src, target: "_blank", rel: "noopener noreferrer", title: "Show the whole picture" }, image);
      link.onclick = (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        showWhole(src, name);
      };
      figure.append(link);
    }
    return figure;
  }); // prettier-ignore
}

/** @param {File} file */
function linkTo({ name, url, bytes }) {
  return [element("a", { href: addressOf(url), download: name }, name), bytes === undefined ? "" : ` ${sizeOf(bytes)}`];
}

/** @param {any} fault */
const faultOf = (fault) => [element("b", {}, String(fault?.field ?? "")), ` ${fault?.message ?? JSON.stringify(fault)}${fault?.line ? ` (line ${fault.line})` : ""}`];

/** @param {(Node | string)[][]} items */
const listOf = (items, className = "") => element("ul", { className }, ...items.map((each) => element("li", {}, ...each)));

/** Further members of the job's result. @param {Record<string, any>} result */
function facts(result) {
  const entries = Object.entries(result).filter(([, value]) => value !== null && !isEmpty(value));
  if (!entries.length) return [];
  const rows = entries.map(([name, value]) => element("div", {}, element("dt", {}, wordOf(name)), element("dd", { dir: "auto" }, ...textOf(value))));
  return [element("dl", { className: "facts" }, ...rows)];
}

/** @param {any} value */
const isEmpty = (value) => typeof value === "object" && Object.keys(value).length === 0;

/** @param {any} value @returns {(Node | string)[]} */
function textOf(value) {
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) return [value.join(", ")];
  if (typeof value !== "object") return [typeof value === "number" ? value.toLocaleString() : String(value)];
  const plain = !Array.isArray(value) && Object.values(value).every((each) => typeof each !== "object");
  return plain ? [listOf(Object.entries(value).map(([name, each]) => [`${wordOf(name)}: ${each}`]))] : [JSON.stringify(value)];
}

/**
 * A button for each state whose targets can be retried.
 * @param {JobHistory} history
 * @param {(only: typeof RETRIES[number]) => void} retry
 */
export function showRetries(history, retry) {
  const known = RETRIES.map((only) => /** @type {const} */ ([only, history.retryable(only)]));
  // No button for all unfinished targets when another button has the same targets.
  const all = history.retryable("unfinished");
  const wanted = known.filter(([only, count]) => count && (only !== "unfinished" || !known.some(([other, its]) => other !== only && its === all)));
  byId("job-retries").replaceChildren(...wanted.map(([only, count]) => {
    const words = only === "unfinished" ? `Retry all ${count.toLocaleString()} unfinished` : `Retry ${count.toLocaleString()} ${wordOf(only)}`;
    return element("button", { type: "button", onclick: () => retry(only) }, words);
  })); // prettier-ignore
}
