"use strict";
const LONGEST = 60;  // characters of a cell in the hover text
const traces = data.data, traceNumbers = traces.map((_, number) => number), columns = data.layout.meta.columns;
// The figure holds names as HTML, because Plotly renders them as HTML.
const plain = text => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&#36;", "$")
                          .replaceAll("&amp;", "&");
const rows = traces.map(trace => trace.customdata.map(row => row.map(plain)));
const searched = rows.map(trace => trace.map(row => row.join("\n").toLowerCase()));
for (const [number, trace] of traces.entries())
  trace.customdata = rows[number].map(row => row.map(text =>
    escaped(text.length > LONGEST ? text.slice(0, LONGEST) + "..." : text)));

function arrange() {
  const layout = {...data.layout};
  if (layout.coloraxis) layout.coloraxis = colourAxis(layout);
  if (phone.matches) layout.margin = {...layout.margin, r: 10, t: layout.coloraxis ? 80 : 30};
  // On a phone, or beside a colour bar, there is no room for a legend at the right.
  const isBelow = layout.showlegend && (phone.matches || layout.coloraxis);
  if (isBelow)
    layout.legend = {...layout.legend, orientation: "h", x: .03, xref: "container", y: 0, yref: "container",
                     yanchor: "bottom", maxheight: 1e4, title: {...layout.legend.title, side: "top"}};
  plot.style.height = "";
  return draw(data, layout).then(() => isBelow && makeRoom(layout)).then(() => {
    plot.on("plotly_click", event => show(event.points[0]));
    const listed = [...below.children];  // by a click before the page was turned
    return find().then(() => below.replaceChildren(...listed));
  });
}

// Make the plot higher by its legend, which is below the axis and as high as all its entries.
function makeRoom({margin}) {
  const height = plot.querySelector(".legend").getBBox().height + 10;
  plot.style.height = `${plot.clientHeight + height}px`;
  return Plotly.relayout(plot, {"margin.b": margin.b + height, height: plot.clientHeight});
}

// List all columns of a protein below the plot.
function show({curveNumber, pointNumber}) {
  const [name, ...cells] = rows[curveNumber][pointNumber];
  const lines = cells.map((cell, i) => [columns[i + 1], cell]);
  below.replaceChildren(table(name, ["", ""], lines));
  if (phone.matches) below.scrollIntoView({block: "nearest"});
}

function find() {
  const wanted = search.value.trim().toLowerCase();
  below.replaceChildren();  // what it lists could be taken for what was found
  Plotly.Fx.hover(plot, []);
  if (!wanted) {
    message.textContent = "";
    return Plotly.restyle(plot, {selectedpoints: [null]}, traceNumbers);
  }
  const selected = searched.map(texts => texts.flatMap((text, i) => text.includes(wanted) ? [i] : []));
  const matches = selected.flatMap((indices, trace) => indices.map(i => rows[trace][i][0]));
  const listed = matches.slice(0, 3).join(", ") + (matches.length > 3 ? ", ..." : "");
  const hidden = selected.reduce((sum, indices, trace) =>
    sum + (plot._fullData[trace].visible === true ? 0 : indices.length), 0);
  message.textContent = `${matches.length.toLocaleString("en")} found${listed && ": " + listed}` +
    (hidden ? `; ${hidden.toLocaleString("en")} of them hidden: click on the label` : "");
  return Plotly.restyle(plot, {selectedpoints: selected}, traceNumbers);
}

// Column 1 holds the labels; an unknown one is an empty cell, so that programs read the others as numbers.
const saved = (text, column) => column === 1 && text === data.layout.meta.unknown ? "" : text;
saveAs(document.querySelector("h1").textContent, () => [
  [...columns, "x", "y", "model"],
  ...rows.flatMap((trace, number) => trace.map((row, i) =>
    [...row.map(saved), plot._fullData[number].x[i], plot._fullData[number].y[i], data.layout.meta.model]))]);
window.ready = arrange();
phone.addEventListener("change", arrange);
scrollPageWhen(() => plot._fullLayout.xaxis.autorange);  // When it is enlarged, a swipe moves the plot.
onSearch(find);
