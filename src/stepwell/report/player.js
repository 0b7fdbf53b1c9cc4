// The animation of paths over contours: a slider and a button below the figure that show the first k points of every
// path. `player(place)` returns a function that puts the figure back to where the reader left it, after a redraw.
const player = (place) => {
  const bar = place.parentElement.querySelector(".player");
  const [button, slider, said] = bar.querySelectorAll("button, input, output");
  const whole = place.data.map(({ x, y, text, mode }, index) => ({ x, y, text, index, path: mode === "lines+markers" }));
  const paths = whole.filter(({ path }) => path);
  const longest = Math.max(0, ...paths.map(({ x }) => x.length));
  if (longest < 2) return () => {};
  const SECONDS = 6; // for the whole path, however many points it has
  slider.max = longest - 1;
  slider.value = longest - 1;
  bar.hidden = false;

  const show = () => {
    const last = Number(slider.value);
    const first = (values) => values && values.slice(0, last + 1);
    Plotly.restyle(
      place,
      { x: paths.map(({ x }) => first(x)), y: paths.map(({ y }) => first(y)), text: paths.map(({ text }) => first(text)) },
      paths.map(({ index }) => index),
    );
    const longer = paths.find(({ x, text }) => x.length > last && text);
    said.textContent = longer ? longer.text[last] : "";
  };
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };
  const next = () => {
    slider.value = Number(slider.value) + 1;
    show();
    if (Number(slider.value) >= longest - 1) stop();
  };
  button.onclick = () => {
    if (timer !== null) return stop();
    if (Number(slider.value) >= longest - 1) slider.value = 0;
    show();
    button.textContent = "Pause";
    timer = setInterval(next, (1000 * SECONDS) / longest);
  };
  slider.oninput = () => {
    stop();
    show();
  };
  show();
  return show;
};
