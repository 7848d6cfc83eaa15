// Elements made of names, attributes and text. Strings only ever become text: nothing here parses markup.

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style")
      for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function element(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

// A name that may be broken after its dots.
function breakable(text) {
  return String(text)
    .split(/(?<=[./])/)
    .flatMap((part, k) => (k ? [element("wbr", {}), part] : [part]));
}

// A list of terms and what they are, two by two.
function factList(pairs, className) {
  return element(
    "dl",
    { class: className },
    pairs.map(([label, value]) =>
      element("div", {}, element("dt", {}, label), element("dd", {}, breakable(value))),
    ),
  );
}
