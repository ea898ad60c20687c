"use strict";
// Tables sort by a click or a key press on a column's head; without this script they stay as they are.
// Cells that hold numbers have the number itself in data-sort, in full; "" or a dash is unknown.
function sortKey(cell) {
  const text = (cell.dataset.sort ?? cell.textContent).trim();
  if (text === "" || text === "\u2013") return null;
  return Number.isNaN(Number(text)) ? text : Number(text);
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortRows(body, column, sign) {
  const rows = [...body.rows].filter((row) => !row.querySelector('th[scope="rowgroup"]'));
  const keys = new Map(rows.map((row) => [row, sortKey(row.cells[column])]));
  rows.sort((one, other) => {
    const a = keys.get(one), b = keys.get(other);
    if (a === null || b === null) return (a === null) - (b === null); // what is unknown comes last either way
    return sign * compareKeys(a, b);
  });
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      for (const body of table.tBodies) sortRows(body, column, descending ? -1 : 1);
    });
  });
}

// Print everything, whatever was folded away on the screen.
const folded = () => document.querySelectorAll("details:not([open])");
addEventListener("beforeprint", () => folded().forEach((one) => { one.open = true; one.dataset.folded = ""; }));
addEventListener("afterprint", () => document.querySelectorAll("details[data-folded]").forEach((one) => {
  one.open = false;
  delete one.dataset.folded;
}));
