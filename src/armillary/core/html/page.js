"use strict";
// Draws the page's figures in its own colours and sorts its tables. Nothing here asks a host for anything.
(() => {
  const SURFACES = new Set(["heatmap", "contour", "histogram2d", "histogram2dcontour", "surface"]);
  const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"] };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const figures = [...document.querySelectorAll("figure.plot")];

  // The colours of the style sheet, as it shows them now or as it prints them.
  function palette(isPaper) {
    const probe = document.createElement("div");
    probe.className = isPaper ? "arm paper" : "arm";
    probe.hidden = true;
    document.body.append(probe);
    const style = getComputedStyle(probe);
    const found = (name) => style.getPropertyValue(`--${name}`).trim();
    const colours = { font: style.fontFamily, ink: found("ink"), dim: found("dim"), line: found("line"), surface: found("surface"), above: `rgb(${found("above")})`, below: `rgb(${found("below")})`, bg: found("bg"), cycle: [1, 2, 3, 4, 5, 6, 7, 8].map((i) => found(`c${i}`)) };
    probe.remove();
    return colours;
  }

  function template(colours) {
    const axis = { gridcolor: colours.line, linecolor: colours.line, zerolinecolor: colours.line, tickcolor: colours.line, automargin: true, title: { standoff: 10 } };
    const scene = { gridcolor: colours.line, linecolor: colours.line, zerolinecolor: colours.line, backgroundcolor: "rgba(0,0,0,0)" };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: colours.font, size: 13, color: colours.ink },
        colorway: colours.cycle,
        colorscale: { sequential: [[0, colours.bg], [1, colours.above]], sequentialminus: [[0, colours.below], [1, colours.bg]], diverging: [[0, colours.below], [0.5, colours.bg], [1, colours.above]] },
        xaxis: axis, yaxis: axis, scene: { xaxis: scene, yaxis: scene, zaxis: scene },
        hoverlabel: { bgcolor: colours.surface, bordercolor: colours.line, font: { family: colours.font, color: colours.ink } },
        legend: innerWidth < 700 ? { orientation: "h", y: -0.2 } : {},
        margin: { l: 56, r: 16, t: 24, b: 48 },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.dim, activecolor: colours.ink },
      },
    };
  }

  function draw(figure, colours, isPaper) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const canvas = figure.querySelector(".canvas");
    // 680 pixels fit a sheet of paper; on a screen the figure is as wide as its column.
    const size = isPaper ? { width: 680 } : { autosize: true };
    const layout = { ...spec.layout, ...size, template: template(colours) };
    if (!canvas.classList.contains("js-plotly-plot")) canvas.textContent = "";
    // Unless told otherwise plotly colours these red to blue; its choice by the signs of the data takes the page's colours.
    const data = spec.data.map((trace) => SURFACES.has(trace.type) && !trace.colorscale ? { autocolorscale: true, ...trace } : trace);
    return Plotly.react(canvas, data, layout, { ...CONFIG, ...spec.config });
  }

  async function drawAll(isPaper = false) {
    const colours = palette(isPaper);
    for (const figure of figures) {
      await draw(figure, colours, isPaper).catch((error) => { figure.querySelector(".canvas").textContent = `This figure cannot be drawn: ${error.message}`; });
    }
  }

  function key(cell) {
    const text = cell.dataset.value ?? cell.textContent;
    return { text, value: Number(text === "" ? NaN : text) };
  }

  // Missing values stay at the end whichever way the column is sorted.
  function compare(a, b, sign) {
    const [left, right] = [Number.isNaN(a.value), Number.isNaN(b.value)];
    if (!left && !right) return sign * (a.value - b.value);
    if (left !== right) return left ? 1 : -1;
    return sign * a.text.localeCompare(b.text, undefined, { numeric: true });
  }

  function sort(head) {
    const table = head.closest("table");
    const column = head.cellIndex;
    // Numbers are mostly read from the largest down.
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const now = head.getAttribute("aria-sort");
    const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row.cells[column]) }));
    rows.sort((a, b) => compare(a.key, b.key, sign));
    table.tBodies[0].append(...rows.map((entry) => entry.row));
  }

  for (const button of document.querySelectorAll("table.data th button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }
  if (figures.length) {
    drawAll();
    dark.addEventListener("change", () => drawAll());
    addEventListener("beforeprint", () => drawAll(true));
    addEventListener("afterprint", () => drawAll());
  }
})();
