// The heat map: layers across, roles down, coloured by any statistic; what stands outside layers is beside it.

const ROOM_FOR_TEXT = 14; // layers up to which cells hold their numbers
const MOST_OUTSIDE = 24; // tensors outside layers that are drawn; the table has all

function makeHeatMap(section, model, open) {
  const shown = model.statistics.filter(
    (one) => !["text", "index"].includes(one.format) && model.hasNumbers(one.name),
  );
  if (!shown.length) return { repaint() {}, cellOf: () => null };
  const state = {
    name: shown.some((one) => one.name === model.first) ? model.first : shown[0].name,
    log: false,
    within: false,
  };
  const readout = element("p", { class: "readout", "aria-hidden": "true" });
  const about = element("p", { class: "about" });
  const legend = element("div", { class: "legend" });
  const log = element("input", { type: "checkbox", id: "log" });
  const within = element("input", { type: "checkbox", id: "within" });
  const select = statisticSelect(shown, state.name);
  const changed = [];
  let scales = [];

  const labels = model.layers.map((layer, i) => ({
    label: model.layers.length <= 20 || i % 5 === 0 ? layer : "",
    title: `layer ${layer}`,
  }));
  const across = model.roles.map((role) => ({
    label: role,
    cells: model.layers.map((_, layer) => model.tensorAt(layer, role) ?? null),
  }));
  const beside = model.outside
    .slice(0, MOST_OUTSIDE)
    .map((role) => ({ label: role, cells: [model.tensorAt(-1, role) ?? null] }));
  const wide = model.layers.length <= ROOM_FOR_TEXT;
  const grids = [
    across.length
      ? makeGrid(across, labels, owner("Layers by roles", across, 0), wide ? "heat with-text" : "heat")
      : null,
    beside.length
      ? makeGrid(beside, null, owner("Outside the layers", beside, across.length), "heat with-text outside")
      : null,
  ];

  function owner(label, rows, firstScale) {
    const name = (row, column) =>
      firstScale === 0 ? `layer ${model.layers[column]}, ${rows[row].label}` : rows[row].label;
    return {
      label,
      look: (i, row) =>
        lookOf(i, state.within ? scales[firstScale + row] : scales[0], firstScale > 0 || wide),
      describe: (i, row, column) =>
        i === null
          ? `${name(row, column)}: no such tensor`
          : `${name(row, column)}, ${model.statistic(state.name).label}: ${model.text(state.name, i)}`,
      focus: (i, row, column) => tell(i, name(row, column)),
      open: (i, node) => open(i, node),
    };
  }

  function lookOf(i, scale, hasRoom) {
    if (i === null) return { className: "absent" };
    const value = asNumber(model.value(state.name, i));
    if (Number.isNaN(value)) return { className: "undefined", text: hasRoom ? MISSING : "" };
    const { fill: colour, ink } = scale.colour(value);
    return { fill: colour, ink, text: hasRoom ? model.text(state.name, i) : "" };
  }

  function tell(i, name) {
    readout.replaceChildren();
    if (i === null) {
      readout.append(`${name}: no such tensor`);
      return;
    }
    const extra = model.columns
      .filter((one) => model.statistic(one).format === "text")
      .map((one) => model.text(one, i));
    readout.append(
      element("b", {}, name),
      ` ${model.statistic(state.name).label} `,
      element("b", {}, model.text(state.name, i)),
      extra.length ? ` · ${extra.join(" · ")}` : "",
    );
  }

  function numbers(rows) {
    return rows.flatMap((row) =>
      row.cells.filter((i) => i !== null).map((i) => asNumber(model.value(state.name, i))),
    );
  }

  function repaint() {
    const every = [...across, ...beside];
    scales = (state.within ? every.map((row) => [row]) : [every]).map((rows) =>
      scaleOf(numbers(rows), state.log),
    );
    about.textContent = model.statistic(state.name).about;
    legend.replaceChildren(
      ...legendOf(
        scaleOf(numbers(every), state.log),
        model.statistic(state.name),
        state.within,
        across.length,
      ),
    );
    grids.forEach((grid) => grid && grid.paint());
  }

  function choose(name) {
    state.name = name;
    state.log = spreads(numbers([...across, ...beside]));
    log.checked = state.log;
    repaint();
    changed.forEach((call) => call(name));
  }

  select.addEventListener("change", () => choose(select.value));
  log.addEventListener("change", () => {
    state.log = log.checked;
    repaint();
  });
  within.addEventListener("change", () => {
    state.within = within.checked;
    repaint();
  });
  readout.textContent = "Point at a cell, or walk with the arrow keys; Enter opens it.";
  fill(section, {}, [
    element(
      "div",
      { class: "section-head" },
      element("h2", { id: "heatmap-title" }, "Layers × roles"),
      element(
        "div",
        { class: "controls" },
        element("label", { class: "field", for: "statistic" }, element("span", {}, "Statistic"), select),
        element("label", { class: "check", for: "log" }, log, "Log scale"),
        element("label", { class: "check", for: "within" }, within, "Each role by itself"),
      ),
    ),
    about,
    legend,
    readout,
    element("div", { class: "scroller", tabindex: -1 }, grids[0] ? grids[0].root : null),
    grids[1] ? element("h3", {}, "Outside the layers") : null,
    grids[1] ? grids[1].root : null,
    model.outside.length > beside.length
      ? element(
          "p",
          { class: "about" },
          `${model.outside.length - beside.length} more outside the layers are in the table below.`,
        )
      : null,
  ]);
  choose(state.name);
  return {
    repaint,
    current: () => state.name,
    onChange: (call) => changed.push(call),
    cellOf(i) {
      const [layer, role] = model.places[i];
      const grid = grids[layer < 0 ? 1 : 0];
      return grid
        ? grid.nodeAt((layer < 0 ? model.outside : model.roles).indexOf(role), Math.max(layer, 0))
        : null;
    },
  };
}

function statisticSelect(shown, chosen) {
  const groups = new Map();
  shown.forEach((one) => groups.set(one.group, [...(groups.get(one.group) || []), one]));
  return element(
    "select",
    { id: "statistic" },
    [...groups].map(([group, members]) =>
      element(
        "optgroup",
        { label: group },
        members.map((one) =>
          element("option", { value: one.name, selected: one.name === chosen }, one.label),
        ),
      ),
    ),
  );
}

// A bar of the scale's colours over the numbers at its places, and what blank cells mean.
function legendOf(scale, statistic, within, hasRows) {
  const keys = element(
    "span",
    { class: "legend-keys" },
    element("span", { class: "key" }, element("i", { class: "swatch undefined" }), "no value"),
    element("span", { class: "key" }, element("i", { class: "swatch absent" }), "no such tensor"),
  );
  if (scale.isEmpty) return [keys];
  const places = scale.isFlat ? [0.5] : [0, 0.25, 0.5, 0.75, 1];
  const byRole = within && hasRows;
  const words = scale.isSigned
    ? ["most below 0", "0", "most above 0"]
    : ["least of its role", "", "largest of its role"];
  const ticks = byRole
    ? words.map((word) => element("span", {}, word))
    : places.map((place) =>
        element(
          "span",
          {},
          formatted(scale.valueAt(place), statistic.format === "count" ? "number" : statistic.format),
        ),
      );
  return [
    element(
      "div",
      { class: "legend-scale" },
      element("div", { class: "legend-bar", style: { "background-image": gradient(scale) } }),
      element("div", { class: "legend-ticks" }, ticks),
    ),
    keys,
  ];
}
