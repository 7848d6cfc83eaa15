// Numbers as people read them: four significant digits, a true minus sign, units.

const MISSING = "–";
const BINARY = ["B", "KiB", "MiB", "GiB", "TiB"];

// Values are numbers, null, text, or the infinities, which JSON has no number for.
function asNumber(value) {
  if (value === null || value === undefined || value === "" || typeof value === "boolean") return NaN;
  return Number(value);
}

function plainNumber(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) {
    const [digits, power] = value.toExponential(3).split("e");
    return minus(`${String(Number(digits))}e${power.replace("+", "")}`);
  }
  return minus(
    size >= 1e4
      ? value.toLocaleString("en-US", { maximumFractionDigits: 0 })
      : String(Number(value.toPrecision(4))),
  );
}

function minus(text) {
  return text.replaceAll("-", "−");
}

function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit < BINARY.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit ? value.toFixed(1) : value} ${BINARY[unit]}`;
}

function formatted(value, format) {
  if (format === "text") return value === null || value === undefined ? MISSING : String(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  const number = asNumber(value);
  if (Number.isNaN(number)) return MISSING;
  if (format === "bytes") return bytes(number);
  if (format === "share") return `${plainNumber(Number((100 * number).toPrecision(4)))}%`;
  if (format === "count") return minus(number.toLocaleString("en-US"));
  if (format === "index") return String(number);
  return plainNumber(number);
}
