"use strict";
// What the scatter and the heat map page share.
const plot = document.getElementById("plot"), search = document.getElementById("search");
const message = document.getElementById("message");
const figure = JSON.parse(document.getElementById("figure").textContent);
const phone = matchMedia("(max-width: 600px)");

function draw(layout) {
  return Plotly.newPlot(plot, figure.data, layout, {
    responsive: true, scrollZoom: true, displaylogo: false, doubleClick: "reset",
    // These buttons only: some of Plotly's others would send the data to a server.
    modeBarButtons: [["toImage", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  });
}

// The colour axis, with its bar beside the plot, or above it on a phone.
function colourAxis() {
  const {colorbar, ...axis} = figure.layout.coloraxis, title = colorbar.title.text;
  return {...axis, colorbar: phone.matches
    ? {orientation: "h", x: .5, y: 1, yanchor: "bottom", thickness: 10, title: {text: title, side: "top"}}
    : {title: {text: title, side: "right"}}};
}
