"use strict";
const SHOWN = 20, NAMESPACE = "http://www.w3.org/2000/svg";
const styles = Object.fromEntries(data.classes.map(style => [style.letter, style]));
const searched = data.proteins.map(p => `${p.protein}\n${p.original_id}\n${p.description}\n${p.sequence}`.toLowerCase());
let matches = data.proteins, shown = 0, wanted = "";
for (const protein of data.proteins) protein.runs = runs(protein);

function svg(name, attributes, text = "") {
  const created = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.textContent = text;
  return created;
}

// The shape of a run of residues of one class, from x to x + width.
function shape({shape: kind, colour}, x, width) {
  if (kind === "line") return svg("rect", {x, y: 30, width, height: 3, fill: colour});
  if (kind !== "strand") return svg("rect", {x, y: 23, width, height: 17, rx: kind === "helix" ? 7 : 0, fill: colour});
  const neck = x + width - Math.min(11, width);
  return svg("path", {d: `M${x} 26H${neck}V21L${x + width} 31.5L${neck} 42V37H${x}Z`, fill: colour});
}

// The residues of all places where the search text is in the sequence.
function foundIn(sequence) {
  const found = new Set(), text = sequence.toLowerCase();
  for (let at = text.indexOf(wanted); wanted.length > 1 && at >= 0; at = text.indexOf(wanted, at + 1))
    for (let i = at; i < at + wanted.length; i++) found.add(i);
  return found;
}

// The first residue, the end and the class of each run of residues of one class.
function runs({prediction}) {
  const found = [];
  for (let i = 0, first = 0; i < prediction.length; i++)
    if (prediction[i + 1] !== prediction[i]) {
      found.push([first, i + 1, prediction[i]]);
      first = i + 1;
    }
  return found;
}

// One line of residues: letters, shapes, bars of confidence, and the position of every tenth residue.
function line(protein, start, end, cell, found) {
  const drawn = svg("svg", {width: (end - start) * cell, height: 78, overflow: "visible", role: "img", "aria-label":
    `${protein.protein}, residues ${start + 1} to ${end}: ${protein.prediction.slice(start, end)}`});
  for (let i = start; i < end; i++) {
    const x = (i - start + .5) * cell, height = 2 * (Number(protein.confidence[i]) + 1);
    if (found.has(i)) drawn.append(svg("rect", {x: x - .5 * cell, y: 1, width: cell, height: 17, fill: "#ffd966"}));
    drawn.append(svg("text", {x, y: 14, "text-anchor": "middle", "font-family": "monospace", "font-size": cell},
                     protein.sequence[i]),
                 svg("rect", {x: x - .4 * cell, y: 64 - height, width: .8 * cell, height, fill: "#999"}));
    if ((i + 1) % 10 === 0)
      drawn.append(svg("text", {x, y: 76, "text-anchor": "middle", "font-size": 10, fill: "#555"}, i + 1));
  }
  // The edges of an inner element cut off a run that continues in the line before or after.
  const shapes = svg("svg", {width: (end - start) * cell, height: 64, overflow: "hidden"});
  for (const [first, last, letter] of protein.runs)
    if (first < end && last > start)
      shapes.append(shape(styles[letter], (first - start) * cell, (last - first) * cell));
  drawn.append(shapes);
  const read = event => {
    const i = start + Math.floor((event.clientX - drawn.getBoundingClientRect().left) / cell);
    if (i >= start && i < end)
      message.textContent = `${protein.protein} ${protein.sequence[i]}${i + 1}: ` +
        `${styles[protein.prediction[i]].name}, confidence ${confidence(protein.confidence[i])}`;
  };
  drawn.addEventListener("pointermove", read);
  drawn.addEventListener("pointerdown", read);
  return drawn;
}

const confidence = digit => digit === "9" ? "0.9 or more" : `0.${digit} to 0.${Number(digit) + 1}`;

function section(protein) {
  const length = protein.sequence.length, found = foundIn(protein.sequence), cell = phone.matches ? 11 : 13;
  const perLine = Math.max(10, Math.floor((document.documentElement.clientWidth - 40) / cell / 10) * 10);
  const fractions = data.classes.map(style =>
    [style.name, protein.prediction.split(style.letter).length - 1]).filter(([, count]) => count)
    .map(([name, count]) => `${name} ${Math.round(100 * count / length)}%`).join(", ");
  const other = protein.original_id === protein.protein ? "" : ` (${protein.original_id})`;
  const drawn = element("section", element("h2", protein.protein + other),
                        `${length.toLocaleString("en")} residues: ${fractions}`, element("br"));
  for (let start = 0; start < length; start += perLine)
    drawn.append(line(protein, start, Math.min(start + perLine, length), cell, found), element("br"));
  return drawn;
}

// Add the next proteins, because a page with all residues of a proteome would be slow.
function more() {
  plot.append(...matches.slice(shown, shown + SHOWN).map(section));
  shown = Math.min(shown + SHOWN, matches.length);
  const button = element("button", `Show more (${(matches.length - shown).toLocaleString("en")} left)`);
  button.addEventListener("click", more);
  below.replaceChildren(...shown < matches.length ? [button] : []);
}

function find() {
  wanted = search.value.trim().toLowerCase();
  matches = data.proteins.filter((_, i) => searched[i].includes(wanted));
  message.textContent = wanted && `${matches.length.toLocaleString("en")} found`;
  plot.replaceChildren(legend());
  shown = 0;
  more();
}

function legend() {
  const entries = data.classes.map(style => {
    const sample = svg("svg", {width: 34, height: 26, viewBox: "0 19 34 26"});
    sample.append(shape(style, 2, 30));
    return element("span", sample, style.name);
  });
  const drawn = element("div", ...entries);
  drawn.className = "legend";
  return drawn;
}

saveAs("predictions", () => [["protein", "original_id", "length", "prediction", "confidence", "model"],
  ...data.proteins.map(p => [p.protein, p.original_id, p.sequence.length, p.prediction, p.confidence, data.model])]);
document.body.classList.add("tracks");
window.ready = find();
phone.addEventListener("change", find);
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; find(); } });
onSearch(find);
