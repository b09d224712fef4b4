// @ts-check
/**
 * Form fields, created from the JSON Schema of a job's parameters. The form does not check values: the server reports
 * all errors together, and each field shows its own.
 */

import { element } from "../dom.js";

/** @typedef {import("../../client/jobs.js").Schema} Schema */
/**
 * `read`: returns the value, or undefined when the server's default applies. `write`: shows a value. `fault`: shows an
 * error of the value, or of the part at `path`. `clear`: removes errors.
 * @typedef {{node: HTMLElement, read: () => unknown, write: (value: any) => void, fault: (path: string[], message: string) => void, clear: () => void}} Field
 */
/**
 * Returns a special field for a schema, or undefined.
 * @typedef {(name: string, schema: Schema) => Field | undefined} Special
 */

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

/**
 * Creates the fields of an object's properties.
 * @param {Schema} schema
 * @param {Record<string, Schema>} definitions
 * @param {Special} [special]
 */
export function fieldsOf(schema, definitions, special) {
  const named = Object.entries(schema.properties ?? {});
  return new Map(named.map(([name, each]) => [name, fieldOf(name, each, definitions, special)]));
}

/**
 * Returns the values of the fields that differ from their defaults.
 * @param {Map<string, Field>} fields
 * @param {Record<string, Schema>} [properties]
 */
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

/**
 * A label, a hint, and a place for errors.
 * @param {string} name
 * @param {Schema} schema
 * @param {HTMLElement} control
 * @param {string} [hint]
 */
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
  const limits = [
    minimum === undefined ? "" : `at least ${minimum.toLocaleString()}`,
    exclusiveMinimum === undefined ? "" : `more than ${exclusiveMinimum.toLocaleString()}`,
    maximum === undefined ? "" : `at most ${maximum.toLocaleString()}`,
    exclusiveMaximum === undefined ? "" : `less than ${exclusiveMaximum.toLocaleString()}`,
  ];
  const range = limits.filter(Boolean).join(", ");
  return [description, range && `${range[0].toUpperCase()}${range.slice(1)}.`].filter(Boolean).join(" ");
}

/**
 * Resolves references, and alternatives with null.
 * @param {Schema} schema
 * @param {Record<string, Schema>} definitions
 * @returns {Schema & {isNullable: boolean}}
 */
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
  // Not the type `number`, because browsers report no value at all for a text that is not a number.
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

/**
 * A list with one item per line.
 * @param {string} name
 * @param {Schema} schema
 * @param {boolean} isNullable
 * @param {Schema} items
 * @returns {Field}
 */
function lines(name, schema, isNullable, items) {
  const input = element("textarea", { name, rows: 3, spellcheck: false });
  const isText = items.type === "string";
  const each = isText ? "One per line." : "One per line, as JSON.";
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

/**
 * An object with known members.
 * @param {string} name
 * @param {Schema} schema
 * @param {Record<string, Schema>} definitions
 * @param {Special} [special]
 * @returns {Field}
 */
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

/**
 * An object with any members: one line per member, as name: value.
 * @param {string} name
 * @param {Schema} schema
 * @returns {Field}
 */
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

/** A text that is not a number is sent unchanged, and the server reports the error. @param {string} text */
function numberIn(text) {
  const number = Number(text.replace(",", "."));
  return Number.isFinite(number) ? number : text;
}

/** Parses JSON of an accepted type. Any other text stays text. @param {string} text */
function scalarIn(text, isTaken = (/** @type {unknown} */ value) => true) {
  try {
    const value = JSON.parse(text);
    return isTaken(value) ? value : text;
  } catch {
    return text;
  }
}

/**
 * Returns a function that says whether a value has a type that the schema accepts. Where only integers are accepted,
 * the input 1.4 stays text, and the server reports the error.
 * @param {boolean | Schema | undefined} schema
 */
function takes(schema) {
  if (typeof schema !== "object") return () => true;
  const types = (schema.anyOf ?? [schema]).map(({ type }) => type);
  return (/** @type {unknown} */ value) => {
    const type = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
    return types.includes(undefined) || types.includes(type) || (types.includes("integer") && Number.isInteger(value));
  };
}

/** Returns the line that `scalarIn` parses as this value. @param {unknown} value */
const scalarOut = (value) => (typeof value === "string" && scalarIn(value) === value ? value : JSON.stringify(value));

/** @param {unknown} one @param {unknown} other */
const same = (one, other) => one === other || JSON.stringify(one) === JSON.stringify(other);
