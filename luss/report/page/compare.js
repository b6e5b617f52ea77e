"use strict";
// A comparison: its table, a dot a run, and small multiples of the curves. Labels come from outside: they are set as text, never as HTML.

const FIRST = ["loss", "feature_rank", "embedding_spread", "used_prototypes", "code_entropy", "prediction_entropy"];
const SERIES = {
  feature_rank: "directions that the embeddings span; below 2 is collapsed",
  embedding_spread: "0: all images are one point, 1: spread over the sphere",
  used_prototypes: "share that is some image's first choice; below 5 % is collapsed",
  code_entropy: "1: all prototypes are used equally often",
  prediction_entropy: "1: all prototypes are chosen equally often",
};
// Of these less is better, or neither.
const COSTS = ["pretrain_seconds", "seconds", "peak_memory_mb", "images_seen"];

function labelOf(row) {
  return Object.values(row.labels).join(" ") || comparison.name;
}

function showHead() {
  const {name, budget, made, luss, folder} = comparison;
  document.title = `${name} · luss comparison`;
  byId("title").textContent = name;
  byId("subtitle").textContent = budget;
  byId("footer").textContent = `Made ${made} by luss ${luss} from ${folder}. The page loads nothing from a network.`;
}

function showTable() {
  const {axes, columns, rows, notes} = comparison;
  const seeded = rows.some((row) => row.seeds > 1);
  const headings = [...(axes.length ? axes : [{title: "run"}]).map(({title}) => ({title})), ...(seeded ? [{title: "seeds", number: true}] : []),
    ...columns.map(({title}) => ({title, number: true}))];
  const best = Object.fromEntries(columns.filter(({key}) => !COSTS.includes(key) && rows.length > 1)
    .map(({key}) => [key, Math.max(...rows.filter((row) => row.values[key]).map((row) => row.values[key].mean))]));
  const cells = rows.map((row) => {
    const labels = axes.length ? axes.map(({key}) => row.labels[key]) : [comparison.name];
    if (row.used_labels) labels[0] += " *";
    return [...labels, ...(seeded ? [`${row.done} of ${row.seeds}`] : []), ...columns.map(({key}) => {
      const text = row.texts[key];
      return text && row.values[key].mean === best[key] ? make("b", {}, text) : text ?? null;
    })];
  });
  const spread = seeded ? "Mean ± standard deviation over seeds. " : "";
  const legend = make("dl", {class: "legend small soft"}, ...columns.flatMap(({title, what}) => [make("dt", {}, title), make("dd", {}, what)]));
  byId("table-body").replaceChildren(make("div", {}, ...notes.map(note)), table("Figures of every row", headings, cells),
    make("p", {class: "small soft"}, `${spread}The best of a column is marked; ${seeded ? "the spread says whether that is more than chance" : "without seeds nobody knows whether it is chance"}.`), legend);
}

function showSeeds() {
  const {columns, rows} = comparison;
  byId("seeds-body").replaceChildren(...columns.filter(({key}) => key !== "images_seen").map((column) => strip(column, rows)));
}

// The values of one figure, a line of dots a row, all on one scale.
function strip({key, title, digits}, rows) {
  const numbers = rows.flatMap((row) => row.cells.map((cell) => cell.values[key])).filter((value) => value !== undefined);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const x = scale(low, high, 2, 298);
  const lines = rows.flatMap((row) => {
    const own = row.cells.filter((cell) => cell.values[key] !== undefined);
    const drawing = svg("svg", {viewBox: "0 0 300 20", preserveAspectRatio: "none", role: "img",
      "aria-label": own.map((cell) => `${cell.name} ${cell.values[key].toFixed(digits)}`).join(", ") || "missing"});
    drawing.append(svg("line", {x1: 0, x2: 300, y1: 10, y2: 10, class: "grid"}));
    for (const cell of own) {
      const dot = svg("ellipse", {cx: x(cell.values[key]), cy: 10, rx: 3.5, ry: 4.5, class: "dot-mark"});
      const tip = svg("title", {});
      tip.textContent = `${cell.name}: ${cell.values[key].toFixed(digits)}`;
      dot.append(tip);
      drawing.append(dot);
    }
    if (row.values[key]) drawing.append(svg("line", {x1: x(row.values[key].mean), x2: x(row.values[key].mean), y1: 1, y2: 19, class: "mean"}));
    return [make("span", {class: "label"}, labelOf(row)), drawing];
  });
  return make("div", {class: "strip"}, make("h3", {}, title), ...lines,
    make("p", {class: "ends small soft"}, make("span", {}, low.toFixed(digits)), make("span", {}, high.toFixed(digits))));
}

function showCurves() {
  const {rows} = comparison;
  const names = [...new Set(rows.flatMap((row) => row.cells.flatMap((cell) => Object.keys(cell.curves?.series ?? {}))))];
  if (!names.length) {
    byId("curves-body").replaceChildren(note("No training log yet."));
    return;
  }
  const main = FIRST.filter((name) => names.includes(name));
  const rest = names.filter((name) => !FIRST.includes(name));
  byId("curves-body").replaceChildren(...main.map(multiples),
    rest.length ? make("details", {}, make("summary", {}, "Parts of the losses"), ...rest.map(multiples)) : "");
}

// One figure a row. Losses have scales of their own; what means the same for all is drawn on one.
function multiples(name) {
  const {rows} = comparison;
  const shared = name in SERIES;
  const found = rows.map((row) => row.cells.filter((cell) => cell.curves?.series[name]).map((cell) => ({
    name: cell.name, points: cell.curves.images.map((images, place) => [images, cell.curves.series[name][place]]).filter(([, value]) => value !== null),
  })).filter(({points}) => points.length));
  const values = found.flat().flatMap(({points}) => points.map(([, value]) => value));
  const range = shared ? [Math.min(...values), Math.max(...values)] : null;
  const figures = rows.map((row, place) => (found[place].length ? linesChart(labelOf(row), found[place], range) : null));
  return make("div", {}, make("h3", {}, words(name)), make("p", {class: "small soft"}, shared
    ? `${SERIES[name]}; one scale for all.` : "Each on a scale of its own: losses of different learners cannot be compared."),
  make("div", {class: "charts"}, ...figures));
}

// Lines of several runs over the images that they had seen, thin; their mean, where there are several, on top. The mean is what is read off.
function linesChart(title, lines, range) {
  const points = meanOf(lines);
  const numbers = lines.flatMap((line) => line.points.map(([, value]) => value));
  const [low, high] = range ?? [Math.min(...numbers), Math.max(...numbers)];
  const [left, right] = [points[0][0], Math.max(...lines.map((line) => line.points.at(-1)[0]))];
  const [x, y] = [scale(left, right, 0, 300), scale(low, high, 96, 4)];
  const path = (of) => of.map(([images, value]) => `${x(images)},${y(value)}`).join(" ");
  const drawing = svg("svg", {viewBox: "0 0 300 100", preserveAspectRatio: "none", "aria-hidden": "true"});
  for (const height of [4, 50, 96]) drawing.append(svg("line", {x1: 0, x2: 300, y1: height, y2: height, class: "grid"}));
  if (lines.length > 1) lines.forEach((line) => drawing.append(svg("polyline", {points: path(line.points), class: "curve seed"})));
  drawing.append(svg("polyline", {points: path(points), class: "curve"}));
  const cursor = svg("line", {y1: 0, y2: 100, class: "cursor", visibility: "hidden"});
  drawing.append(cursor);
  const reading = make("span", {class: "reading"}, figure(points.at(-1)[1]));
  const plot = make("div", {
    class: "plot", tabindex: "0", role: "img",
    "aria-label": `${title}: from ${figure(points[0][1])} to ${figure(points.at(-1)[1])} over ${count(right)} images, ${plural(lines.length, "run")}`,
  }, make("span", {class: "high"}, short(high)), drawing, make("span", {class: "low"}, short(low)));
  readable(plot, cursor, reading, points, x, "image");
  return make("figure", {class: "chart"}, make("figcaption", {}, make("span", {}, title), reading), plot,
    make("div", {class: "ends small soft"}, make("span", {}, `image ${count(left)}`), make("span", {}, count(right))));
}

function meanOf(lines) {
  const found = new Map();
  for (const [images, value] of lines.flatMap((line) => line.points)) found.set(images, [...(found.get(images) ?? []), value]);
  const whole = [...found].filter(([, values]) => values.length === lines.length);
  // Runs that logged at other steps have no mean: the first one speaks.
  const points = whole.length > 1 ? whole.map(([images, values]) => [images, values.reduce((a, b) => a + b) / values.length]) : lines[0].points;
  return points.sort(([one], [other]) => one - other);
}

function showRuns() {
  const cells = comparison.rows.flatMap((row) => row.cells.map((cell) => [
    cell.report ? make("a", {href: cell.report.split("/").map(encodeURIComponent).join("/")}, cell.name) : cell.name,
    make("span", {class: `state ${cell.state}`}, cell.state, cell.reason ? make("span", {class: "small soft"}, ` ${cell.reason}`) : ""),
    count(cell.epochs), duration(cell.values.pretrain_seconds), duration(cell.values.seconds)]));
  byId("runs-body").replaceChildren(
    table("Runs", [{title: "run"}, {title: "state", wide: true}, {title: "epochs", number: true}, {title: "pretraining", number: true}, {title: "all", number: true}], cells),
    make("p", {class: "small soft"}, "A name is a link where the run has a report: luss report makes one."));
}

for (const show of [showHead, showTable, showSeeds, showCurves, showRuns]) show();
