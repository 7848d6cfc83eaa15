// The panel of one tensor. It stands beside the map, which stays in reach; Esc closes it, and gives the focus back.

function makePanel(panel, model, go) {
  let shown = null;
  let opener = null;

  function neighbour(i, by) {
    const [layer, role] = model.places[i];
    if (layer < 0) return undefined;
    for (let at = layer + by; at >= 0 && at < model.layers.length; at += by) {
      const found = model.tensorAt(at, role);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  function step(i, by, label, sign) {
    const to = neighbour(i, by);
    return element(
      "button",
      {
        type: "button",
        class: "quiet",
        disabled: to === undefined,
        "aria-label": label,
        title: label,
        onclick: () => go(to, null),
      },
      sign,
    );
  }

  function statisticsOf(i) {
    const groups = new Map();
    model.statistics
      .filter((one) => one.format !== "text" && formatted(model.value(one.name, i), one.format) !== MISSING)
      .forEach((one) => groups.set(one.group, [...(groups.get(one.group) || []), one]));
    return [...groups].map(([group, members]) =>
      element(
        "div",
        { class: "numbers" },
        element("h3", {}, group),
        element(
          "table",
          { class: "pairs" },
          element(
            "tbody",
            {},
            members.map((one) =>
              element(
                "tr",
                { "data-statistic": one.name },
                element("th", { scope: "row", title: one.about }, one.label),
                element("td", {}, model.text(one.name, i)),
              ),
            ),
          ),
        ),
      ),
    );
  }

  function show(i, from) {
    if (shown === null || from) opener = from;
    shown = i;
    const title = element("h2", { id: "panel-title", tabindex: -1 }, breakable(model.keys[i]));
    panel.replaceChildren(
      element(
        "div",
        { class: "panel-head" },
        element("p", { class: "kind" }, model.where(i)),
        element(
          "div",
          { class: "panel-buttons" },
          step(i, -1, "Same role, layer before", "←"),
          step(i, 1, "Same role, layer after", "→"),
          element(
            "button",
            {
              type: "button",
              class: "quiet",
              "aria-label": "Close",
              title: "Close (Esc)",
              onclick: () => go(null),
            },
            "✕",
          ),
        ),
      ),
      title,
      factList(model.tensorFacts[i], "tensor-facts"),
      element(
        "div",
        { class: "blocks" },
        model.tensorBlocks[i]
          .filter((b) => model.blocks[b].type === "histogram")
          .map((b) => blockOf(model.blocks[b], model, i)),
      ),
      element("div", { class: "number-groups" }, statisticsOf(i)),
      element(
        "div",
        { class: "blocks" },
        model.tensorBlocks[i]
          .filter((b) => model.blocks[b].type !== "histogram")
          .map((b) => blockOf(model.blocks[b], model, i)),
      ),
    );
    panel.hidden = false;
    document.body.classList.add("with-panel");
    panel.scrollTop = 0;
    title.focus({ preventScroll: true });
  }

  function close(cellOf) {
    if (shown === null) return;
    const back = opener && opener.isConnected ? opener : cellOf(shown);
    shown = null;
    panel.hidden = true;
    panel.replaceChildren();
    document.body.classList.remove("with-panel");
    if (back) back.focus();
  }

  return {
    show,
    close,
    shown: () => shown,
    repaint: () =>
      panel.querySelectorAll(".parts-block").forEach((node) => node.dispatchEvent(new Event("repaint"))),
  };
}
