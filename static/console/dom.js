// @ts-check
/** Finds elements by id and creates new ones. Text is always inserted as text and never parsed as HTML. */

/** @template {HTMLElement} T @param {string} id @returns {T} */
export const byId = (id) => /** @type {T} */ (document.getElementById(id));

/**
 * @template {keyof HTMLElementTagNameMap} K @param {K} name @param {Partial<HTMLElementTagNameMap[K]>} [properties]
 * @param {(Node | string)[]} children @returns {HTMLElementTagNameMap[K]}
 */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/**
 * Puts `nodes` into `parent` without moving those that are there, so that playing films continue.
 * @param {Element} parent
 * @param {Element[]} nodes
 */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const node of nodes) {
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
}

/** Returns a function that runs `work` once, soon, however often it is called before. @param {() => void} work */
export function soon(work) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    // Not with animation frames, which wait while the page is hidden, although its title must show unread counts.
    setTimeout(() => {
      isDue = false;
      work();
    }, 16);
  };
}
