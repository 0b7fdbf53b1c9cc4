// Draws every figure with the colors of the reader's theme, and again when the theme changes.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const figures = [...document.querySelectorAll('script[type="application/json"][data-for]')].map((script) => ({
    place: document.getElementById(script.dataset.for),
    data: script.textContent,
  }));

  // "var(--series-1)" -> the color that the page's style gives it now, anywhere inside a figure
  const colored = (value, style) => {
    if (typeof value === "string" && value.startsWith("var(")) return style.getPropertyValue(value.slice(4, -1)).trim();
    if (Array.isArray(value)) return value.map((item) => colored(item, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, colored(item, style)]));
    return value;
  };

  const common = (narrow) => ({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif', size: 13, color: "var(--soft)" },
    margin: { l: narrow ? 52 : 62, r: 12, t: 34, b: 46 },
    hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--rule)", font: { color: "var(--ink)" } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--rule)", activecolor: "var(--muted)" },
    dragmode: narrow ? false : "zoom",
  });
  const axis = {
    gridcolor: "var(--grid)",
    linecolor: "var(--rule)",
    zeroline: false,
    ticks: "outside",
    ticklen: 4,
    tickcolor: "var(--rule)",
    automargin: true,
  };

  const draw = (figure) => {
    const { place, data } = figure;
    const style = getComputedStyle(document.documentElement);
    const narrow = place.clientWidth < 480;
    const { data: traces, layout } = JSON.parse(data);
    const whole = { ...common(narrow), ...layout, width: place.clientWidth, height: place.clientHeight };
    for (const name of ["xaxis", "yaxis"]) {
      const title = { standoff: 8, font: { size: 13, color: "var(--muted)" }, ...layout[name].title };
      whole[name] = { ...axis, ...layout[name], title };
      if (name === "yaxis") whole[name].exponentformat = "e"; // 8e-4, where plotly writes 800µ
      // the names of a heat map's rows would take the width of a phone; they are shown under the pointer
      if (narrow && layout[name].type === "category") whole[name].showticklabels = false;
    }
    Plotly.react(place, colored(traces, style), colored(whole, style), {
      displaylogo: false,
      displayModeBar: narrow ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"], // nothing leaves the page
      modeBarButtonsToAdd: traces.some(({ type }) => type === "contour" || type === "heatmap") ? [] : [logarithmic],
    });
    if (figure.show) figure.show();
    else if (place.parentElement.querySelector(".player")) figure.show = player(place);
  };
  const logarithmic = {
    name: "logarithmic",
    title: "Logarithmic or linear y axis",
    icon: { width: 24, height: 24, path: "M3 3v18h18v-2H5V3zm4 13c2 0 3-9 6-9h6v2h-5c-2 0-3 9-7 9z" },
    click: (place) => {
      const type = place.layout.yaxis.type === "log" ? "linear" : "log";
      Plotly.relayout(place, { "yaxis.type": type, "yaxis.autorange": true, "yaxis.tickvals": null, "yaxis.ticktext": null });
    },
  };

  // A figure is drawn when the reader comes near it, and again when its width changes; a page of many opens as fast as
  // a page of one.
  const drawIfNeeded = (figure) => {
    const width = figure.place.clientWidth;
    if (!figure.near || !width || width === figure.width) return;
    figure.width = width;
    draw(figure);
  };
  const of = (target) => figures.find(({ place }) => place === target);
  const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => drawIfNeeded(of(target))));
  const near = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        const figure = of(target);
        figure.near = true;
        drawIfNeeded(figure);
        near.unobserve(target);
      }
    },
    { rootMargin: "800px" },
  );
  const all = () => {
    for (const figure of figures) {
      figure.near = true;
      drawIfNeeded(figure);
    }
  };
  for (const { place } of figures) {
    sizes.observe(place);
    near.observe(place);
  }
  window.addEventListener("beforeprint", all);
  dark.addEventListener("change", () => figures.filter(({ width }) => width).forEach(draw));
})();
