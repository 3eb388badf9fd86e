"use strict";
const [cells, mean] = data.data, residues = cells.x, acids = cells.y, PIXELS_PER_RESIDUE = 14.5, LISTED = 10;
// Plotly stores large arrays as base64; its own copy of the figure holds the numbers.
let scores, means;

function arrange() {
  const layout = {...data.layout, coloraxis: colourAxis(data.layout)};
  if (phone.matches) layout.margin = {...layout.margin, r: 10, t: 90};
  return draw(data, layout).then(() => {
    [scores, means] = [plot._fullData[0].z, plot._fullData[1].z.at(-1)];
    list();
    return showFrom(0);
  });
}

// Number of residues that have room for a label each.
function visible() {
  return Math.max(10, Math.floor((plot.clientWidth - (phone.matches ? 60 : 150)) / PIXELS_PER_RESIDUE));
}

function showFrom(first) {
  const start = Math.max(0, Math.min(first, residues.length - visible()));
  return Plotly.relayout(plot, {"xaxis.range": [start - .5, Math.min(start + visible(), residues.length) - .5]});
}

const rounded = score => score.toFixed(2).replace("-0.00", "0.00");

// Accepts 45, V45 and V45A.
function goTo() {
  const wanted = search.value.trim().match(/^([A-Za-z]?)(\d+)([A-Za-z]?)$/);
  const index = wanted ? wanted[2] - 1 : -1, found = index >= 0 && index < residues.length;
  const acid = wanted ? wanted[3].toUpperCase() : "", score = found ? scores[acids.indexOf(acid)]?.[index] : NaN;
  const isOther = found && wanted[1] && wanted[1].toUpperCase() !== residues[index][0];
  message.textContent = search.value && !found ? `Write a position from 1 to ${residues.length}.`
    : (isOther ? `Position ${index + 1} is ${residues[index][0]}, not ${wanted[1].toUpperCase()}. ` : "")
    + (isFinite(score) ? `${residues[index]}${acid}: ${rounded(score)}, ` : "")
    + (found && isFinite(means[index]) ? `${residues[index]}: mean ${rounded(means[index])}` : "");
  const frame = {type: "rect", xref: "x", yref: "paper", x0: index - .5, x1: index + .5, y0: 0, y1: 1,
                 fillcolor: "rgba(0, 0, 0, 0)", line: {width: 2}};
  const moved = found ? showFrom(index - Math.floor(visible() / 2)) : Promise.resolve();
  return moved.then(() => Plotly.relayout(plot, {shapes: found ? [frame] : []}));
}

function list() {
  const ranked = [];
  scores.forEach((row, acid) => row.forEach((score, i) => {
    if (isFinite(score) && residues[i][0] !== acids[acid]) ranked.push([residues[i] + acids[acid], score]);
  }));
  ranked.sort((a, b) => a[1] - b[1]);
  const positions = residues.map((residue, i) => [residue, means[i]]).filter(row => isFinite(row[1]))
                            .sort((a, b) => a[1] - b[1]);
  const shown = rows => rows.slice(0, LISTED).map(([name, score]) => [name, rounded(score)]);
  below.replaceChildren(
    table("Most harmful substitutions", ["substitution", "score"], shown(ranked)),
    table("Most tolerated substitutions", ["substitution", "score"], shown(ranked.toReversed())),
    table("Most sensitive positions", ["position", "mean score"], shown(positions)),
    table("Most tolerant positions", ["position", "mean score"], shown(positions.toReversed())));
}

// The columns of `score --table`, and the mean.
saveAs(data.layout.meta.protein, () => {
  const {protein, original_id, model} = data.layout.meta, cell = score => isFinite(score) ? score.toPrecision(6) : "";
  return [["protein", "original_id", "position", "wild_type", ...acids, "mean", "model"], ...residues.map((residue, i) =>
    [protein, original_id, i + 1, residue[0], ...scores.map(row => cell(row[i])), cell(means[i]), model])];
});
window.ready = arrange();
phone.addEventListener("change", arrange);
scrollPageWhen(() => true);  // The strip below moves the plot.
onSearch(goTo);
