// What is drawn rather than written: state icons and sparklines, as inline SVG.

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// Each state has its own outline, so that it can be told without colour.
const ICONS = {
  OK: [["circle", { cx: 12, cy: 12, r: 10, class: "fill" }], ["path", { d: "M7 12.5l3.4 3.4L17.2 9", class: "mark" }]],
  WARNING: [["path", { d: "M12 2.2L23 21.5H1z", class: "fill" }], ["path", { d: "M12 9v6M12 18v.6", class: "mark" }]],
  CRITICAL: [["path", { d: "M7.9 1.5h8.2l6.4 6.4v8.2l-6.4 6.4H7.9l-6.4-6.4V7.9z", class: "fill" }], ["path", { d: "M8.2 8.2l7.6 7.6M15.8 8.2l-7.6 7.6", class: "mark" }]],
  TOO_FEW: [["circle", { cx: 12, cy: 12, r: 9, class: "line dashed" }], ["path", { d: "M7.5 12h.1M12 12h.1M16.5 12h.1", class: "line" }]],
  NO_DATA: [["circle", { cx: 12, cy: 12, r: 9, class: "line" }], ["path", { d: "M8 12h8", class: "line" }]],
  INFO: [["rect", { x: 2, y: 2, width: 20, height: 20, rx: 4, class: "fill" }], ["path", { d: "M12 11v6M12 7v.4", class: "mark" }]],
};
ICONS.NONE = [];

/** Return the icon of a state or severity, hidden from screen readers: a word stands beside it. */
export function icon(state) {
  const svg = shape("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" });
  for (const [name, attributes] of ICONS[state] ?? []) svg.append(shape(name, attributes));
  return svg;
}

/** Draw values (null = gap) and the target into the element, in its own pixels. */
export function sparkline(element, line, target) {
  element.replaceChildren();
  const width = element.clientWidth, height = element.clientHeight;
  const known = line.values.filter((v) => v !== null && v !== undefined);
  if (known.length < 2 || width < 20 || height < 10) return;
  const all = target === null || target === undefined ? known : [...known, target];
  let low = Math.min(...all), high = Math.max(...all);
  const room = (high - low || Math.abs(high) || 1) * 0.12;
  low -= room; high += room;
  const x = (i) => 2 + (i / Math.max(1, line.values.length - 1)) * (width - 12);
  const y = (v) => height - 3 - ((v - low) / (high - low)) * (height - 6);
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  if (all !== known) svg.append(shape("line", { x1: 0, x2: width, y1: y(target), y2: y(target), class: "goal" }));
  const runs = runsOf(line.values);
  for (const run of runs) {
    const points = run.map(([i, v]) => `${x(i).toFixed(1)} ${y(v).toFixed(1)}`);
    if (run.length > 1) {
      svg.append(shape("path", { class: "area", d: `M${x(run[0][0])} ${height}L${points.join("L")}L${x(run.at(-1)[0])} ${height}Z` }));
    }
    svg.append(shape("path", { class: "trend", d: run.length > 1 ? `M${points.join("L")}` : `M${points[0]}h.01` }));
  }
  const [i, v] = runs.at(-1).at(-1);
  svg.append(shape("circle", { cx: x(i), cy: y(v), r: 4.5, class: "newest" }));
  element.append(svg);
}

function runsOf(values) {
  const runs = [];
  let run = null;
  values.forEach((value, i) => {
    if (value === null || value === undefined) { run = null; return; }
    if (!run) runs.push(run = []);
    run.push([i, value]);
  });
  return runs;
}
