// @ts-check
/**
 * The console: a page to try everything that the server can do. It uses only sluice.js, chat.js, live.js and jobs.js.
 */

import { Chat } from "../client/chat.js";
import { byId } from "./dom.js";
import { JobsView, jobOf } from "./jobs/view.js";
import { showOptions, readOptions } from "./images/options.js";
import { Rooms, streamOf } from "./chat/rooms.js";
import { Sluice } from "../client/sluice.js";
import { Viewer, boxes } from "./images/viewer.js";
import { SourceGrid, sourceOf } from "./live/grid.js";

/** @typedef {import("../client/sluice.js").Slice} Slice */

const SAMPLE = "/static/sample.jpg";
const SAMPLE_CAPTION =
  "Earth from pole to pole, in four strips: Blue Marble Next Generation, R. Stöckli, NASA Earth Observatory. Public domain.";

const action = /** @type {HTMLSelectElement} */ (byId("action"));
const zoom = /** @type {HTMLSelectElement} */ (byId("zoom"));
const start = /** @type {HTMLButtonElement} */ (byId("start"));
const cancel = /** @type {HTMLButtonElement} */ (byId("cancel"));
const original = /** @type {HTMLInputElement} */ (byId("original"));
const progress = /** @type {HTMLProgressElement} */ (byId("progress"));
const file = /** @type {HTMLInputElement} */ (document.querySelector("#drop input"));

const sluice = new Sluice("/ws/images");
// A token without the scope for chat is refused on every attempt.
const chat = new Chat("/ws/chat", { attempts: 2 });
const rooms = new Rooms(chat);
const grid = new SourceGrid(() => showConnection());
const jobs = new JobsView(() => showConnection(), () => sluice.hello?.actions);
const viewer = new Viewer(byId("sheet"), byId("map"));
/** @type {import("../client/sluice.js").Picture | null} */
let picture = null;
/** @type {{blob: Blob, url: string, caption: string} | null} */
let chosen = null;
/** Incremented for each chosen picture. A picture that is ready after a later choice is dropped. */
let turns = 0;

sluice.addEventListener("state", showConnection);
sluice.addEventListener("state", () => jobs.update());
chat.addEventListener("state", showConnection);
addEventListener("hashchange", showView);

/** The URL names the view and the room, so that it can be bookmarked and the Back button works. */
function showView() {
  const [stream, source, job] = [streamOf(location.hash), sourceOf(location.hash), jobOf(location.hash)];
  const view = stream !== undefined ? "rooms" : source !== undefined ? "live" : job ? "jobs" : "picture";
  document.body.dataset.view = view;
  byId("rooms").hidden = view !== "rooms";
  byId("live-controls").hidden = byId("live-view").hidden = view !== "live";
  byId("jobs-controls").hidden = byId("jobs-view").hidden = view !== "jobs";
  byId("picture-controls").hidden = byId("picture-view").hidden = view !== "picture";
  byId("map").hidden = view !== "picture" || !picture;
  for (const link of document.querySelectorAll("nav[aria-label=Views] a")) {
    if (link.getAttribute("href") === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (stream !== undefined) rooms.show(stream);
  else rooms.hide();
  if (source !== undefined) grid.show(source);
  else grid.hide();
  if (job) jobs.show(job);
  else jobs.hide();
  showConnection();
}

/** Shows the state of the connection of this view. If it was never open, the page asks for a token. */
function showConnection() {
  const { view } = document.body.dataset;
  const { state, hello, reason } = view === "rooms" ? chat : (view === "live" && grid.live) || (view === "jobs" && jobs.jobs) || sluice;
  /** @type {Record<string, string>} */
  const words = { connecting: "connecting", open: "connected", waiting: "connection lost, reconnecting", closed: "connection closed; reload the page" };
  const letIn = hello !== null;
  byId("connection").dataset.state = state;
  byId("connection").textContent = letIn || state === "connecting" ? words[state] : "no access";
  byId("connection").title = reason;
  byId("scope").textContent = { rooms: "chat", live: "video", jobs: "jobs" }[view ?? ""] ?? "images";
  if (letIn) byId("entry").hidden = true;
  else if (state !== "connecting") byId("entry").hidden = false;
  if (state !== "connecting") byId("wish").hidden = byId("state").hidden = byId("go").hidden = !letIn;
  if (sluice.state === "open") offerActions(sluice.hello?.actions);
}

/** @param {Record<string, {help: string, options: object}>} actions */
function offerActions(actions) {
  if (action.options.length) return;
  action.append(...Object.keys(actions).map((name) => new Option(name, name, name === "resize", name === "resize")));
  action.onchange = () => {
    byId("help").textContent = actions[action.value].help.replaceAll("`", "");
    showOptions(byId("options"), /** @type {any} */ (actions[action.value].options));
  };
  action.onchange(new Event("change"));
  start.disabled = !chosen;
}

/** @param {Blob} blob @param {string} caption */
async function choose(blob, caption) {
  if (chosen) URL.revokeObjectURL(chosen.url);
  chosen = { blob, url: URL.createObjectURL(blob), caption };
  await work();
}

async function work() {
  if (!chosen) return;
  const turn = ++turns;
  picture?.close();
  picture = null;
  const { blob, url, caption } = chosen;
  try {
    const options = readOptions(byId("options"));
    const sent = await sluice.send(blob, { action: action.value || "resize", options, zoom: Number(zoom.value) });
    if (turn !== turns) return sent.close();
    picture = sent;
  } catch {
    byId("count").textContent = "The browser cannot read this file as a picture.";
    return;
  }
  byId("empty").hidden = true;
  byId("page").hidden = byId("map").hidden = false;
  byId("caption").textContent = caption;
  viewer.show(picture, url);
  picture.follow(byId("sheet"));
  if (matchMedia("(max-width: 56rem)").matches) byId("page").scrollIntoView({ behavior: "smooth" });
  picture.addEventListener("slice", report);
  start.disabled = original.disabled = false;
  byId("found").querySelector("ul")?.replaceChildren();
  report();
}

/** @param {Event} [event] */
function report(event) {
  if (!picture) return;
  const { done, failed, total } = picture.progress;
  progress.max = total;
  progress.value = done + failed;
  const ended = done + failed === total;
  cancel.disabled = ended;
  byId("count").textContent = `${done} of ${total} slices done${failed ? `, ${failed} not` : ""}${ended ? "." : " …"}`;
  const slice = /** @type {CustomEvent<Slice> | undefined} */ (event)?.detail;
  if (slice?.state === "done") for (const item of boxes(slice.result?.data)) listFound(slice, item);
  if (!slice || slice.state === "failed" || slice.attempt) listFailures();
}

function listFailures() {
  const failures = picture?.slices.filter(({ state }) => state === "failed") ?? [];
  byId("failures").hidden = failures.length === 0;
  const lines = failures.map((slice) => {
    const { code, message } = slice.error ?? { code: "internal", message: "" };
    return line(slice.top, `${slice.top} to ${slice.top + slice.height} pixels: ${message} (${code})`);
  });
  byId("failures").querySelector("ul")?.replaceChildren(...lines);
}

/** @param {Slice} slice @param {any} item */
function listFound(slice, item) {
  byId("found").hidden = false;
  const text = item.text ?? `at ${item.page.slice(0, 2).map(Math.round).join(", ")}`;
  byId("found").querySelector("ul")?.append(line(item.page[1], item.kind ? `${item.kind}: ${text}` : text));
}

/** A line of a list with a link to its place on the picture. @param {number} top @param {string} text */
function line(top, text) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = "#page";
  link.textContent = text;
  link.onclick = (event) => {
    event.preventDefault();
    const box = byId("sheet").getBoundingClientRect();
    scrollBy({ top: box.top + (top / (picture?.bitmap.height ?? 1)) * box.height - innerHeight / 3 });
  };
  item.append(link);
  return item;
}

byId("wish").onsubmit = (event) => {
  event.preventDefault();
  work();
};
cancel.onclick = () => picture?.cancel();
byId("retry").onclick = () => picture?.retry();
original.onchange = () => byId("sheet").classList.toggle("original", original.checked);
byId("sample").onclick = async () => choose(await (await fetch(SAMPLE)).blob(), SAMPLE_CAPTION);
file.onchange = () => file.files?.[0] && choose(file.files[0], file.files[0].name);

for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", type === "dragenter" || type === "dragover");
    const dropped = type === "drop" ? [...(/** @type {DragEvent} */ (event).dataTransfer?.files ?? [])] : [];
    if (rooms.takesFiles) rooms.attach(dropped);
    else if (jobs.takesFiles) jobs.attach(dropped);
    else if (dropped.length && document.body.dataset.view === "picture") choose(dropped[0], dropped[0].name);
  });
}

showView();
