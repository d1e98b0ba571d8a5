// The page: parts come in by server-sent events, each is drawn in place when it changes.

import * as say from "./format.js";
import { icon, sparkline } from "./draw.js";

const SILENT_MS = 12_000;      // the server speaks every 5 s at least
const PAGE_MS = 12_000;
const SPEAK_EVERY_MS = 5_000;
const WORDS = { OK: "OK", WARNING: "Warning", CRITICAL: "Critical", TOO_FEW: "Too few", NO_DATA: "No data", NONE: "No target", INFO: "Info" };

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const isKiosk = query.has("kiosk");
const boardName = location.pathname.match(/^\/boards\/([^/]+)/)?.[1] ?? "default";

const parts = new Map();
const nodes = new Map();
const states = new Map();
let version = null, lastId = null, source = null, clock = 0;
let heardAt = Date.now(), connected = false, pausedAt = null, waiting = null, page = 0;

function el(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

function put(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

const head = () => parts.get("head") ?? {};
const zone = () => head().zone ?? "UTC";
const now = () => Date.now() + clock;
// A count without a target is neither good nor bad.
const stateOf = (cell) => (cell.state === "OK" && cell.target === null ? "NONE" : cell.state);

// ---- the connection

function connect() {
  source?.close();
  const url = new URL(`/events/${boardName}`, location);
  const name = head().filter?.name;
  for (const [key, value] of query) if (key === name || !["kiosk", "theme", "view"].includes(key)) url.searchParams.set(key, value);
  if (lastId) url.searchParams.set("last", lastId);
  source = new EventSource(url);
  source.onmessage = (event) => {
    lastId = event.lastEventId;
    receive(JSON.parse(event.data));
  };
  source.onerror = () => {
    connected = false;
    // After a refusal the browser gives up by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
    refreshAges();
  };
}

function receive(message) {
  if (version && version !== message.version) { location.reload(); return; }
  version = message.version;
  clock = message.server_time - Date.now();
  heardAt = Date.now();
  connected = true;
  if (pausedAt) {
    waiting = waiting && !message.reset ? { ...message, reset: waiting.reset, parts: { ...waiting.parts, ...message.parts } } : message;
  } else {
    apply(message);
  }
  refreshAges();
}

function apply(message) {
  if (message.reset) { parts.clear(); states.clear(); }
  const names = Object.keys(message.parts);
  for (const name of names) {
    if (message.parts[name] === null) parts.delete(name); else parts.set(name, message.parts[name]);
  }
  if (names.length || message.reset) draw(new Set(names), message.reset);
}

// ---- drawing

function draw(changed, all) {
  if (all || changed.has("head")) drawHead();
  drawTiles(changed, all);
  drawRows(changed, all);
  if (all || changed.has("actions") || changed.has("head")) drawActions();
  // Only now do the tiles have their size.
  for (const [name, part] of parts) {
    if (name.startsWith("tile:") && (all || changed.has(name))) drawSpark(nodes.get(name), part);
  }
  drawTable();
  makeReachable();
  noteStates();
}

// What scrolls must be reachable without a mouse; what cannot scroll (a wall) shows whole items only.
function makeReachable() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
  }
  const list = $("actions-list"), bottom = list.getBoundingClientRect().bottom + 1;
  for (const item of list.children) item.style.visibility = isKiosk && item.getBoundingClientRect().bottom > bottom ? "hidden" : "";
}

function drawHead() {
  const h = head();
  put($("title"), h.title ?? "Andon");
  document.title = `${h.title ?? "Board"} · Andon`;
  $("notice").hidden = !h.notice;
  put($("notice"), h.notice ?? "");
  put($("reached"), h.event_time ? `Data up to ${say.day(h.event_time, zone())}, ${say.second(h.event_time, zone())}` : "No data yet");
  const filter = h.filter;
  $("filter-label").hidden = !filter;
  if (!filter) return;
  put($("filter-name"), filter.name[0].toUpperCase() + filter.name.slice(1));
  const select = $("filter"), wanted = JSON.stringify(filter.choices);
  if (select.dataset.choices !== wanted) {
    select.dataset.choices = wanted;
    const choices = filter.choices.map((c) => Object.assign(el("option", "", c.label), { value: c.member }));
    select.replaceChildren(Object.assign(el("option", "", "All"), { value: "" }), ...choices);
  }
  select.value = h.chosen ?? "";
}

function drawTiles(changed, all) {
  const names = [...parts.keys()].filter((n) => n.startsWith("tile:")).sort((a, b) => a.slice(5) - b.slice(5));
  const tiles = $("tiles");
  tiles.style.setProperty("--columns", names.length <= 4 ? names.length : Math.ceil(names.length / Math.ceil(names.length / 4)));
  for (const name of names) {
    if (!nodes.has(name)) {
      nodes.set(name, tileNodes());
      tiles.append(nodes.get(name).root);
    }
    if (all || changed.has(name) || changed.has("head")) drawTile(nodes.get(name), parts.get(name));
  }
  for (const name of [...nodes.keys()]) {
    if (name.startsWith("tile:") && !parts.has(name)) { nodes.get(name).root.remove(); nodes.delete(name); }
  }
}

function tileNodes() {
  const n = {
    label: el("h3", "label"), caption: el("span", "caption"), state: el("span", "state"),
    digits: el("span", "digits"), unit: el("span", "unit"), goal: el("span", "goal-text"),
    spark: el("div", "spark"), sparkLength: el("span", "spark-length"),
    count: el("span", "count"), window: el("span", "window"), status: el("span", "status"), age: el("span", "age"),
  };
  n.spark.setAttribute("role", "img");
  n.root = el("div", "tile",
    el("div", "tile-top", el("div", "names", n.label, n.caption), n.state),
    el("div", "tile-middle", el("p", "value", n.digits, n.unit), el("div", "trend-box", n.spark, n.sparkLength)),
    el("div", "tile-bottom", n.goal, n.count, n.window, n.status, n.age));
  n.root.setAttribute("role", "listitem");
  return n;
}

function drawTile(n, tile) {
  const state = stateOf(tile);
  n.root.dataset.state = state;
  put(n.label, tile.label);
  put(n.caption, [tile.key, tile.caption].filter(Boolean).join(" · "));
  drawState(n.state, state);
  drawValue(n, tile);
  put(n.goal, tile.target === null ? "" : `target ${say.target(tile)}`);
  put(n.count, `n ${tile.n.toLocaleString("en")}`);
  put(n.window, say.span(tile.window, zone()));
  put(n.status, (tile.status ?? "").toLowerCase());
}

function drawState(node, state) {
  if (node.dataset.state === state) return;
  node.dataset.state = state;
  node.replaceChildren(icon(state), el("span", "", WORDS[state]));
}

function drawValue(n, tile) {
  const shown = tile.value !== null && !["TOO_FEW", "NO_DATA"].includes(tile.state);
  const [digits, unit] = shown ? say.quantity(tile.value, tile.unit) : [tile.state === "TOO_FEW" ? "too few" : "no data", ""];
  n.root.classList.toggle("wordy", !shown);
  put(n.digits, digits);
  put(n.unit, unit);
}

function drawSpark(n, tile) {
  const line = tile.sparkline;
  const known = line?.values.filter((v) => v !== null) ?? [];
  n.spark.parentElement.classList.toggle("empty", known.length < 2);
  if (known.length < 2) { n.spark.replaceChildren(); put(n.sparkLength, ""); n.spark.removeAttribute("aria-label"); return; }
  put(n.sparkLength, `last ${say.length(line.end_time - line.start_time)}`);
  sparkline(n.spark, line, tile.target);
  n.spark.setAttribute("aria-label", `Trend from ${say.text(known[0], tile.unit)} to ${say.text(known.at(-1), tile.unit)}, lowest ${say.text(Math.min(...known), tile.unit)}, highest ${say.text(Math.max(...known), tile.unit)}`);
}

function drawRows(changed, all) {
  const rows = parts.get("rows");
  $("rows").hidden = !rows;
  if (!rows) return;
  if (all || changed.has("rows")) {
    put($("rows-title"), rows.title);
    const corner = el("th", "", head().filter?.name ?? "");
    $("rows-head").replaceChildren(corner, ...rows.columns.map((c) => el("th", "number", c)));
    for (const th of $("rows-head").children) th.scope = "col";
    $("rows").style.setProperty("--rows", rows.order.length);
    const nobody = el("tr", "", Object.assign(el("td", "none", "No data yet"), { colSpan: rows.columns.length + 1 }));
    $("rows-body").replaceChildren(...(rows.order.length ? rows.order.map((name) => rowNodes(name, rows.columns.length).root) : [nobody]));
  }
  for (const name of rows.order) {
    if ((all || changed.has("rows") || changed.has("head") || changed.has(name)) && parts.has(name)) drawRow(nodes.get(name), parts.get(name));
  }
  turnPage(0);
}

function rowNodes(name, columns) {
  const n = { name: el("span", "row-name"), when: el("span", "row-when"), cells: [] };
  for (let i = 0; i < columns; i++) {
    const cell = { icon: el("span", "cell-icon"), word: el("span", "unseen"), value: el("span", "cell-value"), unit: el("span", "cell-unit"), count: el("span", "cell-n") };
    cell.root = el("td", "number", el("div", "cell", cell.icon, cell.word, el("span", "cell-figure", cell.value, cell.unit), cell.count));
    n.cells.push(cell);
  }
  const header = el("th", "", n.name, n.when);
  header.scope = "row";
  n.root = el("tr", "", header, ...n.cells.map((c) => c.root));
  nodes.set(name, n);
  return n;
}

function drawRow(n, row) {
  put(n.name, row.key || "none");
  row.cells.forEach((cell, i) => drawCell(n.cells[i], cell));
}

function drawCell(n, cell) {
  const state = stateOf(cell);
  if (n.root.dataset.state !== state) {
    n.root.dataset.state = state;
    n.icon.replaceChildren(icon(state));
    put(n.word, state === "NONE" ? "" : `${WORDS[state]}: `);
  }
  const shown = cell.value !== null && !["TOO_FEW", "NO_DATA"].includes(cell.state);
  const [digits, unit] = shown ? say.quantity(cell.value, cell.unit) : [cell.state === "TOO_FEW" ? "too few" : "no data", ""];
  n.root.classList.toggle("wordy", !shown);
  put(n.value, digits);
  put(n.unit, unit);
  put(n.count, cell.unit === "count" ? "" : `n ${cell.n.toLocaleString("en")}`);
}

function drawActions() {
  const actions = parts.get("actions");
  $("actions").hidden = !actions;
  if (!actions) return;
  put($("actions-title"), actions.title);
  const list = actions.actions.map((action) => {
    const severity = el("span", "state", icon(action.severity), el("span", "", WORDS[action.severity]));
    severity.dataset.state = action.severity;
    const subject = action.subject.map((s) => (s.value === null ? "one person" : `${s.name} ${s.value}`)).join(", ");
    const top = el("p", "action-top", severity, el("strong", "", action.title), el("time", "", say.minute(action.event_time, zone())));
    const kind = action.action_type.replaceAll("_", " ").toLowerCase();
    const role = action.recipient_role.replaceAll("_", " ").toLowerCase();
    return el("li", "action", top, el("p", "reason", action.reason), el("p", "subject", [subject, `${kind} for ${role}`].filter(Boolean).join(" · ")));
  });
  $("actions-list").replaceChildren(...(list.length ? list : [el("li", "action none", "No open actions")]));
}

function drawTable() {
  if ($("table").hidden) return;
  const columns = parts.get("rows")?.columns ?? [];
  const lines = [...parts].flatMap(([name, part]) => {
    if (name.startsWith("tile:")) return [[part.label, part.key || part.scope, part, part]];
    if (name.startsWith("row:")) return part.cells.map((cell, i) => [columns[i], part.key, cell, part]);
    return [];
  });
  $("table-body").replaceChildren(...lines.map(([label, of, cell, when]) => {
    const state = stateOf(cell), stale = staleSince(when);
    const word = el("span", "state", icon(state), el("span", "", WORDS[state]));
    word.dataset.state = state;
    const computed = stale ? `stale since ${say.second(stale)}` : when.computed_time ? say.second(when.computed_time) : "–";
    const named = el("th", "", label);
    named.scope = "row";
    const texts = [say.text(cell.value, cell.unit), say.target(cell) || "–", cell.n.toLocaleString("en"), say.span(when.window, zone()), (cell.status ?? "–").toLowerCase(), computed];
    return el("tr", "", named, el("td", "", of), el("td", "", word), ...texts.map((t, i) => el("td", i < 3 ? "number" : "", t)));
  }));
}

// ---- what is said aloud: changes of state, no more often than can be listened to

let toSay = new Map(), saidAt = 0;

function noteStates() {
  const rows = parts.get("rows")?.columns ?? [];
  for (const [name, part] of parts) {
    if (name.startsWith("tile:")) note(name, part, [part.label, part.key].filter(Boolean).join(", "));
    if (name.startsWith("row:")) part.cells.forEach((cell, i) => note(`${name}/${i}`, cell, `${part.key}, ${rows[i]}`));
  }
}

function note(name, cell, label) {
  const state = stateOf(cell), before = states.get(name);
  states.set(name, state);
  if (before && before !== state) toSay.set(name, `${label}: ${WORDS[state].toLowerCase()}, ${say.text(cell.value, cell.unit)}.`);
}

function speak() {
  if (!toSay.size || Date.now() - saidAt < SPEAK_EVERY_MS) return;
  saidAt = Date.now();
  put($("spoken"), [...toSay.values()].slice(0, 4).join(" ") + (toSay.size > 4 ? ` And ${toSay.size - 4} more.` : ""));
  toSay = new Map();
}

// ---- age and staleness: every second, with or without a connection

function silentSince() {
  const times = [head().redis_silent_since, head().delivery_silent_since].filter(Boolean);
  if (Date.now() - heardAt > SILENT_MS) times.push(heardAt + clock);
  return times.length ? Math.min(...times) : null;
}

function staleSince(part) {
  const own = part.fresh_time && now() - part.fresh_time > (head().stale_after_ms ?? 60_000) ? part.fresh_time : null;
  const all = part.fresh_time ? silentSince() : null;
  return own && all ? Math.min(own, all) : own ?? all;
}

function refreshAges() {
  for (const [name, part] of parts) {
    const n = nodes.get(name);
    if (!n || !(name.startsWith("tile:") || name.startsWith("row:"))) continue;
    const stale = staleSince(part);
    n.root.classList.toggle("stale", stale !== null);
    if (n.age) put(n.age, stale ? `stale since ${say.second(stale)}` : part.computed_time ? say.age(now() - part.computed_time) : "");
    if (n.when) put(n.when, stale ? `stale since ${say.second(stale)}` : say.span(part.window, zone()));
  }
  drawLink();
  speak();
}

function drawLink() {
  const silent = Date.now() - heardAt > SILENT_MS, h = head();
  const [word, kind] = pausedAt ? [`Paused since ${say.second(pausedAt)}`, "paused"]
    : silent || !connected ? [heardOnce() ? "Reconnecting" : "Connecting", "lost"]
    : h.redis_silent_since || h.delivery_silent_since ? ["No new data", "lost"] : ["Live", "live"];
  put($("link-word"), word);
  $("link").dataset.kind = kind;
  const trouble = silent && heardOnce() ? `Connection lost since ${say.second(heardAt + clock)}. The last numbers are shown; reconnecting.`
    : h.redis_silent_since ? `The store of numbers has not answered since ${say.second(h.redis_silent_since)}. The last numbers are shown.`
    : h.delivery_silent_since ? `Nothing has been delivered since ${say.second(h.delivery_silent_since)}. The last numbers are shown.` : "";
  put($("trouble"), trouble);
  $("trouble").hidden = !trouble;
}

const heardOnce = () => version !== null;

// ---- controls

function turnPage(step) {
  const rows = [...$("rows-body").children], box = $("rows-scroll");
  for (const row of rows) row.hidden = false;
  const fits = !isKiosk || box.scrollHeight <= box.clientHeight + 1 || !rows.length;
  $("rows-page").hidden = fits;
  if (fits) { page = 0; return; }
  const each = Math.max(1, Math.floor((box.clientHeight - $("rows-head").offsetHeight) / rows[0].offsetHeight));
  const pages = Math.ceil(rows.length / each);
  page = (page + step) % pages;
  rows.forEach((row, i) => { row.hidden = Math.floor(i / each) !== page; });
  put($("rows-page"), `${page + 1} of ${pages}`);
}

function remember(name, value) {
  const url = new URL(location);
  if (value === null) { url.searchParams.delete(name); query.delete(name); } else { url.searchParams.set(name, value); query.set(name, value); }
  history.replaceState(null, "", url);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  put($("theme"), theme === "dark" ? "Light" : "Dark");
  $("theme").setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
}

function setView(isTable) {
  $("table").hidden = !isTable;
  $("board").hidden = isTable;
  $("view").setAttribute("aria-pressed", String(isTable));
  draw(new Set(), true);
}

$("theme").onclick = () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", theme); } catch { /* a wall without storage keeps its default */ }
  remember("theme", null);
  setTheme(theme);
};
$("view").onclick = () => {
  const isTable = $("table").hidden;
  remember("view", isTable ? "table" : null);
  setView(isTable);
};
$("pause").onclick = () => {
  pausedAt = pausedAt ? null : now();
  $("pause").setAttribute("aria-pressed", String(Boolean(pausedAt)));
  if (!pausedAt && waiting) { apply(waiting); waiting = null; }
  refreshAges();
};
$("filter").onchange = () => {
  remember(head().filter.name, $("filter").value || null);
  lastId = null;
  connect();
};

$("boards").onchange = () => {
  const url = new URL(`/boards/${$("boards").value}`, location);
  for (const name of ["kiosk", "theme", "view"]) if (query.has(name)) url.searchParams.set(name, query.get(name));
  location.assign(url);
};

async function listBoards() {
  const answer = await fetch("/api/boards").then((response) => response.json()).catch(() => ({ boards: [] }));
  $("boards-label").hidden = answer.boards.length < 2;
  $("boards").replaceChildren(...answer.boards.map((b) => Object.assign(el("option", "", b.title), { value: b.board })));
  $("boards").value = boardName;
}

function stored() {
  try { return localStorage.getItem("theme"); } catch { return null; }
}

async function stayAwake() {
  if (document.visibilityState !== "visible" || !navigator.wakeLock) return;
  try { await navigator.wakeLock.request("screen"); } catch { /* only a convenience */ }
}

if (isKiosk) {
  document.body.classList.add("kiosk");
  document.addEventListener("visibilitychange", stayAwake);
  stayAwake();
}
setTheme(query.get("theme") ?? stored() ?? "dark");
if (query.get("view") === "table") setView(true);
new ResizeObserver(() => draw(new Set(), true)).observe($("tiles"));
listBoards();
setInterval(refreshAges, 1000);
setInterval(() => turnPage(1), PAGE_MS);
connect();
