// Tables are sorted by a click on a heading, pictures enlarged by a click on them.
for (const head of document.querySelectorAll("th[aria-sort] button")) {
  head.onclick = () => {
    const cell = head.closest("th");
    const table = head.closest("table");
    const place = [...cell.parentNode.children].indexOf(cell);
    const up = cell.getAttribute("aria-sort") !== "ascending";
    const value = (row) => {
      const text = row.children[place].dataset.value;
      const number = Number(text);
      return text === "" ? null : Number.isNaN(number) ? text : number;
    };
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === null || b === null) return (a === null) - (b === null); // what is unknown is last
      const order = typeof a === "string" || typeof b === "string"
        ? String(a).localeCompare(String(b), undefined, { numeric: true }) : a - b;
      return up ? order : -order;
    };
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    cell.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  };
}
for (const button of document.querySelectorAll("figure > button"))
  button.onclick = () => button.parentNode.classList.toggle("large");
