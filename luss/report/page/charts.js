"use strict";
// Small line charts: one figure a series, its values read off with the pointer or the arrow keys.

function lineChart(title, steps, values, unit) {
  const points = steps.map((step, place) => [step, values[place]]).filter(([, value]) => value !== null);
  if (!points.length) return null;
  const numbers = points.map(([, value]) => value);
  const range = {left: points[0][0], right: points.at(-1)[0], low: Math.min(...numbers), high: Math.max(...numbers)};
  const [x, y] = [scale(range.left, range.right, 0, 300), scale(range.low, range.high, 96, 4)];
  const drawing = svg("svg", {viewBox: "0 0 300 100", preserveAspectRatio: "none", "aria-hidden": "true"});
  for (const height of [4, 50, 96]) drawing.append(svg("line", {x1: 0, x2: 300, y1: height, y2: height, class: "grid"}));
  drawing.append(svg("polyline", {points: points.map(([step, value]) => `${x(step)},${y(value)}`).join(" "), class: "curve"}));
  const cursor = svg("line", {y1: 0, y2: 100, class: "cursor", visibility: "hidden"});
  drawing.append(cursor);
  const reading = make("span", {class: "reading"}, figure(numbers.at(-1)));
  const plot = make("div", {
    class: "plot", tabindex: "0", role: "img",
    "aria-label": `${title}: from ${figure(numbers[0])} to ${figure(numbers.at(-1))} over ${count(range.right)} ${unit}s, `
      + `lowest ${figure(range.low)}, highest ${figure(range.high)}`,
  }, make("span", {class: "high"}, short(range.high)), drawing, make("span", {class: "low"}, short(range.low)));
  readable(plot, cursor, reading, points, x, unit);
  return make("figure", {class: "chart"}, make("figcaption", {}, make("span", {}, title), reading), plot,
    make("div", {class: "ends small soft"}, make("span", {}, `${unit} ${count(range.left)}`), make("span", {}, count(range.right))));
}

// For an axis: two digits where more would not fit.
function short(value) {
  const text = figure(value);
  return text.length > 6 ? String(Number(value.toPrecision(2))) : text;
}

function scale(from, to, low, high) {
  const span = to - from || 1;
  return (value) => low + (high - low) * (to === from ? 0.5 : (value - from) / span);
}

function readable(plot, cursor, reading, points, x, unit) {
  let at = points.length - 1;
  function show(place) {
    at = Math.min(Math.max(place, 0), points.length - 1);
    const [step, value] = points[at];
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    cursor.setAttribute("visibility", "visible");
    reading.textContent = `${unit} ${count(step)}: ${figure(value)}`;
  }
  function leave() {
    cursor.setAttribute("visibility", "hidden");
    reading.textContent = figure(points.at(-1)[1]);
  }
  plot.addEventListener("pointermove", (event) => {
    const box = plot.querySelector("svg").getBoundingClientRect();
    show(Math.round((event.clientX - box.left) / box.width * (points.length - 1)));
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!move) return;
    event.preventDefault();
    show(at + move);
  });
}

// How many positions have each attention; returns the drawing and a function that moves its marker.
function histogramChart(counts, stored) {
  const drawing = svg("svg", {viewBox: "0 0 256 60", preserveAspectRatio: "none", "aria-hidden": "true", class: "histogram"});
  // A data set's border pixels pile up at 0: the root keeps the rest visible.
  const highest = Math.sqrt(Math.max(...counts));
  const outline = counts.map((number, level) => `${level},${60 - 58 * Math.sqrt(number) / highest}`).join(" ");
  drawing.append(svg("polygon", {points: `0,60 ${outline} 255,60`, class: "area"}));
  drawing.append(svg("line", {x1: 255 * stored, x2: 255 * stored, y1: 0, y2: 60, class: "stored"}));
  const marker = svg("line", {y1: 0, y2: 60, class: "cursor"});
  drawing.append(marker);
  const move = (value) => ["x1", "x2"].forEach((name) => marker.setAttribute(name, 255 * value));
  return {drawing, move};
}
