// Puts the page together: the address names the tensor whose panel is open, so that every one can be linked to.

const darkness = matchMedia("(prefers-color-scheme: dark)");
const paper = matchMedia("print");
let chosenTheme = null;

function setTheme(name, repaint) {
  document.documentElement.dataset.theme = name;
  const other = name === "dark" ? "light" : "dark";
  byId("theme").textContent = `${other[0].toUpperCase()}${other.slice(1)} theme`;
  repaint();
}

function nameInAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // no escape that anything of ours wrote
  }
}

function start(model) {
  const panel = makePanel(byId("panel"), model, go);
  const map = makeHeatMap(byId("heatmap-section"), model, go);
  const table = makeTable(byId("table-section"), model, go);
  let from = null;

  function go(i, node) {
    if (i === null) {
      history.replaceState(null, "", location.pathname + location.search);
      panel.close(map.cellOf);
      return;
    }
    from = node;
    if (location.hash === addressOf(model.keys[i])) follow();
    else location.hash = addressOf(model.keys[i]);
  }

  function follow() {
    const i = model.tensorNamed(nameInAddress());
    if (i !== undefined) panel.show(i, from);
    else panel.close(map.cellOf);
    from = null;
  }

  function settle() {
    if (paper.matches) print();
    else setTheme(chosenTheme || (darkness.matches ? "dark" : "light"), repaint);
  }

  function print() {
    table.drawAll();
    setTheme("light", repaint);
  }

  function repaint() {
    map.repaint();
    panel.repaint();
  }

  byId("facts").append(...factList(model.facts, "").children);
  byId("notes").append(...model.notes.map((note) => element("li", {}, note)));
  byId("listings").append(...model.listings.map((one) => blockOf(one, model, -1)));
  byId("footer").append(
    `Floats have 4 significant digits here, counts all of theirs. ${model.generator}. `,
    "Keys: arrows walk over the map, Enter opens, Esc closes, / searches.",
  );
  if (map.onChange) {
    map.onChange((name) => table.alsoShow(name));
    table.alsoShow(map.current());
  }
  byId("theme").addEventListener("click", () => {
    chosenTheme = theme() === "dark" ? "light" : "dark";
    setTheme(chosenTheme, repaint);
  });
  for (const query of [darkness, paper]) query.addEventListener("change", settle);
  addEventListener("beforeprint", print);
  addEventListener("afterprint", settle);
  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && panel.shown() !== null) go(null);
    else if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      table.search.focus();
    }
  });
  setTheme(theme(), repaint);
  if (location.hash) follow();
  document.documentElement.dataset.ready = "yes";
}

document.documentElement.dataset.theme = darkness.matches ? "dark" : "light";
unpacked(byId("data").textContent)
  .then((data) => start(makeModel(data)))
  .catch((error) => {
    byId("main").prepend(element("p", { class: "failure", role: "alert" }, String(error.message || error)));
    throw error;
  });
