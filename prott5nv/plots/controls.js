"use strict";
// What all pages share.
const plot = document.getElementById("plot"), search = document.getElementById("search");
const message = document.getElementById("message"), below = document.getElementById("below");
const data = JSON.parse(document.getElementById("data").textContent);
const phone = matchMedia("(max-width: 600px)");

// Create an element with text, or with other elements, in it.
function element(name, ...content) {
  const created = document.createElement(name);
  created.append(...content);
  return created;
}

function table(title, columns, rows) {
  const line = (kind, cells) => element("tr", ...cells.map(cell => element(kind, cell)));
  return element("div", element("h2", title), element("table", line("th", columns), ...rows.map(row => line("td", row))));
}

// Let the button in the header save what `rows` returns: the lines of a table, each a list of cells.
function saveAs(name, rows) {
  const quoted = cell => /[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell;
  document.getElementById("save").addEventListener("click", () => {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([rows().map(row => row.map(quoted).join(",") + "\n").join("")],
                                             {type: "text/csv"}));
    link.download = `${fileName(name)}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
}

// Call a function when nothing has been typed for a moment, so that a large page stays fluent.
function onSearch(find) {
  let timer;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 150); });
}

// Plotly renders names as HTML.
const escaped = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
                            .replaceAll("$", "&#36;");

// A picture of the plot as it is seen, with the heading and the model of the page.
function download() {
  const title = document.querySelector("h1").textContent;
  const layout = {...plot.layout, title: {text: `${escaped(title)}<br><sub>Model: ${escaped(data.layout.meta.model)}</sub>`, x: .02},
                  margin: {...plot.layout.margin, t: 60 + (plot.layout.margin.t ?? 0)}};
  Plotly.downloadImage({data: plot.data, layout}, {format: "png", scale: 2, width: plot.clientWidth, filename: fileName(title),
                                                   height: plot.clientHeight + 60});
}

const fileName = text => text.replace(/[^A-Za-z0-9._-]+/g, "_");

function draw(figure, layout) {
  const picture = {name: "picture", title: "Save as a picture", icon: Plotly.Icons.camera, click: download};
  return Plotly.newPlot(plot, figure.data, layout, {
    responsive: true, scrollZoom: true, displaylogo: false, doubleClick: "reset",
    // These buttons only: some of Plotly's others would send the data to a server.
    modeBarButtons: [[picture, "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  });
}

// Let a swipe over the plot scroll the page instead of moving what the plot shows, on a touch screen and under a condition.
function scrollPageWhen(condition) {
  plot.addEventListener("touchstart", event => {
    if (event.target.closest(".nsewdrag") && event.touches.length === 1 && condition()) event.stopPropagation();
  }, {capture: true, passive: true});
}

// The colour axis, with its bar beside the plot, or above it on a phone.
function colourAxis(layout) {
  const {colorbar, ...axis} = layout.coloraxis, title = colorbar.title.text;
  return {...axis, colorbar: {...colorbar, ...phone.matches
    ? {orientation: "h", x: .5, y: 1, yanchor: "bottom", thickness: 10, title: {text: title, side: "top"}}
    : {title: {text: title, side: "right"}}}};
}
