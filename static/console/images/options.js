// @ts-check
/** A form for the options of an action, created from the JSON Schema in the server's greeting. */

/** @typedef {{type?: string, enum?: string[], default?: any, minimum?: number, maximum?: number, exclusiveMinimum?: number, description?: string}} Schema */

/** @param {Element} place @param {Record<string, Schema>} options */
export function showOptions(place, options) {
  place.replaceChildren(...Object.entries(options).map(([name, schema]) => field(name, schema)));
}

/**
 * Returns the values of the form, each with the type of its option.
 * @param {Element} place
 * @returns {Record<string, unknown>}
 */
export function readOptions(place) {
  /** @type {NodeListOf<HTMLInputElement | HTMLSelectElement>} */
  const inputs = place.querySelectorAll("input, select");
  return Object.fromEntries([...inputs].map((input) => [input.name, valueOf(input)]));
}

/** @param {HTMLInputElement | HTMLSelectElement} input */
function valueOf(input) {
  if (input instanceof HTMLSelectElement) return input.value;
  return input.type === "checkbox" ? input.checked : input.valueAsNumber;
}

/** @param {string} name @param {Schema} schema */
function field(name, schema) {
  const label = document.createElement("label");
  const input = schema.enum ? choice(schema) : entry(schema);
  input.name = name;
  input.title = schema.description ?? "";
  const title = `${name[0].toUpperCase()}${name.slice(1).replaceAll("_", " ")} `;
  label.classList.toggle("check", schema.type === "boolean");
  label.append(...(schema.type === "boolean" ? [input, title] : [title, input]));
  return label;
}

/** @param {Schema} schema */
function choice(schema) {
  const select = document.createElement("select");
  select.append(...(schema.enum ?? []).map((value) => new Option(value, value, false, value === schema.default)));
  return select;
}

/** @param {Schema} schema */
function entry(schema) {
  const input = document.createElement("input");
  if (schema.type === "boolean") {
    input.type = "checkbox";
    input.checked = schema.default;
    return input;
  }
  input.type = "number";
  input.required = true;
  input.step = schema.type === "integer" ? "1" : "any";
  input.min = String(schema.minimum ?? schema.exclusiveMinimum ?? "");
  input.max = String(schema.maximum ?? "");
  input.value = String(schema.default);
  return input;
}
