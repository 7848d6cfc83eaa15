// All tensors in a table: searched by any word of their names, encodings and shapes, sorted by any column.

const LINES = 400; // rows that are drawn at once; a button draws the rest

function plural(count) {
  return count === 1 ? "1 tensor" : `${count} tensors`;
}

function makeTable(section, model, open) {
  const order = model.keys.map((_, i) => i);
  const state = { by: null, falls: true, words: [], all: false, extra: null };
  const haystacks = order.map((i) =>
    [
      model.keys[i],
      ...model.aliases[i],
      ...model.statistics.filter((one) => one.format === "text").map((one) => model.text(one.name, i)),
    ]
      .join(" ")
      .toLowerCase(),
  );
  const search = element("input", {
    type: "search",
    id: "search",
    placeholder: "q_proj, Q4_K, layers.12 …",
    autocomplete: "off",
    spellcheck: "false",
  });
  const count = element("p", { class: "count", role: "status", "aria-live": "polite" });
  const head = element("tr", {});
  const body = element("tbody", {});
  const more = element("button", {
    type: "button",
    class: "more",
    onclick: drawAll,
  });

  function drawAll() {
    state.all = true;
    draw();
  }

  function columns() {
    const names =
      state.extra && !model.columns.includes(state.extra) ? [...model.columns, state.extra] : model.columns;
    return names.filter((name) => model.statistic(name)).map((name) => model.statistic(name));
  }

  function sorted(found) {
    if (state.by === null) return found;
    const values = model.values[state.by];
    const sign = state.falls ? -1 : 1;
    if (model.statistic(state.by).format === "text") {
      return [...found].sort(
        (a, b) => sign * String(values[a]).localeCompare(String(values[b]), "en", { numeric: true }),
      );
    }
    const number = (i) => asNumber(values[i]);
    const have = found.filter((i) => !Number.isNaN(number(i)));
    const lack = found.filter((i) => Number.isNaN(number(i)));
    return [
      ...have.sort((a, b) => (number(a) === number(b) ? a - b : sign * (number(a) - number(b)))),
      ...lack,
    ];
  }

  function sortBy(name) {
    const isText = name !== null && model.statistic(name).format === "text";
    state.falls = state.by === name ? !state.falls : name === null || !isText;
    state.by = name;
    draw();
    head.querySelectorAll("button").forEach((one) => one.dataset.name === String(name) && one.focus());
  }

  function heading(name, label, about, isText) {
    const isSorted = name !== null && state.by === name;
    const falls = state.falls;
    return element(
      "th",
      {
        scope: "col",
        class: isText ? "text" : "",
        "aria-sort": isSorted ? (falls ? "descending" : "ascending") : "none",
      },
      element(
        "button",
        { type: "button", "data-name": String(name), title: about, onclick: () => sortBy(name) },
        label,
        element("span", { class: "arrow", "aria-hidden": "true" }, isSorted ? (falls ? "↓" : "↑") : ""),
      ),
    );
  }

  function draw() {
    const shownColumns = columns();
    const found = sorted(order.filter((i) => state.words.every((word) => haystacks[i].includes(word))));
    const drawn = state.all ? found : found.slice(0, LINES);
    head.replaceChildren(
      heading(null, "Tensor", model.order, true),
      ...shownColumns.map((one) => heading(one.name, one.label, one.about, one.format === "text")),
    );
    body.replaceChildren(
      ...drawn.map((i) =>
        element(
          "tr",
          { "data-index": i },
          element(
            "th",
            { scope: "row", class: "text" },
            element("a", { href: addressOf(model.keys[i]) }, model.keys[i]),
          ),
          shownColumns.map((one) =>
            element("td", { class: one.format === "text" ? "text" : "" }, model.text(one.name, i)),
          ),
        ),
      ),
    );
    count.textContent =
      found.length === order.length
        ? plural(order.length)
        : `${found.length} of ${plural(order.length)}`;
    more.hidden = drawn.length === found.length;
    more.textContent = `Show the other ${found.length - drawn.length}`;
  }

  search.addEventListener("input", () => {
    state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    state.all = false;
    draw();
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row || event.ctrlKey || event.metaKey || event.shiftKey || String(getSelection())) return;
    event.preventDefault();
    open(Number(row.dataset.index), row.querySelector("a"));
  });
  section.append(
    element(
      "div",
      { class: "section-head" },
      element("h2", { id: "table-title" }, "Tensors"),
      element(
        "div",
        { class: "controls" },
        count,
        element("label", { class: "field", for: "search" }, element("span", {}, "Search"), search),
      ),
    ),
    element(
      "div",
      { class: "scroller" },
      element("table", { class: "tensors" }, element("thead", {}, head), body),
    ),
    more,
  );
  draw();
  return {
    search,
    drawAll,
    alsoShow(name) {
      state.extra = name;
      draw();
    },
  };
}

function addressOf(key) {
  return `#${encodeURIComponent(wellFormed(key))}`;
}
