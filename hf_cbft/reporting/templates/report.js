"use strict";
// One cursor, a point and a set, for all charts: moved by the pointer or the keys, told in words below them.
const chart = JSON.parse(document.getElementById("chart").textContent);
const live = document.getElementById("live");
const plots = [...document.querySelectorAll(".plot")];
const cursor = { ...chart.at };
const last = chart.alphas.length - 1;

function show(active) {
  plots.forEach((plot, index) => {
    const panel = chart.panels[index];
    const figure = plot.closest("figure");
    const x = panel.x[cursor.point];
    const guide = plot.querySelector(".guide");
    guide.setAttribute("d", guide.getAttribute("d").replace(/^M[^ ]+/, "M" + x));
    for (const part of figure.querySelectorAll("[data-set]")) {
      const set = Number(part.dataset.set);
      part.classList.toggle("active", set === cursor.set);
      const value = part.querySelector(".now");
      if (value) value.textContent = panel.sets[set].text[cursor.point];
    }
    figure.querySelector(".now-alpha").textContent = chart.alphas[cursor.point];
    const ring = plot.querySelector(".ring");
    const y = panel.sets[cursor.set] ? panel.sets[cursor.set].y[cursor.point] : null;
    ring.setAttribute("cx", y === null ? -20 : x);
    ring.setAttribute("cy", y === null ? -20 : y);
  });
  const panel = chart.panels[active];
  const set = panel.sets[cursor.set];
  if (!set) return;
  const unit = panel.unit ? " " + panel.unit : "";
  const band = set.band[cursor.point] ? ", band " + set.band[cursor.point] : "";
  live.textContent =
    `alpha ${chart.alphas[cursor.point]}, ${set.name}: ${panel.title.toLowerCase()} ${set.text[cursor.point]}${unit}${band}`;
}

function nearest(distances) {
  return distances.reduce((best, distance, index) => (distance < distances[best] ? index : best), 0);
}

plots.forEach((plot, index) => {
  const panel = chart.panels[index];
  const moves = {
    ArrowLeft: () => { cursor.point = Math.max(0, cursor.point - 1); },
    ArrowRight: () => { cursor.point = Math.min(last, cursor.point + 1); },
    ArrowUp: () => { cursor.set = (cursor.set + panel.sets.length - 1) % panel.sets.length; },
    ArrowDown: () => { cursor.set = (cursor.set + 1) % panel.sets.length; },
    Home: () => { cursor.point = 0; },
    End: () => { cursor.point = last; },
  };
  plot.addEventListener("keydown", (event) => {
    const move = event.ctrlKey || event.metaKey || event.altKey ? null : moves[event.key];
    if (!move) return;
    event.preventDefault();
    move();
    show(index);
  });
  plot.addEventListener("focus", () => show(index));
  const point = (event) => {
    const svg = plot.querySelector("svg");
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    cursor.point = nearest(panel.x.map((x) => Math.abs(x - at.x)));
    cursor.set = nearest(panel.sets.map(({ y }) => (y[cursor.point] === null ? Infinity : Math.abs(y[cursor.point] - at.y))));
    show(index);
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
});

// Paper shows everything; afterwards the reader's own choice is back.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((part) => { part.open = true; });
});
addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));

show(0);
