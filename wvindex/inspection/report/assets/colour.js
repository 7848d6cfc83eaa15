// Colours of numbers. Ramps are straight in OKLab's lightness (Björn Ottosson, 2020), so that equal steps look
// equal; they rise in lightness throughout, so that they are read without seeing hue; the two arms of the
// diverging one are blue and orange, which every common colour blindness tells apart.

const STEPS = 256;

// [lightness, chroma, hue in degrees]
const RAMPS = {
  light: {
    sequential: [
      [0.965, 0.028, 105],
      [0.8, 0.085, 160],
      [0.6, 0.1, 215],
      [0.44, 0.12, 260],
      [0.28, 0.11, 285],
    ],
    low: [
      [0.96, 0.004, 90],
      [0.7, 0.1, 245],
      [0.4, 0.13, 258],
    ],
    high: [
      [0.96, 0.004, 90],
      [0.7, 0.13, 58],
      [0.4, 0.105, 42],
    ],
  },
  dark: {
    sequential: [
      [0.29, 0.06, 285],
      [0.43, 0.12, 265],
      [0.6, 0.11, 215],
      [0.78, 0.11, 165],
      [0.95, 0.09, 105],
    ],
    low: [
      [0.29, 0.006, 260],
      [0.58, 0.12, 252],
      [0.86, 0.08, 235],
    ],
    high: [
      [0.29, 0.006, 260],
      [0.58, 0.12, 50],
      [0.86, 0.1, 75],
    ],
  },
};

const tables = new Map();

function oklab([lightness, chroma, hue]) {
  const angle = (hue * Math.PI) / 180;
  return [lightness, chroma * Math.cos(angle), chroma * Math.sin(angle)];
}

// A colour of OKLab, and the ink that is read best on it (WCAG 2: black and white contrast alike at 0.179).
function mixed([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const shown = linear.map((value) => Math.min(Math.max(value, 0), 1));
  const channels = shown.map((one) =>
    Math.round(255 * (one <= 0.0031308 ? 12.92 * one : 1.055 * one ** (1 / 2.4) - 0.055)),
  );
  const luminance = 0.2126 * shown[0] + 0.7152 * shown[1] + 0.0722 * shown[2];
  return { fill: `rgb(${channels.join(" ")})`, ink: luminance > 0.179 ? "#000" : "#fff" };
}

// A ramp's colours, as many as STEPS, each with the ink that is read on it.
function ramp(name) {
  const known = `${theme()} ${name}`;
  if (!tables.has(known)) {
    const stops = RAMPS[theme()][name].map(oklab);
    const colours = Array.from({ length: STEPS }, (_, i) => {
      const at = (i / (STEPS - 1)) * (stops.length - 1);
      const first = Math.min(Math.floor(at), stops.length - 2);
      return mixed(
        stops[first].map((value, axis) => value + (at - first) * (stops[first + 1][axis] - value)),
      );
    });
    tables.set(known, colours);
  }
  return tables.get(known);
}

// Whether numbers spread over so many powers of ten that a straight scale shows the largest alone.
function spreads(numbers) {
  const finite = numbers.filter((n) => Number.isFinite(n) && n !== 0);
  const sizes = finite.map(Math.abs).sort((a, b) => a - b);
  const isSigned = finite.some((n) => n > 0) && finite.some((n) => n < 0);
  return (
    sizes.length > 1 && sizes.at(-1) > (isSigned ? 30 * sizes[Math.floor(sizes.length / 2)] : 50 * sizes[0])
  );
}

// A scale of numbers: straight or logarithmic, from their least to their largest; where they lie on both sides
// of zero, as far on either side. Logarithms of what reaches zero are asinh(x / s),
// s the least magnitude, or on both sides of zero the median one.
function scaleOf(numbers, log) {
  const finite = numbers.filter(Number.isFinite);
  const least = finite.reduce((a, b) => Math.min(a, b), Infinity);
  const most = finite.reduce((a, b) => Math.max(a, b), -Infinity);
  const isSigned = least < 0 && most > 0;
  const sign = !isSigned && most <= 0 && least < 0 ? -1 : 1;
  const [low, high] = isSigned ? [0, Math.max(-least, most)] : sign < 0 ? [-most, -least] : [least, most];
  const sizes = finite
    .map(Math.abs)
    .filter((n) => n > 0)
    .sort((a, b) => a - b);
  const unit = Math.max(sizes[isSigned ? Math.floor(sizes.length / 2) : 0] || 1, high * 1e-6);
  const [warp, back] = !log
    ? [(x) => x, (x) => x]
    : low > 0
      ? [Math.log, Math.exp]
      : [(x) => Math.asinh(x / unit), (x) => unit * Math.sinh(x)];
  const [from, to] = [warp(low), warp(high)];
  const share = (size) => (to > from ? Math.min(Math.max((warp(size) - from) / (to - from), 0), 1) : 0.5);

  function colour(value) {
    const name = !isSigned ? "sequential" : value < 0 ? "low" : "high";
    const at = isSigned && !(to > from) ? 0 : share(isSigned ? Math.abs(value) : sign * value);
    return ramp(name)[Math.round(at * (STEPS - 1))];
  }

  // What stands at a place of the scale, from 0 to 1.
  function valueAt(place) {
    if (place === 0) return isSigned ? -high : sign * low;
    if (place === 1) return sign * high;
    const size = back(from + (isSigned ? Math.abs(2 * place - 1) : place) * (to - from));
    return isSigned ? Math.sign(place - 0.5) * size : sign * size;
  }

  return { isEmpty: !finite.length, isFlat: least === most, isSigned, colour, valueAt };
}

// The scale as a CSS gradient.
function gradient(scale) {
  const stops = Array.from({ length: 33 }, (_, i) => scale.colour(scale.valueAt(i / 32)).fill);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

function theme() {
  return document.documentElement.dataset.theme === "dark" ? "dark" : "light";
}
