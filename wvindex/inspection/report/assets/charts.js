// What a panel shows below its numbers: histograms, bars, grids of heads and experts, small tables.

const CHART = { width: 460, height: 150, foot: 22, head: 6 };

function blockOf(block, model, i) {
  const draw = { histogram: histogramChart, bars: barsChart, grid: partsGrid, listing: listingTable }[
    block.type
  ];
  return element("section", { class: `block block-${block.type}` }, draw(block, model, i));
}

function histogramChart(block, model, i) {
  const { low, high, counts, below, above } = block;
  const inside = counts.reduce((a, b) => a + b, 0);
  const bell = bellOf(block, model, i, inside + below + above);
  const most = Math.max(...counts);
  const top = Math.max(most, ...bell.map(([, count]) => count));
  const floor = CHART.height - CHART.foot;
  const x = (value) => (high > low ? ((value - low) / (high - low)) * CHART.width : CHART.width / 2);
  const y = (count) => floor - (count / top) * (floor - CHART.head);
  const line = bell
    .map(([value, count], k) => `${k ? "L" : "M"}${x(value).toFixed(1)} ${y(count).toFixed(1)}`)
    .join("");
  const said = `Histogram of ${formatted(inside, "count")} weights from ${plainNumber(low)} to ${plainNumber(high)}`;
  return [
    element("h3", {}, "Histogram"),
    svg(
      "svg",
      { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", "aria-label": said },
      binsOf(block, y, floor),
      line ? svg("path", { class: "bell", d: line }) : null,
      svg("line", { class: "axis", x1: 0, x2: CHART.width, y1: floor, y2: floor }),
      ticksOf(low, high).map((value) => tick(value, x(value), floor)),
    ),
    element(
      "p",
      { class: "tails" },
      element("span", {}, `‹ ${formatted(below, "count")} below`),
      element("span", {}, `${formatted(above, "count")} above ›`),
    ),
    element(
      "p",
      { class: "about" },
      `Weights by value, from the 0.1% to the 99.9% quantile; the highest bar is ${formatted(most, "count")} weights.`,
      line
        ? [
            " ",
            element("i", { class: "bell-key" }),
            " a normal distribution with the same mean and standard deviation.",
          ]
        : null,
    ),
  ];
}

// How many of all weights a normal distribution would have in a bin around each of some values.
function bellOf({ low, high, counts }, model, i, all) {
  const [mean, std] = ["mean", "std"].map((name) =>
    name in model.values ? asNumber(model.value(name, i)) : NaN,
  );
  if (!(std > 0) || counts.length < 2 || Number.isNaN(mean)) return [];
  const scale = (all * (high - low)) / counts.length / (std * Math.sqrt(2 * Math.PI));
  const values = Array.from({ length: 97 }, (_, k) => low + (k / 96) * (high - low));
  return values.map((value) => [value, scale * Math.exp(-0.5 * ((value - mean) / std) ** 2)]);
}

// A bar for each bin; a single one stands in the middle.
function binsOf({ low, high, counts }, y, floor) {
  const isOne = counts.length === 1;
  const step = isOne ? 40 : CHART.width / counts.length;
  const edge = (k) => plainNumber(low + (k * (high - low)) / counts.length);
  return counts.map((count, k) => {
    const x = isOne ? (CHART.width - step) / 2 : k * step + 0.5;
    const said = `${edge(k)} to ${edge(k + 1)}: ${formatted(count, "count")}`;
    return svg(
      "rect",
      { class: "bar", x, y: y(count), width: Math.max(step - 1, 0.5), height: floor - y(count) },
      svg("title", {}, said),
    );
  });
}

function tick(value, x, floor) {
  const anchor = x < 14 ? "start" : x > CHART.width - 14 ? "end" : "middle";
  return [
    svg("line", { class: "tick", x1: x, x2: x, y1: floor, y2: floor + 4 }),
    svg("text", { class: "tick-label", x, y: floor + 16, "text-anchor": anchor }, plainNumber(value)),
  ];
}

// Round numbers within a range: at most eight.
function ticksOf(low, high) {
  if (!(high > low)) return [low];
  const rough = (high - low) / 7;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1)
    found.push(Number((k * step).toPrecision(12)));
  return found.length ? found : [low];
}

function barsChart(block) {
  const values = block.values.map(asNumber);
  const most = Math.max(...values.filter(Number.isFinite), block.mark || 0);
  const mark = block.mark && most > 0 ? { "--mark": `${(100 * block.mark) / most}%` } : {};
  const rows = block.labels.map((label, k) =>
    element(
      "li",
      {},
      element("span", { class: "bar-label" }, element("span", { class: "unit" }, block.item), " ", label),
      element(
        "span",
        { class: block.mark ? "track marked" : "track" },
        element("span", {
          class: `fill${block.mark && values[k] >= block.mark ? " over" : ""}`,
          style: { width: `${most > 0 ? (100 * Math.min(values[k], most)) / most : 0}%` },
        }),
      ),
      element("span", { class: "bar-value" }, plainNumber(values[k])),
    ),
  );
  return [
    element("h3", {}, block.title),
    element("p", { class: "about" }, block.about),
    element("ol", { class: "bars", style: mark }, rows),
  ];
}

// Heads or experts, a cell each, in lines of 16 (8 where there are few), coloured by one of their measures.
function partsGrid(block) {
  const count = block.values[block.measures[0].name].length;
  const shown = block.measures.filter((one) => one.format !== "index");
  const perRow = count <= 8 ? Math.max(count, 1) : 16;
  const readout = element(
    "p",
    { class: "readout", "aria-hidden": "true" },
    `Point at ${block.item === "expert" ? "an" : "a"} ${block.item}.`,
  );
  const legend = element("div", { class: "legend" });
  const about = element("p", { class: "about" });
  const select = element(
    "select",
    { "aria-label": `Measure of ${block.item}s` },
    shown.map((one) => element("option", { value: one.name }, one.label)),
  );
  const items = Array.from({ length: count }, (_, k) => k);
  const rows = [];
  for (let k = 0; k < count; k += perRow) {
    rows.push({ label: String(k), title: `${block.item}s from ${k}`, cells: items.slice(k, k + perRow) });
  }
  let measure = shown[0];
  let scale = null;
  const text = (one, k) => formatted(block.values[one.name][k], one.format);
  const grid = makeGrid(
    rows,
    null,
    {
      label: `${block.title}, by number`,
      look(k) {
        const value = asNumber(block.values[measure.name][k]);
        if (Number.isNaN(value)) return { className: "undefined" };
        const { fill: colour, ink } = scale.colour(value);
        return {
          fill: colour,
          ink,
          className: block.marks[k] ? "marked-cell" : "",
          text: block.marks[k] ? "!" : "",
        };
      },
      describe: (k) =>
        `${block.item} ${k}, ${measure.label}: ${text(measure, k)}${block.marks[k] ? `, ${block.marks[k]}` : ""}`,
      focus(k) {
        const parts = block.measures.map((one) => `${one.label} ${text(one, k)}`);
        readout.replaceChildren(
          element("b", {}, `${block.item} ${k}`),
          ` ${parts.join(" · ")}${block.marks[k] ? ` · ${block.marks[k]}` : ""}`,
        );
      },
    },
    "parts",
  );
  function paint() {
    const numbers = block.values[measure.name].map(asNumber);
    scale = scaleOf(numbers, spreads(numbers));
    about.textContent = `${measure.about}. ${block.about}`;
    legend.replaceChildren(...legendOf(scale, measure, false, false).slice(0, 1));
    grid.paint();
  }
  select.addEventListener("change", () => {
    measure = shown.find((one) => one.name === select.value);
    paint();
  });
  grid.root.style.setProperty("--columns", perRow);
  paint();
  const node = element(
    "div",
    { class: "parts-block" },
    element("div", { class: "block-head" }, element("h3", {}, block.title), select),
    about,
    legend,
    grid.root,
    readout,
  );
  node.addEventListener("repaint", paint);
  return [node];
}

function listingTable(block) {
  const isText = (one) => one.format === "text";
  return [
    element("h3", {}, block.title),
    element("p", { class: "about" }, block.about),
    element(
      "div",
      { class: "scroller" },
      element(
        "table",
        { class: "plain" },
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            block.columns.map((one) =>
              element("th", { scope: "col", class: isText(one) ? "text" : "", title: one.about }, one.label),
            ),
          ),
        ),
        element(
          "tbody",
          {},
          block.rows.map((row) =>
            element(
              "tr",
              {},
              row.map((value, k) =>
                element(
                  "td",
                  { class: isText(block.columns[k]) ? "text" : "" },
                  formatted(value, block.columns[k].format),
                ),
              ),
            ),
          ),
        ),
      ),
    ),
  ];
}
