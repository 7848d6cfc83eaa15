// A grid of cells that is walked with the arrow keys (WAI-ARIA's grid pattern): one cell at a time takes part in
// the order of Tab. What a cell is, how it is painted and what opening it does is its owner's.
//
// rows: [{label, title, cells: [item or null]}], columns: [{label, title}] or null without a line of labels.
// owner: {label, describe(item, row, column), look(item, row), focus(item, row, column), open(item, node)}

function makeGrid(rows, columns, owner, className) {
  const nodes = [];
  const width = rows.reduce((most, row) => Math.max(most, row.cells.length), 0);
  const root = element("div", {
    class: `grid ${className}`,
    role: "grid",
    "aria-label": owner.label,
    "aria-rowcount": rows.length + (columns ? 1 : 0),
    "aria-colcount": width + 1,
    style: { "--columns": width },
  });
  const at = { row: 0, column: 0 };

  if (columns) root.append(columnLabels(columns));
  rows.forEach((row, r) => {
    const line = element("div", { class: "grid-row", role: "row" });
    if (row.label !== undefined) {
      line.append(
        element(
          "div",
          { class: "row-label", role: "rowheader", title: row.title || row.label },
          element("span", {}, row.label),
        ),
      );
    }
    nodes.push(
      row.cells.map((item, c) => {
        const cell = element("div", {
          class: "cell",
          role: "gridcell",
          tabindex: -1,
          "data-row": r,
          "data-column": c,
        });
        line.append(cell);
        return cell;
      }),
    );
    root.append(line);
  });

  function place(node) {
    const cell = node.closest && node.closest(".cell");
    return cell ? { row: Number(cell.dataset.row), column: Number(cell.dataset.column) } : null;
  }

  function move(row, column) {
    const r = Math.min(Math.max(row, 0), nodes.length - 1);
    const c = Math.min(Math.max(column, 0), nodes[r].length - 1);
    nodes[at.row][at.column].tabIndex = -1;
    Object.assign(at, { row: r, column: c });
    nodes[r][c].tabIndex = 0;
    nodes[r][c].focus();
    nodes[r][c].scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function keydown(event) {
    if (event.altKey || event.metaKey) return;
    const last = { row: nodes.length - 1, column: width - 1 };
    const to = {
      ArrowUp: [at.row - 1, at.column],
      ArrowDown: [at.row + 1, at.column],
      ArrowLeft: [at.row, at.column - 1],
      ArrowRight: [at.row, at.column + 1],
      Home: [event.ctrlKey ? 0 : at.row, 0],
      End: [event.ctrlKey ? last.row : at.row, last.column],
      PageUp: [at.row, at.column - 10],
      PageDown: [at.row, at.column + 10],
    }[event.key];
    if (to) move(...to);
    else if (event.key === "Enter" || event.key === " ") open(nodes[at.row][at.column]);
    else return;
    event.preventDefault();
  }

  function open(node) {
    const found = place(node);
    const item = found && rows[found.row].cells[found.column];
    if (item !== null && item !== undefined && found && owner.open)
      owner.open(item, nodes[found.row][found.column]);
  }

  function attend(event) {
    const found = place(event.target);
    if (!found) return;
    if (event.type === "focusin" && (found.row !== at.row || found.column !== at.column)) {
      nodes[at.row][at.column].tabIndex = -1;
      Object.assign(at, found);
      nodes[at.row][at.column].tabIndex = 0;
    }
    owner.focus(rows[found.row].cells[found.column], found.row, found.column);
  }

  function paint() {
    rows.forEach((row, r) =>
      row.cells.forEach((item, c) => {
        const look = owner.look(item, r);
        const cell = nodes[r][c];
        cell.className = `cell ${look.className || ""}`;
        cell.style.setProperty("background-color", look.fill || "");
        cell.style.setProperty("color", look.ink || "");
        cell.textContent = look.text || "";
        cell.setAttribute("aria-label", owner.describe(item, r, c));
      }),
    );
  }

  root.addEventListener("keydown", keydown);
  root.addEventListener("click", (event) => place(event.target) && open(event.target));
  root.addEventListener("focusin", attend);
  root.addEventListener("pointerover", attend);
  if (nodes.length && nodes[0].length) nodes[0][0].tabIndex = 0;
  return { root, paint, nodeAt: (row, column) => nodes[row] && nodes[row][column] };
}

function columnLabels(columns) {
  return element(
    "div",
    { class: "grid-row grid-head", role: "row" },
    element("div", { class: "row-label", role: "columnheader" }, element("span", {}, "layer")),
    columns.map((one) =>
      element(
        "div",
        { class: `column-label ${one.className || ""}`, role: "columnheader", "aria-label": one.title },
        one.label,
      ),
    ),
  );
}
