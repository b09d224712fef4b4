// @ts-check
/**
 * Fields of a form, made from the JSON Schema of a job's parameters. Nothing is checked here: the server says all that
 * is wrong at once, and each field shows what is said of it.
 */

import { element } from "../dom.js";

/** @typedef {import("../../client/jobs.js").Schema} Schema */
/**
 * `read`: the value, undefined for one that is left to the server. `write`: shows a value. `fault`: shows what is wrong
 * with it, or with the part of it that `path` leads to. `clear`: shows nothing wrong.
 * @typedef {{node: HTMLElement, read: () => unknown, write: (value: any) => void, fault: (path: string[], message: string) => void, clear: () => void}} Field
 */
/** Makes the field of a schema whose form has its own idea of it, or returns undefined. @typedef {(name: string, schema: Schema) => Field | undefined} Special */

let made = 0;

/** @param {string} name @param {Schema} schema @param {Record<string, Schema>} definitions @param {Special} [special] @returns {Field} */
export function fieldOf(name, schema, definitions, special) {
  const own = special?.(name, schema);
  if (own) return own;
  const { isNullable, ...plain } = simplified(schema, definitions);
  if (plain.enum) return choice(name, plain, isNullable);
  if (plain.type === "boolean") return check(name, plain);
  if (plain.type === "array") return lines(name, plain, isNullable, simplified(plain.items ?? {}, definitions));
  if (plain.properties) return group(name, plain, definitions, special);
  if (plain.type === "object") return pairs(name, plain);
  return entry(name, plain, isNullable);
}

/** The fields of an object's properties. @param {Schema} schema @param {Record<string, Schema>} definitions @param {Special} [special] */
export function fieldsOf(schema, definitions, special) {
  const named = Object.entries(schema.properties ?? {});
  return new Map(named.map(([name, each]) => [name, fieldOf(name, each, definitions, special)]));
}

/** What the fields say, without what is as it would be anyway. @param {Map<string, Field>} fields @param {Record<string, Schema>} [properties] */
export function valuesOf(fields, properties = {}) {
  /** @type {Record<string, unknown>} */
  const values = {};
  for (const [name, field] of fields) {
    const value = field.read();
    const usual = properties[name]?.default;
    if (value !== undefined && !(usual !== undefined && same(value, usual))) values[name] = value;
  }
  return values;
}

/** A label, what is to be known about it, and a place for what is wrong with it. @param {string} name @param {Schema} schema @param {HTMLElement} control @param {string} [hint] */
export function labelled(name, schema, control, hint = hintOf(schema)) {
  const id = `field-${(made += 1)}`;
  control.id = id;
  const about = element("small", { id: `${id}-hint`, className: "quiet" }, hint);
  const wrong = element("p", { id: `${id}-fault`, className: "fault" });
  control.setAttribute("aria-describedby", `${id}-fault ${id}-hint`);
  const label = element("label", { htmlFor: id }, titleOf(name));
  const isCheck = control instanceof HTMLInputElement && control.type === "checkbox";
  const node = element("div", { className: "field" }, ...(isCheck ? [element("div", { className: "check" }, control, label)] : [label, control]));
  node.append(...(hint ? [about] : []), wrong);
  node.dataset.name = name;
  const clear = () => {
    wrong.textContent = "";
    control.removeAttribute("aria-invalid");
  };
  /** @param {string} message */
  const fault = (message) => {
    wrong.append(...(wrong.textContent ? [element("br")] : []), message);
    control.setAttribute("aria-invalid", "true");
  };
  return { node, clear, fault };
}

/** @param {string} name */
export const titleOf = (name) => (name[0] ?? "").toUpperCase() + name.slice(1).replaceAll("_", " ");

/** @param {Schema} schema */
function hintOf({ description = "", minimum, maximum, exclusiveMinimum, exclusiveMaximum }) {
  const bounds = [
    minimum === undefined ? "" : `at least ${minimum.toLocaleString()}`,
    exclusiveMinimum === undefined ? "" : `more than ${exclusiveMinimum.toLocaleString()}`,
    maximum === undefined ? "" : `at most ${maximum.toLocaleString()}`,
    exclusiveMaximum === undefined ? "" : `less than ${exclusiveMaximum.toLocaleString()}`,
  ];
  return [description, bounds.filter(Boolean).join(", ")].filter(Boolean).join("; ");
}

/** The schema itself, of one that is there by reference, or with nothing as the alternative. @param {Schema} schema @param {Record<string, Schema>} definitions @returns {Schema & {isNullable: boolean}} */
function simplified(schema, definitions) {
  const { $ref, anyOf, allOf, ...rest } = schema;
  const within = $ref ? definitions[$ref.split("/").at(-1) ?? ""] : allOf?.length === 1 ? allOf[0] : undefined;
  if (within) return simplified({ ...within, ...rest }, definitions);
  const others = anyOf?.filter(({ type }) => type !== "null") ?? [];
  if (anyOf && others.length === 1) return { ...simplified({ ...others[0], ...rest }, definitions), isNullable: others.length < anyOf.length };
  if (schema.const !== undefined) return { ...rest, enum: [schema.const], isNullable: false };
  return { ...rest, anyOf, isNullable: Boolean(anyOf && others.length < anyOf.length) };
}

/** @param {string} name @param {Schema} schema @param {boolean} isNullable @returns {Field} */
function entry(name, schema, isNullable) {
  const isNumber = schema.type === "integer" || schema.type === "number";
  const input = element("input", { name, autocomplete: "off", spellcheck: false });
  // Not the type `number`: of what is no number a browser would say nothing, not even what it is.
  if (isNumber) input.inputMode = schema.type === "integer" ? "numeric" : "decimal";
  const { node, clear, fault } = labelled(name, schema, input);
  if (schema.examples?.length) {
    const list = element("datalist", { id: `${input.id}-list` }, ...schema.examples.map((each) => new Option(String(each))));
    input.setAttribute("list", list.id);
    node.append(list);
  }
  /** @param {any} value */
  const write = (value) => (input.value = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
  write(schema.default);
  const read = () => {
    const text = input.value.trim();
    if (!text && isNullable) return null;
    if (!text && (isNumber || schema.default === undefined)) return undefined;
    if (isNumber) return numberIn(text);
    return schema.type === "string" ? input.value : scalarIn(text);
  };
  return { node, clear, write, read, fault: (path, message) => fault(message) };
}

/** @param {string} name @param {Schema} schema @param {boolean} isNullable @returns {Field} */
function choice(name, schema, isNullable) {
  const values = schema.enum ?? [];
  const select = element("select", { name });
  if (isNullable || schema.default === undefined) select.append(new Option(isNullable ? "none" : "", ""));
  select.append(...values.map((value, index) => new Option(String(value), String(index))));
  const { node, clear, fault } = labelled(name, schema, select);
  /** @param {any} value */
  const write = (value) => (select.value = values.includes(value) ? String(values.indexOf(value)) : "");
  write(schema.default);
  const read = () => (select.value ? values[Number(select.value)] : isNullable ? null : undefined);
  return { node, clear, write, read, fault: (path, message) => fault(message) };
}

/** @param {string} name @param {Schema} schema @returns {Field} */
function check(name, schema) {
  const input = element("input", { name, type: "checkbox", checked: Boolean(schema.default) });
  const { node, clear, fault } = labelled(name, schema, input);
  const write = (/** @type {any} */ value) => (input.checked = Boolean(value));
  return { node, clear, write, read: () => input.checked, fault: (path, message) => fault(message) };
}

/** A list, a line to each of its items. @param {string} name @param {Schema} schema @param {boolean} isNullable @param {Schema} items @returns {Field} */
function lines(name, schema, isNullable, items) {
  const input = element("textarea", { name, rows: 3, spellcheck: false });
  const isText = items.type === "string";
  const each = isText ? "one to a line" : "one to a line, as JSON";
  const { node, clear, fault } = labelled(name, schema, input, [hintOf(schema), each].filter(Boolean).join("; "));
  /** @param {any[] | null | undefined} value */
  const write = (value) => (input.value = (value ?? []).map((item) => (typeof item === "string" && isText ? item : JSON.stringify(item))).join("\n"));
  write(schema.default);
  const read = () => {
    const texts = input.value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (!texts.length && isNullable) return null;
    if (!texts.length && schema.default === undefined) return undefined;
    return isText ? texts : texts.map((text) => scalarIn(text));
  };
  const where = (/** @type {string[]} */ [index, ...rest]) => (index ? `item ${Number(index) + 1}${rest.length ? `, ${rest.join(".")}` : ""}: ` : "");
  return { node, clear, write, read, fault: (path, message) => fault(where(path) + message) };
}

/** An object whose members are known. @param {string} name @param {Schema} schema @param {Record<string, Schema>} definitions @param {Special} [special] @returns {Field} */
function group(name, schema, definitions, special) {
  const fields = fieldsOf(schema, definitions, special);
  const wrong = element("p", { className: "fault" });
  const node = element("fieldset", {}, element("legend", {}, titleOf(name)), wrong, ...[...fields.values()].map((field) => field.node));
  node.dataset.name = name;
  const write = (/** @type {any} */ value) => {
    for (const [member, field] of fields) if (value && member in value) field.write(value[member]);
  };
  write(schema.default);
  return {
    node, write,
    read: () => valuesOf(fields, schema.properties),
    clear: () => {
      wrong.textContent = "";
      for (const field of fields.values()) field.clear();
    },
    fault: ([member, ...rest], message) => {
      const field = fields.get(member ?? "");
      if (field) field.fault(rest, message);
      else wrong.append(member ? `${member}: ${message} ` : `${message} `);
    },
  }; // prettier-ignore
}

/** An object whose members are not known: a line to each, as name: value. @param {string} name @param {Schema} schema @returns {Field} */
function pairs(name, schema) {
  const input = element("textarea", { name, rows: 3, spellcheck: false });
  const isTaken = takes(schema.additionalProperties);
  const how = 'one to a line, as "name: value"; 14 is a number, true a yes, "14" in quotes a text';
  const { node, clear, fault } = labelled(name, schema, input, [hintOf(schema), how].filter(Boolean).join("; "));
  /** @param {any} value */
  const write = (value) => (input.value = Object.entries(value ?? {}).map(([key, each]) => `${key}: ${scalarOut(each)}`).join("\n"));
  write(schema.default);
  const read = () => {
    const given = input.value.split("\n").filter((line) => line.trim());
    return Object.fromEntries(given.map((line) => [line.split(":", 1)[0].trim(), scalarIn(line.slice(line.indexOf(":") + 1 || line.length).trim(), isTaken)]));
  };
  return { node, clear, write, read, fault: (path, message) => fault((path.length ? `${path.join(".")}: ` : "") + message) };
}

/** What is no number goes to the server as it is, which says so. @param {string} text */
function numberIn(text) {
  const number = Number(text.replace(",", "."));
  return Number.isFinite(number) ? number : text;
}

/** JSON where it is JSON of a sort that is taken, and plain text otherwise. @param {string} text */
function scalarIn(text, isTaken = (/** @type {unknown} */ value) => true) {
  try {
    const value = JSON.parse(text);
    return isTaken(value) ? value : text;
  } catch {
    return text;
  }
}

/** Whether a value may be a member: where only whole numbers are taken, 1.4 is a text. @param {boolean | Schema | undefined} schema */
function takes(schema) {
  if (typeof schema !== "object") return () => true;
  const types = (schema.anyOf ?? [schema]).map(({ type }) => type);
  return (/** @type {unknown} */ value) => {
    const type = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
    return types.includes(undefined) || types.includes(type) || (types.includes("integer") && Number.isInteger(value));
  };
}

/** The line that `scalarIn` reads as that value. @param {unknown} value */
const scalarOut = (value) => (typeof value === "string" && scalarIn(value) === value ? value : JSON.stringify(value));

/** @param {unknown} one @param {unknown} other */
const same = (one, other) => one === other || JSON.stringify(one) === JSON.stringify(other);
