/**
 * A table that is shown again each second without losing who has the focus in it: rows are kept by key, cells by what they say.
 * @module
 */
import { el } from "../pages/dom.js";

/**
 * `value` says what a cell shows, and when it has changed; `cell` makes something else of it than text.
 * @typedef {{head: string, value: (item: any) => string | number, cell?: (item: any) => Node | string | null, numeric?: boolean, wide?: boolean, sort?: string}} Column
 */

export class Table {
  /** @type {Map<string, {row: HTMLTableRowElement, said: string[]}>} */
  rows = new Map();

  /**
   * @param {string} caption @param {Column[]} columns @param {string} empty said where there are no rows
   * @param {{sorted?: string, onSort?: (by: string) => void}} [options]
   */
  constructor(caption, columns, empty, options = {}) {
    this.columns = columns;
    this.body = el("tbody", { role: "rowgroup" });
    this.empty = el("p", { className: "none", hidden: true }, empty);
    const heads = columns.map((one) => {
      const head = el("th", { scope: "col", role: "columnheader", className: one.numeric ? "number" : "" });
      if (one.sort && options.onSort) {
        const by = one.sort;
        const on = options.sorted === by;
        head.append(el("button", { type: "button", className: "sorter", onclick: () => options.onSort?.(by) }, one.head, on ? " ↓" : ""));
        if (on) head.setAttribute("aria-sort", "descending");
      } else head.append(one.head);
      return head;
    });
    this.table = el(
      "table",
      { role: "table" },
      el("caption", { className: "unseen" }, caption),
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)),
      this.body,
    );
    this.element = el("div", { className: "scroll sheet", tabIndex: 0, role: "region", "aria-label": caption }, this.table, this.empty);
  }

  /** @param {any[]} items @param {(item: any) => string} key */
  show(items, key) {
    const seen = new Set();
    let before = /** @type {Element | null} */ (this.body.firstElementChild);
    for (const item of items) {
      const id = key(item);
      if (seen.has(id)) continue;
      seen.add(id);
      let known = this.rows.get(id);
      if (!known) {
        const row = el("tr", { role: "row" });
        for (const one of this.columns) row.append(el("td", { role: "cell", "data-head": one.head, className: [one.numeric ? "number" : "", one.wide ? "wide" : ""].join(" ").trim() }));
        this.rows.set(id, (known = { row, said: [] }));
      }
      this.columns.forEach((one, index) => {
        const says = String(one.value(item));
        if (known.said[index] === says) return;
        known.said[index] = says;
        known.row.children[index].replaceChildren(one.cell?.(item) ?? says);
      });
      if (known.row === before) before = before.nextElementSibling;
      else this.body.insertBefore(known.row, before);
    }
    for (const [id, { row }] of this.rows) {
      if (seen.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    this.table.hidden = !seen.size;
    this.empty.hidden = !!seen.size;
  }
}
