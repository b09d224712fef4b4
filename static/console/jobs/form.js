// @ts-check
/** The form that starts a job of one kind: its parameters, its files, and the errors that the server reports. */

import { byId, element } from "../dom.js";
import { Attach, isAttached } from "./attach.js";
import { fieldsOf, labelled, titleOf, valuesOf } from "./fields.js";
import { readOptions, showOptions } from "../images/options.js";

/** @typedef {import("../../client/jobs.js").Jobs} Jobs */
/** @typedef {import("../../client/jobs.js").Kind} Kind */
/** @typedef {import("./fields.js").Field} Field */
/** @typedef {import("./fields.js").Schema} Schema */
/**
 * Actions on pictures by name, if the page knows them.
 * @typedef {Record<string, {help: string, options: Record<string, any>}> | undefined} Actions
 */

export class JobForm {
  /** @type {Map<string, Field>} */
  #fields = new Map();
  /** @type {Attach[]} */
  #attached = [];
  #name = "";
  #kind = /** @type {Kind | null} */ (null);
  #isBusy = false;
  #hasActions = false;
  #form = /** @type {HTMLFormElement} */ (byId("job-form"));
  #start = /** @type {HTMLButtonElement} */ (byId("job-start"));

  /** @param {Jobs} jobs @param {() => Actions} actions @param {(id: string) => void} started */
  constructor(jobs, actions, started) {
    this.jobs = jobs;
    this.actions = actions;
    this.started = started;
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      if (!this.#isBusy) this.#submit();
    };
  }

  get takesFiles() {
    return this.#attached.length > 0 && !byId("job-new").hidden;
  }

  /** Adds dropped files, each to the first field that accepts it. @param {File[]} files */
  attach(files) {
    for (const attach of this.#attached) {
      const fit = files.filter((file) => attach.takes(file));
      files = files.filter((file) => !fit.includes(file));
      if (fit.length) attach.add(fit);
    }
    if (files.length) this.#tell([`This job takes no ${files.map(({ name }) => name).slice(0, 3).join(", ")}.`]);
  }

  /**
   * Shows the form of a kind. A form that is already shown keeps its values.
   * @param {string} name
   * @param {Record<string, any>} [params]
   */
  show(name, params) {
    const kind = this.jobs.kinds[name];
    byId("job-new-name").textContent = name;
    byId("job-help").textContent = kind ? kind.help.replaceAll("`", "") : this.jobs.hello ? "This kind of job does not exist, or your token does not allow it." : "";
    this.#form.hidden = !kind;
    if (!kind) return;
    const hadActions = this.#hasActions;
    this.#hasActions = this.actions() !== undefined;
    if (this.#name === name && !params) {
      if (this.#hasActions && !hadActions) this.#refine(kind);
      return;
    }
    for (const attach of this.#attached) attach.close();
    this.#attached = [];
    this.#name = name;
    this.#kind = kind;
    const definitions = kind.params.$defs ?? {};
    this.#fields = fieldsOf(kind.params, definitions, (field, schema) => this.#special(field, schema));
    byId("job-fields").replaceChildren(...[...this.#fields.values()].map(({ node }) => node));
    if (!this.#fields.size) byId("job-fields").append(element("p", { className: "quiet" }, "This job has no parameters."));
    this.#tell([]);
    for (const [member, value] of Object.entries(params ?? {})) this.#fields.get(member)?.write(value);
  }

  /** Replaces plain fields by fields that list the actions, which are now known. @param {Kind} kind */
  #refine({ params }) {
    for (const name of ["action", "options"]) {
      const before = this.#fields.get(name);
      const field = before && this.#special(name, params.properties?.[name] ?? {});
      if (!field) continue;
      field.write(before.read());
      before.node.replaceWith(field.node);
      this.#fields.set(name, field);
    }
  }

  /** @param {string} name @param {Schema} schema @returns {Field | undefined} */
  #special(name, schema) {
    if (isAttached(name, schema)) {
      const attach = new Attach(name, schema, (file, signal) => this.jobs.upload(file, signal));
      this.#attached.push(attach);
      return attach.field;
    }
    const properties = this.#kind?.params.properties;
    const actions = this.actions();
    if (!actions || properties?.action?.type !== "string" || properties.options?.type !== "object") return undefined;
    if (name === "action") return this.#action(schema, actions);
    return name === "options" ? this.#options() : undefined;
  }

  /** @param {Schema} schema @param {NonNullable<Actions>} actions @returns {Field} */
  #action(schema, actions) {
    const select = element("select", { name: "action" }, ...Object.keys(actions).map((name) => new Option(name, name)));
    const help = element("small", { className: "quiet" });
    const { node, clear, fault } = labelled("action", schema, select, "");
    node.append(help);
    /** @param {any} value */
    const write = (value) => {
      select.value = value in actions ? value : "";
      select.onchange?.(new Event("change"));
    };
    select.onchange = () => {
      help.textContent = actions[select.value]?.help.replaceAll("`", "") ?? "";
      const place = this.#fields.get("options")?.node.querySelector(".options");
      if (place) showOptions(place, actions[select.value]?.options ?? {});
    };
    queueMicrotask(() => select.onchange?.(new Event("change"))); // after its options are shown
    select.value = schema.default ?? "";
    return { node, clear, write, read: () => select.value, fault: (path, message) => fault(message) };
  }

  /** The field for the options of the chosen action. @returns {Field} */
  #options() {
    const place = element("div", { className: "options" });
    const wrong = element("p", { className: "fault" });
    const node = element("fieldset", { className: "field" }, element("legend", {}, "Options"), place, wrong);
    /** @param {any} value */
    const write = (value) => queueMicrotask(() => fill(place, value ?? {}));
    return {
      node, write, read: () => readOptions(place),
      clear: () => (wrong.textContent = ""),
      fault: (path, message) => wrong.append(`${[...path, ""].join(": ")}${message} `),
    }; // prettier-ignore
  }

  async #submit() {
    for (const field of this.#fields.values()) field.clear();
    this.#tell([]);
    this.#busy(this.#attached.length ? "Uploading …" : "Starting …");
    try {
      await Promise.all(this.#attached.map((attach) => attach.settled()));
      this.#busy("Starting …");
      const params = valuesOf(this.#fields, this.#kind?.params.properties);
      const { id } = await this.jobs.start(this.#name, params);
      this.#reset();
      this.started(id);
    } catch (error) {
      this.#refused(/** @type {Error & {errors?: {field: string, message: string}[]}} */ (error));
    }
    this.#busy("");
  }

  /** The next form starts empty, because the uploads belong to the job that was started. */
  #reset() {
    this.#name = "";
    this.#attached = [];
  }

  /** @param {Error & {errors?: {field: string, message: string}[]}} error */
  #refused({ message, errors = [] }) {
    /** @type {string[]} */
    const general = errors.length ? [] : [message];
    for (const { field, message } of errors) {
      const [name, ...rest] = field.split(".");
      const at = this.#fields.get(name);
      if (at) at.fault(rest, message);
      else general.push(field ? `${titleOf(field)}: ${message}` : message);
    }
    this.#tell(general);
    const first = /** @type {HTMLElement | null} */ (this.#form.querySelector("[aria-invalid=true]"));
    (first ?? byId("job-faults")).focus();
  }

  /** @param {string[]} messages */
  #tell(messages) {
    byId("job-faults").hidden = !messages.length;
    byId("job-faults").replaceChildren(...messages.map((message) => element("p", {}, message)));
  }

  /** @param {string} words */
  #busy(words) {
    this.#isBusy = words !== "";
    this.#start.textContent = words || "Start";
    this.#start.setAttribute("aria-disabled", String(this.#isBusy));
  }
}

/** @param {Element} place @param {Record<string, any>} values */
function fill(place, values) {
  for (const input of /** @type {NodeListOf<HTMLInputElement | HTMLSelectElement>} */ (place.querySelectorAll("input, select"))) {
    if (!(input.name in values)) continue;
    if (input instanceof HTMLInputElement && input.type === "checkbox") input.checked = values[input.name];
    else input.value = String(values[input.name]);
  }
}
