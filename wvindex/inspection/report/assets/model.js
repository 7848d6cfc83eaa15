// The page's data: unpacked once, then read by index of tensor.

async function unpacked(text) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old for this page: it needs DecompressionStream (2023 or later).");
  }
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// A name that can stand in an address: half a surrogate pair, which a hostile file may have, cannot.
function wellFormed(name) {
  return name.replace(/\p{Surrogate}/gu, "\ufffd");
}

function makeModel(data) {
  const statistics = new Map(data.statistics.map((one) => [one.name, one]));
  const byKey = new Map();
  data.keys.forEach((key, i) => byKey.set(wellFormed(key), i));
  data.aliases.forEach((names, i) => names.forEach((name) => byKey.has(name) || byKey.set(name, i)));
  const cells = new Map(data.places.map(([layer, role], i) => [`${layer} ${role}`, i]));
  const outside = data.places.filter(([layer]) => layer < 0).map(([, role]) => role);
  return {
    ...data,
    outside,
    statistic: (name) => statistics.get(name),
    tensorAt: (layer, role) => cells.get(`${layer} ${role}`),
    tensorNamed: (name) => byKey.get(name),
    value: (name, i) => data.values[name][i],
    text: (name, i) => formatted(data.values[name][i], statistics.get(name).format),
    where: (i) =>
      (data.places[i][0] < 0 ? "" : `layer ${data.layers[data.places[i][0]]}, `) + data.places[i][1],
    hasNumbers: (name) => data.values[name].some((value) => !Number.isNaN(asNumber(value))),
  };
}
