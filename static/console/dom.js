// @ts-check
/** Elements by their id, and new ones. Text goes in as text: nothing that was said by anybody is ever parsed as HTML. */

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

/** Puts `nodes` into `parent` without touching those that are there: a film that plays goes on. @param {Element} parent @param {Element[]} nodes */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const node of nodes) {
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
}

/** A function that does `work` once, soon, however often it is called meanwhile. @param {() => void} work */
export function soon(work) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    // Not by animation frames: those wait until the page is seen, and its title is to count meanwhile.
    setTimeout(() => {
      isDue = false;
      work();
    }, 16);
  };
}
