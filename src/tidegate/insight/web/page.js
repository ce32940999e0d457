"use strict";
// Draws the page's charts in the reader's colours, each when it comes near the window.
const tidegate = (() => {
  const palettes = {
    light: {
      trained: "#1f6fc0", control: "#9099a3", rnn: "#d9711c", path: "#23905a", ink: "#1d2329", gain: "#2a78c4",
      loss: "#d4553b", erased: "#8a5cc2", replaced: "#c98a00", grid: "#e6e9ed", paper: "rgba(0,0,0,0)", sheet: "#ffffff",
      sequential: [[0, "#ffffff"], [0.35, "#a9cbe8"], [0.7, "#3d84c4"], [1, "#0c3563"]],
      diverging: [[0, "#a63114"], [0.25, "#e8a08c"], [0.5, "#ffffff"], [0.75, "#8bb8e3"], [1, "#145a9e"]],
    },
    dark: {
      trained: "#5aa9f5", control: "#87919b", rnn: "#f09a50", path: "#52c48d", ink: "#e4e8ec", gain: "#5aa9f5",
      loss: "#f07f66", erased: "#b995ea", replaced: "#f2c14e", grid: "#313940", paper: "rgba(0,0,0,0)", sheet: "#1b2026",
      sequential: [[0, "#12161a"], [0.35, "#1d4a73"], [0.7, "#4a98dc"], [1, "#d9ecff"]],
      diverging: [[0, "#ffab94"], [0.25, "#b04a30"], [0.5, "#12161a"], [0.75, "#2a6eae"], [1, "#a5d2ff"]],
    },
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const fine = matchMedia("(pointer: fine)"); // a finger drags the page, a mouse may zoom into time
  const drawn = new Map(); // element -> chart

  // "@name" stands for a colour of the scheme.
  function coloured(value, palette) {
    if (typeof value === "string") return value[0] === "@" && palette[value.slice(1)] || value;
    if (Array.isArray(value)) return value.length && typeof value[0] === "object" ? value.map(v => coloured(v, palette)) : value;
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) =>
        [k, k === "x" || k === "y" || k === "bdata" || k === "customdata" ? v : coloured(v, palette)]));
    }
    return value;
  }

  function draw(element, chart) {
    drawn.set(element, chart);
    const palette = palettes[dark.matches ? "dark" : "light"];
    const layout = coloured(chart.layout, palette);
    const axis = { gridcolor: palette.grid, zerolinecolor: palette.grid, linecolor: palette.grid };
    for (const name of Object.keys(layout).filter(k => /^[xy]axis/.test(k))) layout[name] = { ...axis, ...layout[name] };
    for (const name of Object.keys(layout).filter(k => /^yaxis/.test(k))) layout[name].fixedrange = true;
    const narrow = element.clientWidth < 480;
    if (narrow) for (const name of Object.keys(layout).filter(k => /^xaxis/.test(k))) Object.assign(layout[name], { nticks: 4, tickangle: 0 });
    explain(element.parentElement.querySelector(".legend"), chart.legend, palette);
    const above = (layout.annotations || []).length ? 26 : 10;
    Object.assign(layout, {
      paper_bgcolor: palette.paper, plot_bgcolor: palette.paper, autosize: true,
      font: { family: "system-ui, sans-serif", size: narrow ? 11 : 12, color: palette.ink },
      margin: layout.margin || { l: 56, r: 12, t: above, b: 40 },
      hoverlabel: { font: { size: 12 } }, dragmode: layout.dragmode || (fine.matches && !layout.yaxis2 ? "zoom" : false),
    });
    const config = { responsive: true, displayModeBar: false, displaylogo: false, doubleClick: "reset" };
    return Plotly.react(element, coloured(chart.data, palette), layout, config);
  }

  // Names and colours above a plot, where they fit at any width.
  function explain(element, legend, palette) {
    if (!element) return;
    element.replaceChildren(...legend.map(({ name, colour, kind }) => {
      const item = document.createElement("span"), swatch = document.createElement("i");
      swatch.className = kind;
      swatch.style.color = coloured(colour, palette);
      item.append(swatch, name);
      return item;
    }));
  }

  // Text of a chart beside its plot: always as text, never as HTML.
  function describe(side, chart) {
    side.querySelector("h4").textContent = chart.title;
    side.querySelector(".facts").replaceChildren(...chart.facts.map(fact => {
      const item = document.createElement("li");
      item.textContent = fact;
      return item;
    }));
  }

  function show(side, chart) {
    describe(side, chart);
    return draw(side.querySelector(".plot"), chart);
  }

  const figures = JSON.parse(document.getElementById("charts").textContent);

  function choose(key, choice) {
    const element = document.getElementById(key), figure = figures[key];
    if (!figure.charts[choice]) return;
    element.dataset.chosen = choice;
    const select = element.querySelector("select");
    if (select) select.value = choice;
    element.querySelectorAll(".side").forEach((side, k) => show(side, figure.charts[choice][k]));
  }

  function start(element) {
    const key = element.id, figure = figures[key];
    if (!figure || element.dataset.drawn) return;
    element.dataset.drawn = "yes";
    choose(key, element.dataset.chosen);
    const select = element.querySelector("select");
    if (select) select.addEventListener("change", () => choose(key, select.value));
    const followers = Object.keys(figures).filter(k => figures[k].follows === key);
    if (!followers.length) return;
    element.querySelector(".plot").on("plotly_click", event => {
      const point = event.points.find(p => p.customdata !== undefined);
      if (point) for (const other of followers) { start(document.getElementById(other)); choose(other, String(point.customdata)); }
    });
  }

  const near = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); start(entry.target); }
  }, { rootMargin: "800px" });
  document.querySelectorAll("figure").forEach(figure => near.observe(figure));
  addEventListener("beforeprint", () => document.querySelectorAll("figure").forEach(start));
  dark.addEventListener("change", () => drawn.forEach((chart, element) => draw(element, chart)));
  return { show };
})();
