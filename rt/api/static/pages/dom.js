/**
 * Elements. What others wrote gets into a page as text alone: nothing here takes markup.
 * @module
 */

/**
 * The element with this id, which the page has.
 * @template {Element} [T=HTMLElement]
 * @param {string} id
 */
export function the(id) {
  return /** @type {T} */ (/** @type {unknown} */ (document.getElementById(id)));
}

/**
 * A new element. A child that is a string becomes text; null is left out.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Record<string, unknown>} [props] @param {(Node | string | null)[]} children
 */
export function el(tag, props = {}, ...children) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in one) Object.assign(one, { [name]: value });
    else one.setAttribute(name, String(value));
  }
  one.append(...children.filter((child) => child !== null));
  return one;
}

/**
 * A word with a sign before it; `tone` colours it.
 * @param {"good" | "warn" | "bad" | "info" | ""} tone @param {string} sign @param {string} text
 */
export function tag(tone, sign, text) {
  return el("span", { className: `tag ${tone}`, "data-sign": sign }, text);
}

/** What draws when it is asked to, soon, and at most every `ms`: of many changes somebody sees the last. @param {() => void} draw */
export function calm(draw, ms = 100) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  return () => {
    timer ??= setTimeout(() => {
      timer = undefined;
      draw();
    }, ms);
  };
}

/** 14:03:22 of a time in Unix ms. @param {number} ts */
export const clock = (ts) => new Date(ts).toLocaleTimeString([], { hour12: false });
