// Writes below the figure of the lens what pointing at a cell, or tapping it, shows. The server has escaped it.
new MutationObserver(() => {
  const plot = document.querySelector("#lens-figure .js-plotly-plot:not([data-told])");
  if (!plot || !plot.on) return;
  plot.dataset.told = "yes";
  const tell = (event) => {
    const place = document.querySelector("#lens-cell");
    if (place) place.innerHTML = event.points[0].customdata;
  };
  plot.on("plotly_hover", tell);
  plot.on("plotly_click", tell);
}).observe(document.documentElement, { childList: true, subtree: true });
