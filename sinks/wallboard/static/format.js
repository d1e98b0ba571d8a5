// Numbers, instants and spans as people read them. Null is never a number: it is "no data".

const oneDecimal = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const MINUTES_FROM_S = 100;

/** Return [digits, unit] of a value in its unit; 312 seconds are ["5:12", "min"]. */
export function quantity(value, unit) {
  if (unit === "percent") return [value >= 99.95 ? whole.format(value) : oneDecimal.format(value), "%"];
  if (unit === "seconds") {
    if (Math.abs(value) < MINUTES_FROM_S) return [value < 60 ? oneDecimal.format(value) : whole.format(value), "s"];
    const seconds = Math.round(value);
    return [`${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`, "min"];
  }
  if (unit === "count") return [whole.format(value), ""];
  return [oneDecimal.format(value), ""];
}

/** Return a value with its unit as one text. */
export function text(value, unit) {
  return value === null || value === undefined ? "–" : quantity(value, unit).join(" ").trim();
}

/** Return a target with its direction: at least, at most, or neither. */
export function target(cell) {
  if (cell.target === null || cell.target === undefined) return "";
  const sign = { higher: "≥ ", lower: "≤ " }[cell.better] ?? "";
  const [digits, unit] = quantity(cell.target, cell.unit);
  return `${sign}${digits.replace(/\.0$/, "")} ${unit}`.trim();
}

const formats = new Map();
function format(zone, options) {
  const key = zone + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options }));
  return formats.get(key);
}

/** Return hh:mm of an instant; no zone means the viewer's own. */
export const minute = (ms, zone) => format(zone, { hour: "2-digit", minute: "2-digit" }).format(ms);
/** Return hh:mm:ss of an instant. */
export const second = (ms, zone) => format(zone, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(ms);
/** Return the day of an instant. */
export const day = (ms, zone) => format(zone, { day: "numeric", month: "short", year: "numeric" }).format(ms);

/** Return a window as "10:00–10:30", or the day's name. */
export function span(window, zone) {
  if (window.start_time === null) return window.text;
  if (window.text === "day") return day(window.start_time + (window.end_time - window.start_time) / 2, zone);
  return `${minute(window.start_time, zone)}–${minute(window.end_time, zone)}`;
}

/** Return an age such as "now", "12 s ago", "5 min ago". */
export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 2) return "now";
  if (s < 120) return `${s} s ago`;
  if (s < 7200) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`;
}

/** Return a length of time such as "60 min" or "24 h". */
export function length(ms) {
  const minutes = Math.round(ms / 60000);
  return minutes < 180 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}
