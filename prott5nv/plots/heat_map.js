"use strict";
const residues = figure.data[0].x, PIXELS_PER_RESIDUE = 14.5;

function arrange() {
  const layout = {...figure.layout, coloraxis: colourAxis()};
  if (phone.matches) layout.margin = {...layout.margin, r: 10, t: 90};
  return draw(layout).then(() => showFrom(0));
}

// Number of residues that have room for a label each.
function visible() {
  return Math.max(10, Math.floor((plot.clientWidth - (phone.matches ? 60 : 150)) / PIXELS_PER_RESIDUE));
}

function showFrom(first) {
  const start = Math.max(0, Math.min(first, residues.length - visible()));
  return Plotly.relayout(plot, {"xaxis.range": [start - .5, Math.min(start + visible(), residues.length) - .5]});
}

// Accepts 45, V45 and V45A.
function goTo() {
  const wanted = search.value.trim().match(/^[A-Za-z]?(\d+)[A-Za-z]?$/);
  const index = wanted ? wanted[1] - 1 : -1, found = index >= 0 && index < residues.length;
  message.textContent = search.value && !found ? `Write a position from 1 to ${residues.length}.` : "";
  const frame = {type: "rect", xref: "x", yref: "paper", x0: index - .5, x1: index + .5, y0: 0, y1: 1,
                 fillcolor: "rgba(0, 0, 0, 0)", line: {width: 2}};
  const moved = found ? showFrom(index - Math.floor(visible() / 2)) : Promise.resolve();
  return moved.then(() => Plotly.relayout(plot, {shapes: found ? [frame] : []}));
}

window.ready = arrange();
phone.addEventListener("change", arrange);
search.addEventListener("input", goTo);
