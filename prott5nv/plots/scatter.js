"use strict";
const traceNumbers = figure.data.map((_, number) => number);
// The figure holds names as HTML, because Plotly renders them as HTML.
const plain = text => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&#36;", "$")
                          .replaceAll("&amp;", "&");
const namesOfTraces = figure.data.map(trace => trace.customdata.map(columns => plain(columns[0])));
const lowered = namesOfTraces.map(names => names.map(name => name.toLowerCase()));

function arrange() {
  const layout = {...figure.layout};
  // On a phone, or beside a colour bar, there is no room for a legend at the right.
  if (phone.matches || layout.coloraxis) layout.legend = {...layout.legend, orientation: "h", x: 0, y: -.12};
  if (layout.coloraxis) layout.coloraxis = colourAxis();
  if (phone.matches) layout.margin = {...layout.margin, r: 10, t: layout.coloraxis ? 80 : 30};
  return draw(layout).then(find);
}

function find() {
  const wanted = search.value.trim().toLowerCase();
  if (!wanted) {
    message.textContent = "";
    return Plotly.restyle(plot, {selectedpoints: [null]}, traceNumbers);
  }
  const selected = lowered.map(names => names.flatMap((name, i) => name.includes(wanted) ? [i] : []));
  const matches = selected.flatMap((indices, trace) => indices.map(i => namesOfTraces[trace][i]));
  const listed = matches.slice(0, 3).join(", ") + (matches.length > 3 ? ", ..." : "");
  message.textContent = `${matches.length.toLocaleString("en")} found${listed && ": " + listed}`;
  return Plotly.restyle(plot, {selectedpoints: selected}, traceNumbers);
}

window.ready = arrange();
phone.addEventListener("change", arrange);
search.addEventListener("input", find);
