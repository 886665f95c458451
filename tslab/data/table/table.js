  "use strict";
  const root = document.querySelector('[data-table="' + key + '"]:not([data-ready])');
  if (!root) return;
  root.setAttribute("data-ready", "");
  const body = root.querySelector("tbody");
  const rows = Array.from(body.rows);
  const headings = Array.from(root.querySelectorAll("thead th"));
  const controls = root.querySelector(".tslab-table-controls");

  const value = (row, place) => {
    const cell = row.cells[place];
    const number = cell.dataset.value;
    if (number === undefined) return cell.textContent;
    return number === "" ? null : Number(number);
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
  };
  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.textContent = "";
    heading.appendChild(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = rows.map((row) => ({ row, at: value(row, place) }));
      order.sort((a, b) => compare(a.at, b.at, up ? 1 : -1));
      order.forEach((item) => body.appendChild(item.row));
    });
  });

  if (rows.length <= 10 && setup.filters.length === 0) return;

  const labelled = (text, field) => {
    const label = document.createElement("label");
    field.setAttribute("aria-label", text);
    label.append(text, field);
    controls.appendChild(label);
    return field;
  };
  const search = labelled("Search", document.createElement("input"));
  search.type = "search";
  const menus = setup.filters.map((place) => {
    const menu = labelled(headings[place].textContent, document.createElement("select"));
    menu.add(new Option("all", ""));
    const values = new Set(rows.map((row) => row.cells[place].textContent));
    values.forEach((text) => menu.add(new Option(text || "(none)", text || " ")));
    return { menu, place };
  });
  const count = document.createElement("output");
  controls.appendChild(count);
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      const fits = menus.every(({ menu, place }) => !menu.value || menu.value.trim() === row.cells[place].textContent);
      row.hidden = !(fits && words.every((word) => text.includes(word)));
      if (!row.hidden) left += 1;
    });
    count.textContent = left + " of " + rows.length + " rows";
  };
  search.addEventListener("input", update);
  menus.forEach(({ menu }) => menu.addEventListener("change", update));
  controls.hidden = false;
  update();
