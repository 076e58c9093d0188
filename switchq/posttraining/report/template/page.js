"use strict";
(() => {
  const page = JSON.parse(document.getElementById("report-data").textContent);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const charts = [...document.querySelectorAll(".chart")];
  const drawn = new Map();
  let chosen = null; // what the button says; null follows the system
  let turn = 0; // a newer drawing makes an older one stop

  const theme = () => chosen ?? (system.matches ? "dark" : "light");

  // A specification with the colours of the dark theme; rows of data stay as they are.
  function recolour(value, key) {
    if (typeof value === "string") return Object.hasOwn(page.dark, value) ? page.dark[value] : value;
    if (Array.isArray(value)) return value.map((one) => recolour(one));
    if (value === null || typeof value !== "object") return value;
    if (key === "data" || key === "datasets") return value;
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, recolour(one, name)]));
  }

  // How many entries a legend has room for in a row, and how long a label may be.
  const room = (width) => ({ columns: Math.max(2, Math.floor(width / 76)), labels: Math.max(72, Math.min(170, width / 4)) });

  // Where there is no room for two legends side by side, one goes below the other, and its title on top of it.
  const stacked = { titleOrient: "top", titlePadding: 3, layout: { top: { direction: "vertical", margin: 6 } } };

  function config(width) {
    const base = page.themes[theme()];
    const { columns, labels } = room(width);
    return {
      ...base,
      background: getComputedStyle(document.querySelector("figure")).backgroundColor,
      legend: { ...base.legend, columns, ...(width < 520 ? stacked : {}) },
      axisX: { labelBound: true },
      axisY: { labelLimit: labels },
    };
  }

  async function draw(chart) {
    const name = chart.dataset.figure;
    const spec = structuredClone(page.figures[name]);
    const live = chart.querySelector(".live");
    chart.classList.add("drawn");
    drawn.get(name)?.finalize();
    drawn.set(name, await window.vegaEmbed(live, theme() === "dark" ? recolour(spec) : spec, {
      mode: "vega-lite",
      renderer: "svg",
      config: config(chart.clientWidth),
      actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
      scaleFactor: { png: 2 },
      downloadFileName: name,
      tooltip: { theme: theme() },
    }));
  }

  async function drawAll() {
    const mine = ++turn;
    const wanted = theme();
    button.textContent = wanted === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${wanted === "dark" ? "light" : "dark"} theme`);
    delete document.documentElement.dataset.drawn;
    for (const chart of charts) {
      if (mine !== turn) return;
      try {
        await draw(chart);
      } catch (error) {
        chart.classList.remove("drawn"); // the still picture remains
        console.error(chart.dataset.figure, error);
      }
    }
    if (mine === turn) document.documentElement.dataset.drawn = wanted;
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    drawAll();
  });
  system.addEventListener("change", () => chosen === null && drawAll());

  let narrow = room(document.documentElement.clientWidth).columns;
  addEventListener("resize", () => {
    const now = room(document.documentElement.clientWidth).columns;
    if (now !== narrow) {
      narrow = now;
      drawAll();
    }
  });

  // Tables: a heading sorts by its column, and the other way at the next click. Empty cells come last both ways.
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        const numeric = head.classList.contains("number");
        const body = table.tBodies[0];
        const keyed = [...body.rows].map((row) => {
          const text = row.cells[column].dataset.value;
          return { row, empty: text === "", key: numeric ? Number(text) : text };
        });
        const order = numeric ? (a, b) => a - b : new Intl.Collator("en", { numeric: true }).compare;
        keyed.sort((a, b) => a.empty - b.empty || (a.empty ? 0 : down ? order(b.key, a.key) : order(a.key, b.key)));
        body.append(...keyed.map((one) => one.row));
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      });
    });
  }

  drawAll();
})();
