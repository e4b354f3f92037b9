"use strict";

// On paper: what A4 leaves between its margins, and lower charts, so that pages fill.
const paper = { width: 670, lower: 0.7 };
const root = document.documentElement;
const { template, figures } = JSON.parse(document.getElementById("figures").textContent);
const config = {
  responsive: true,
  displayModeBar: "hover",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // none that sends data away
  displaylogo: false,
};

/** A value with every "var(--name)" in it replaced by what the stylesheet says now. */
function painted(value, styles = getComputedStyle(root)) {
  if (typeof value === "string") {
    const name = /^var\((--[\w-]+)\)$/.exec(value);
    return name ? styles.getPropertyValue(name[1]).trim() : value;
  }
  if (Array.isArray(value)) return value.map((item) => painted(item, styles));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, styles)]));
}

/** Draws every figure, for the screen or for paper; what is zoomed stays zoomed. */
function draw(printing = false) {
  root.classList.toggle("printing", printing);
  return Promise.all(figures.map(({ data, layout }, i) => {
    const height = layout.height ?? template.layout.height;
    const size = printing
      ? { autosize: false, width: paper.width, height: paper.lower * height }
      : { autosize: true, height };
    const whole = { ...layout, ...size, template, uirevision: true };
    return Plotly.react(`plot-${i + 1}`, painted(data), painted(whole), config);
  }));
}

/** Sorts the rows of a table by a column; a second time, the other way round. */
function sort(heading) {
  const table = heading.closest("table");
  const up = heading.getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[heading.cellIndex];
  const order = heading.classList.contains("n")
    ? (a, b) => (key(a).dataset.key ?? Infinity) - (key(b).dataset.key ?? Infinity)
    : (a, b) => key(a).textContent.localeCompare(key(b).textContent, "en", { numeric: true });
  const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? order(a, b) : order(b, a)));
  table.tBodies[0].append(...rows);
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.parentNode));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
addEventListener("beforeprint", () => draw(true));
addEventListener("afterprint", () => draw());
draw().then(() => root.setAttribute("data-drawn", figures.length));
