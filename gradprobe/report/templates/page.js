"use strict";

const create = (name, properties) => Object.assign(document.createElement(name), properties);

// Tables: a click on a heading sorts by that column, the filter above keeps the rows that contain its text.

function keyOf(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value;
  return value === undefined ? [1, cell.textContent.toLowerCase()] : [0, Number(value)];
}

function sortBy(table, heading, column) {
  const direction = heading.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [keyOf(row, column), row]);
  // Cells without a number stay below the numbers in both directions.
  keyed.sort(([a], [b]) => a[0] - b[0] || sign * (a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0));
  body.append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    if (!heading.textContent) return;
    const button = create("button", { type: "button", textContent: heading.textContent, title: "Sort" });
    button.addEventListener("click", () => sortBy(table, heading, column));
    heading.replaceChildren(button);
  });
}

function makeFiltered(table) {
  const rows = Array.from(table.tBodies[0].rows);
  if (rows.length < 6) return;
  const scroll = table.closest(".scroll");
  const input = create("input", { type: "search", placeholder: "Filter", ariaLabel: `Filter: ${scroll.ariaLabel}` });
  const count = create("output", {});
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = wanted ? `${shown} of ${rows.length} rows` : "";
  });
  const tools = create("div", { className: "tools" });
  tools.append(input, count);
  scroll.before(tools);
}

for (const table of document.querySelectorAll("table:not(.source)")) {
  makeSortable(table);
  makeFiltered(table);
}

// Light and dark theme: the system's until the button is used.

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
const toggle = create("button", { type: "button", className: "theme", textContent: "Light or dark" });
toggle.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  drawAll();
});
dark.addEventListener("change", drawAll);
document.querySelector("header").prepend(toggle);

// Charts: those in a closed <details> are drawn when it is opened.

function coloursOf() {
  const of = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const [ink, quiet, line] = [of("--ink"), of("--quiet"), of("--line")];
  return {
    background: null,
    font: "system-ui, sans-serif",
    axis: { labelColor: ink, titleColor: quiet, gridColor: line, domainColor: line, tickColor: line },
    legend: { labelColor: ink, titleColor: quiet },
  };
}

async function draw(figure) {
  if (figure.closest("details:not([open])")) return;
  const specification = JSON.parse(figure.querySelector("script").textContent);
  const { config } = specification;
  const target = figure.querySelector(".drawing");
  const { view } = await vegaEmbed(target, specification, {
    ast: true,
    renderer: "svg",
    config: { ...coloursOf(), ...config },
    actions: { export: true, source: false, compiled: false, editor: false },
  });
  figure.dataset.drawn = isDark() ? "dark" : "light";
  figure.view = view;
  if (specification.params?.some((param) => param.bind === "scales")) addZoom(figure);
}

function addZoom(figure) {
  figure.querySelector(".tools")?.remove();
  const [from, to] = figure.view.scale("x").domain();
  const zoom = (factor, move) => {
    const [low, high] = figure.view.scale("x").domain();
    const centre = (low + high) / 2 + move * (high - low);
    const half = Math.min(((high - low) * factor) / 2, (to - from) / 2);
    const middle = Math.min(Math.max(centre, from + half), to - half);
    figure.view.signal("zoom_start", [middle - half, middle + half]).runAsync();
  };
  const tools = create("div", { className: "tools" });
  for (const [textContent, ariaLabel, factor, move] of [
    ["+", "Zoom in", 0.5, 0],
    ["\u2212", "Zoom out", 2, 0],
    ["\u2190", "Earlier", 1, -0.5],
    ["\u2192", "Later", 1, 0.5],
    ["All", "The whole time", Infinity, 0],
  ]) {
    const button = create("button", { type: "button", textContent, ariaLabel, title: ariaLabel });
    button.addEventListener("click", () => zoom(Number.isFinite(factor) ? factor : 1e9, move));
    tools.append(button);
  }
  figure.querySelector(".drawing").before(tools);
}

function drawAll() {
  if (typeof vegaEmbed === "undefined") return;
  for (const figure of document.querySelectorAll("figure.chart")) draw(figure);
}

for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", drawAll);
drawAll();

// A link to a line of source opens the file that it is in.

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let outer = target.closest("details"); outer; outer = outer.parentElement.closest("details")) outer.open = true;
  target.scrollIntoView({ block: "center" });
}

window.addEventListener("hashchange", openTarget);
document.addEventListener("click", (event) => {
  // A second click on a link does not change the address, but the reader may have closed the file.
  if (event.target.closest("a[href^='#']")?.hash === location.hash) openTarget();
});
openTarget();
