/* Draws the page's charts from the JSON beside them, in the colours of the page. Without it the tables stay open. */
(() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const isBlack = (value) => typeof value === "string" && /^(black|#000|#000000)$/i.test(value);

  function inked(trace, ink) {
    for (const part of [trace.line, trace.marker]) {
      if (part && isBlack(part.color)) part.color = ink;
    }
    return trace;
  }

  function themed(layout) {
    const ink = colour("--ink");
    const grid = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
    const own = {
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: ink },
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--line"), font: { color: ink } },
      legend: { ...layout.legend, orientation: "h", x: 0, xanchor: "left", y: 0, yanchor: "bottom", yref: "container" },
      margin: { l: 8, r: 8, t: 12, b: 8 },
      title: {
        text: layout.title?.text ?? layout.title ?? "", font: { size: 15 }, automargin: true,
        x: 0, xref: "container", xanchor: "left", y: 1, yref: "container", yanchor: "top", pad: { t: 4, b: 8 },
      },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    };
    for (const key of new Set(["xaxis", "yaxis", ...Object.keys(layout)])) {
      if (/^[xy]axis\d*$/.test(key)) own[key] = { ...layout[key], ...grid, automargin: true };
    }
    own.colorway = layout.colorway ||
      ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", ink];
    return { ...layout, ...own };
  }

  async function draw(figure) {
    const box = figure.querySelector(".chart");
    const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
    const ink = colour("--ink");
    box.hidden = false;
    await Plotly.react(box, data.map((trace) => inked(trace, ink)), themed(layout), {
      displayModeBar: false, displaylogo: false, responsive: true, showTips: false, scrollZoom: false,
    });
  }

  async function show(figure) {
    try {
      await draw(figure);
      figure.querySelector("details").open = false;
    } catch {
      figure.querySelector(".chart").hidden = true;
    }
  }

  const figures = [...document.querySelectorAll("figure")].filter((figure) => figure.querySelector(".chart"));
  figures.forEach(show);
  dark.addEventListener("change", () => figures.forEach(draw));
})();
