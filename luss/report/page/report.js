"use strict";
// Everything on the page but the clusters.

const METRICS = {miou: "mIoU", boundary_miou: "boundary mIoU", image_accuracy: "image accuracy", f_measure: "F-measure"};
const SPEED = ["lr", "images_per_second", "data_wait"];
const HEALTH = {
  feature_rank: ["feature rank", "directions that the embeddings span; below 2 is collapsed"],
  used_prototypes: ["prototypes in use", "share that is some image's first choice; below 5 % is collapsed"],
  code_entropy: ["entropy of the codes", "1: all prototypes are used equally often"],
  prediction_entropy: ["entropy of the predictions", "1: all prototypes are chosen equally often"],
};

function showTitle() {
  const {run, clusters, threshold} = lussData;
  document.title = `${run.name} · luss report`;
  byId("title").textContent = run.name;
  const labels = threshold && (threshold.used_labels ? "threshold chosen with ground truth" : "fully unsupervised");
  const parts = [run.images !== null ? plural(run.images, "image") : null, `data: ${run.data}`,
    clusters ? plural(clusters.rows.length, "cluster") : null, labels];
  byId("subtitle").textContent = parts.filter(Boolean).join(" · ");
  byId("footer").textContent = `Made ${run.made} by luss ${run.luss} from ${run.folder}. The page holds small copies of your images; it loads nothing from a network.`;
}

function showProblems() {
  const unfinished = lussData.stages.filter((stage) => stage.state !== "done");
  const lines = [];
  if (unfinished.length) {
    const named = unfinished.map((stage) => `${stage.name} (${stage.state})`).join(", ");
    lines.push(`Not the whole pipeline is done with the present settings: ${named}. What there is, is shown.`);
  }
  lines.push(...lussData.problems.map((problem) => `Left out: ${problem}`));
  byId("problems").replaceChildren(...lines.map(note));
}

function showNumbers() {
  const own = lussData.metrics.find((row) => row.kind === "run");
  const floor = own && lussData.metrics.find((row) => row.label === "untrained backbone" && row.split === own.split);
  const tiles = own
    ? Object.entries(METRICS).map(([name, title]) =>
      number(title, own[name] === null ? "–" : own[name].toFixed(1), floor && floor[name] !== null ? `untrained ${floor[name].toFixed(1)}` : own.split))
    : [number("images", lussData.run.images === null ? "–" : count(lussData.run.images), ""),
      number("clusters", lussData.clusters ? count(lussData.clusters.rows.length) : "–", "")];
  const threshold = lussData.threshold;
  if (threshold) tiles.push(number("threshold", threshold.threshold.toFixed(3), thresholdSource(threshold)));
  byId("numbers").replaceChildren(...tiles);
}

function number(title, value, below) {
  return make("div", {}, make("p", {class: "small soft"}, title), make("p", {class: "value"}, value), make("p", {class: "small soft"}, below));
}

function thresholdSource({source, method, used_labels: used, separation}) {
  if (used) return "chosen with ground truth";
  if (source !== "auto") return "given";
  return `from the attention alone (${method}${separation ? `, separation ${separation.toFixed(2)}` : ""})`;
}

function showMetrics() {
  if (!lussData.metrics.length) {
    byId("metrics").replaceChildren(note("Nothing was measured: there are no masks, or the evaluate stage has not run with the present settings."));
    return;
  }
  const columns = [{title: "run"}, {title: "split"}, ...Object.values(METRICS).map((title) => ({title, number: true})), {title: "images", number: true}];
  const cells = lussData.metrics.map((row) => [row.label, row.split,
    ...Object.keys(METRICS).map((name) => (row[name] === null ? null : row[name].toFixed(1))), row.num_images === null ? null : count(row.num_images)]);
  const stated = lussData.threshold?.used_labels
    ? "The threshold was searched with the masks of the validation split: these numbers are not fully unsupervised."
    : "Percent. No label was used before the matching of clusters to categories.";
  byId("metrics").replaceChildren(table("Metrics in percent", columns, cells), make("p", {class: "small soft"}, stated));
}

function showStages() {
  const cells = lussData.stages.map((stage) => [
    words(stage.name),
    make("span", {class: `state ${stage.state}`, title: stage.detail}, stage.state, stage.detail ? make("span", {class: "small soft"}, ` ${stage.detail}`) : ""),
    duration(stage.seconds),
    stage.peak_memory_mb ? `${(stage.peak_memory_mb / 1000).toFixed(1)} GB` : "–",
  ]);
  byId("stages").replaceChildren(table("Stages", [{title: "stage"}, {title: "state"}, {title: "work", number: true}, {title: "memory", number: true}], cells));
}

function showSettings() {
  const cells = lussData.settings.map(({key, value}) => [make("code", {}, key), make("code", {}, typeof value === "string" ? value : JSON.stringify(value))]);
  byId("settings").replaceChildren(cells.length ? table("Settings", [{title: "setting"}, {title: "value"}], cells) : note("None."));
}

// ---- training

function showTraining() {
  const blocks = lussData.curves.map((curves) => {
    const entries = Object.entries(curves.series);
    const chart = ([name, values]) => lineChart(words(name), curves.steps, values, curves.unit);
    const main = entries.filter(([name]) => !SPEED.includes(name)).map(chart).filter(Boolean);
    const speed = entries.filter(([name]) => SPEED.includes(name)).map(chart).filter(Boolean);
    return make("div", {}, make("h3", {}, words(curves.stage)), curves.stage === "pretrain" ? healthPanel() : null, make("div", {class: "charts"}, ...main),
      speed.length ? make("details", {}, make("summary", {}, "Learning rate and speed"), make("div", {class: "charts"}, ...speed)) : null);
  });
  byId("training-body").replaceChildren(...(blocks.length ? blocks : [note("No training log yet.")]));
}

function healthPanel() {
  if (!lussData.health) return null;
  const {values, collapsed} = lussData.health;
  const items = Object.entries(values).map(([name, value]) =>
    number(HEALTH[name][0], name === "used_prototypes" ? percent(value) : figure(value), HEALTH[name][1]));
  return make("div", {}, make("p", {class: collapsed ? "note" : "soft"}, collapsed
    ? "The representation seems to have collapsed: lower pretrain.lr, use fewer prototypes, or a larger batch or queue."
    : "No sign of collapse at the end of the training:"), make("div", {class: "numbers"}, ...items));
}

// ---- categories

function showCategories() {
  const categories = lussData.categories;
  const body = byId("categories-body");
  if (!categories) {
    body.replaceChildren(note("There are no masks, or the evaluate stage has not run with the present settings: nothing is known of categories."));
    return;
  }
  const confusion = categories.confusion;
  body.replaceChildren(
    make("p", {class: "soft"}, `On ${categories.split}; ${lussData.clusters ? `${plural(lussData.clusters.rows.length, "cluster")} are` : "clusters are"} matched to `
      + `${count(categories.rows.length - 1)} categories one to one.`
      + (confusion && confusion.num_counted < confusion.num_images ? ` What became of the pixels was counted on ${count(confusion.num_counted)} of ${count(confusion.num_images)} images.` : "")),
    categoryTable(categories),
    make("div", {class: "halves"}, mistakes(categories) ?? "", sizeGroups(categories) ?? ""),
    matrix(categories) ?? "");
}

function categoryTable({rows, confusion}) {
  const order = make("select", {}, make("option", {value: "worst"}, "worst first"), make("option", {value: "best"}, "best first"), make("option", {value: "name"}, "by name"));
  const holder = make("div");
  let limit = 15;
  function draw() {
    const by = {worst: (a, b) => a.iou - b.iou, best: (a, b) => b.iou - a.iou, name: (a, b) => a.name.localeCompare(b.name)}[order.value];
    const shown = [...rows].sort(by).slice(0, limit);
    const columns = [{title: "category"}, {title: "IoU"}, {title: "boundary", number: true}, {title: "cluster"}];
    if (confusion) columns.push({title: "its pixels became", wide: true});
    const cells = shown.map((row) => [row.name, bar(row.iou), row.boundary_iou.toFixed(1),
      row.cluster ? (lussData.clusters ? gallery.link(row.cluster, String(row.cluster)) : String(row.cluster)) : "–",
      ...(confusion ? [became(rows, confusion.shares[row.id])] : [])]);
    const more = rows.length > limit ? make("button", {type: "button", onclick: () => { limit = rows.length; draw(); }}, `Show all ${rows.length}`) : "";
    holder.replaceChildren(table("IoU of each category", columns, cells), more);
  }
  order.addEventListener("input", draw);
  draw();
  return make("div", {}, make("div", {class: "row"}, make("h3", {class: "grow"}, "IoU"), make("label", {}, "Order ", order)), holder);
}

function bar(value) {
  return make("span", {class: "bar"}, make("span", {style: `width:${Math.max(value, 0.5)}%`, "aria-hidden": "true"}), make("b", {}, value.toFixed(1)));
}

function became(rows, shares) {
  return shares.slice(0, 4).map(([id, share]) => `${rows[id].name} ${percent(share)}`).join(", ") || "–";
}

function mistakes({rows, confusion}) {
  if (!confusion) return null;
  const pairs = confusion.shares.flatMap((shares, truth) => shares.filter(([id]) => id !== truth && id !== 0 && truth !== 0).map(([id, share]) => ({truth, id, share})));
  pairs.sort((a, b) => b.share - a.share);
  const cells = pairs.slice(0, 12).map(({truth, id, share}) => [rows[truth].name, rows[id].name, percent(share)]);
  return make("div", {}, make("h3", {}, "Most frequent mistakes"),
    table("Most frequent mistakes", [{title: "pixels of"}, {title: "taken for"}, {title: "share", number: true}], cells));
}

function sizeGroups({groups}) {
  if (!groups) return null;
  const titles = {S: "small, up to 5 % of the image", MS: "up to 25 %", ML: "up to 50 %", L: "larger"};
  const shown = (value) => (value === null || value === undefined ? null : value.toFixed(1));
  const cells = Object.entries(titles).map(([name, title]) => [title, shown(groups.miou[name]), shown(groups.boundary_miou[name])]);
  return make("div", {}, make("h3", {}, "By size of the object"),
    table("Metrics by size of the object", [{title: "size"}, {title: "mIoU", number: true}, {title: "boundary mIoU", number: true}], cells));
}

function matrix({rows, confusion}) {
  if (!confusion?.matrix) return null;
  const reading = make("p", {class: "small soft", role: "status"}, "Point at a square: rows are true, columns predicted.");
  const cell = Math.max(6, Math.min(18, Math.floor(700 / rows.length)));
  const drawing = svg("svg", {width: 130 + cell * rows.length, height: 4 + cell * rows.length, role: "img",
    "aria-label": `Confusion matrix of ${rows.length} categories; the table of mistakes says its greatest entries`});
  rows.forEach((row, y) => {
    const label = svg("text", {x: 124, y: 2 + cell * (y + 0.8), "text-anchor": "end", "font-size": Math.min(11, cell)});
    label.textContent = row.name.slice(0, 20);
    drawing.append(label);
    confusion.matrix[y].forEach((value, x) => {
      if (value < 5) return;
      drawing.append(svg("rect", {x: 130 + cell * x, y: 2 + cell * y, width: cell - 1, height: cell - 1, class: "square", "fill-opacity": Math.sqrt(value / 1000)}));
    });
  });
  drawing.append(svg("rect", {x: 129, y: 1, width: cell * rows.length + 1, height: cell * rows.length + 1, class: "frame"}));
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const [x, y] = [Math.floor((event.clientX - box.left - 130) / cell), Math.floor((event.clientY - box.top - 2) / cell)];
    if (rows[x] && rows[y]) reading.textContent = `${percent(confusion.matrix[y][x] / 1000, 1)} of the pixels of ${rows[y].name} are ${x === y ? "right" : `taken for ${rows[x].name}`}`;
  });
  return make("div", {}, make("h3", {}, "Confusion"), reading, make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix"}, drawing));
}

// ---- the rest

function showFigures() {
  const items = lussData.figures.map(({file, title}) => make("figure", {}, make("a", {href: file},
    make("img", {src: file, alt: title, loading: "lazy"})), make("figcaption", {class: "small"}, title)));
  const missing = lussData.figures.some(({file}) => /curves|iou/.test(file)) || !lussData.curves.length
    ? "" : note("Plots as PNG need matplotlib: pip install 'luss[plots]', then luss report again.");
  byId("figures-body").replaceChildren(missing, items.length ? make("div", {class: "sheets"}, ...items) : note("None yet."));
}

function showSkipped() {
  const {total, files} = lussData.skipped;
  if (!total) {
    byId("skipped-body").replaceChildren(make("p", {class: "soft"}, "None: every image could be read."));
    return;
  }
  const cells = files.map((file) => [file.path, file.reason, words(file.stage)]);
  byId("skipped-body").replaceChildren(
    make("p", {class: "soft"}, `${plural(total, "entry").replace("entrys", "entries")}${files.length < total ? `; the first ${files.length} are shown, all are in STAGE/skipped.csv` : ""}.`),
    table("Skipped files", [{title: "file"}, {title: "reason"}, {title: "stage"}], cells));
}

for (const show of [showTitle, showProblems, showNumbers, showMetrics, showStages, showSettings, showCategories, showTraining, showFigures, showSkipped]) show();
gallery.setUp();
