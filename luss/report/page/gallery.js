"use strict";
// The clusters: one card each, a page of them at a time; pictures are loaded when a card comes near the screen.

const gallery = (() => {
  const PAGE_SIZE = 12;
  const data = lussData.clusters;
  const rows = data?.rows ?? [];
  const rowOf = new Map(rows.map((row) => [row.id, row]));
  const categoryOf = new Map((lussData.categories?.rows ?? []).filter((row) => row.cluster).map((row) => [row.cluster, row]));
  const stored = lussData.threshold?.threshold ?? 0.5;
  let threshold = stored;
  let view = "mask";
  let page = 0;
  let found = [];
  const waiting = new Map();  // cluster id -> what to do with its pictures
  const shown = new Map();    // cluster id -> [{canvas, unpacked}] of the present page
  const dirty = new Set();
  const visible = new Set();

  const orders = {
    size: ["largest first", (a, b) => b.size - a.size],
    tight: ["most cohesive first", (a, b) => b.cohesion - a.cohesion],
    loose: ["least cohesive first", (a, b) => a.cohesion - b.cohesion],
    number: ["by number", (a, b) => a.id - b.id],
  };
  if (categoryOf.size) {
    orders.good = ["best IoU first", (a, b) => iou(b) - iou(a)];
    orders.bad = ["worst IoU first", (a, b) => iou(a) - iou(b)];
  }

  function iou(row) {
    return categoryOf.get(row.id)?.iou ?? -1;
  }

  // ---- which clusters are shown

  function matches(row, text, only) {
    const name = marks.name(row.id);
    const kinds = {
      all: true, named: name !== "", unnamed: name === "", merged: marks.group(row.id).length > 1, dropped: marks.dropped(row.id),
    };
    if (!kinds[only]) return false;
    if (!text) return true;
    if (/^\d+$/.test(text)) return String(row.id) === text;
    const others = [name, categoryOf.get(row.id)?.name ?? "", ...row.folders.map(([folder]) => folder)];
    return others.some((other) => other.toLowerCase().includes(text));
  }

  function refresh() {
    const text = byId("find").value.trim().toLowerCase();
    const order = orders[byId("order").value][1];
    found = rows.filter((row) => matches(row, text, byId("only").value)).sort((a, b) => order(a, b) || a.id - b.id);
    turnTo(0);
  }

  function turnTo(number) {
    const last = Math.max(0, Math.ceil(found.length / PAGE_SIZE) - 1);
    page = Math.min(Math.max(number, 0), last);
    observer.disconnect();
    for (const store of [waiting, shown, dirty, visible]) store.clear();
    byId("cards").replaceChildren(...found.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).map(card));
    byId("found").textContent = `${plural(found.length, "cluster")}${last ? `, page ${page + 1} of ${last + 1}` : ""}`;
    document.querySelectorAll(".pager").forEach((pager) => pager.replaceChildren(...(last ? pagerButtons(last) : [])));
  }

  function pagerButtons(last) {
    const button = (text, label, to) =>
      make("button", {type: "button", "aria-label": label, disabled: to < 0 || to > last, onclick: () => turn(to)}, text);
    return [button("‹ Previous", "Previous page of clusters", page - 1), button("Next ›", "Next page of clusters", page + 1)];
  }

  function turn(to) {
    turnTo(to);
    byId("clusters").scrollIntoView();
    byId("cards").querySelector("h3")?.focus({preventScroll: true});
  }

  // Brings a cluster onto the screen, whatever is being searched for.
  function open(id) {
    if (!rowOf.has(id)) return;
    if (!found.some((row) => row.id === id)) {
      byId("find").value = "";
      byId("only").value = "all";
      refresh();
    }
    const place = found.findIndex((row) => row.id === id);
    if (Math.floor(place / PAGE_SIZE) !== page) turnTo(Math.floor(place / PAGE_SIZE));
    const heading = byId(`cluster-${id}-title`);
    heading.scrollIntoView({block: "start"});
    heading.focus({preventScroll: true});
  }

  function link(id, text) {
    return make("a", {href: `#cluster-${id}`, onclick: (event) => { event.preventDefault(); open(id); }}, text);
  }

  // ---- one card

  function card(row) {
    const pictures = make("div", {class: "pictures"}, row.pictures ? "" : note(row.size ? "No pictures: --clusters left them out." : "No image is in this cluster."));
    const article = make("article", {class: "card", id: `cluster-${row.id}`, "aria-labelledby": `cluster-${row.id}-title`, "data-cluster": row.id},
      make("header", {}, make("span", {class: "swatch", style: `background:${data.colours[row.id]}`}),
        make("h3", {id: `cluster-${row.id}-title`, tabindex: "-1"}),
        row.pictures ? make("button", {type: "button", class: "quiet", onclick: () => lookCloser(row)}, "Look closer") : null),
      facts(row), pictures, similar(row), controls(row));
    updateCard(article, row);
    if (row.pictures) {
      waiting.set(row.id, (found) => showPictures(row, pictures, found));
      observer.observe(article);
    }
    return article;
  }

  function facts(row) {
    const category = categoryOf.get(row.id);
    const parts = [plural(row.size, "image"), `cohesion ${row.cohesion.toFixed(2)}`];
    if (category) parts.push(`matched to ${category.name} (IoU ${category.iou.toFixed(1)})`);
    const folders = row.folders.map(([name, share]) => `${name} ${percent(share)}`).join(", ");
    return make("div", {class: "facts small soft"}, make("p", {}, parts.join(" · ")),
      folders ? make("p", {}, `folders: ${folders}`) : null);
  }

  function similar(row) {
    if (!row.similar.length) return make("div");
    const pill = ([id, cosine]) => make("span", {class: "pill"},
      link(id, make("span", {}, make("span", {class: "dot", style: `background:${data.colours[id]}`}), make("span", {"data-called": id}), ` ${cosine.toFixed(2)}`)),
      make("button", {type: "button", "data-merge": id, onclick: () => toggleMerge(row.id, id)}));
    return make("div", {class: "similar small"}, make("span", {class: "soft"}, "Similar"), ...row.similar.slice(0, 3).map(pill));
  }

  function controls(row) {
    const other = make("input", {type: "number", min: "1", max: rows.length, "aria-label": `Number of a cluster to merge cluster ${row.id} with`});
    return make("form", {class: "controls", onsubmit: (event) => { event.preventDefault(); mergeWith(row.id, other); }},
      make("label", {class: "grow"}, "Name ",
        make("input", {type: "text", maxlength: "80", autocomplete: "off", class: "name", "aria-label": `Name of cluster ${row.id}`,
          oninput: (event) => marks.setName(row.id, event.target.value)})),
      make("label", {}, make("input", {type: "checkbox", class: "drop", "aria-label": `Drop cluster ${row.id}`,
        onchange: (event) => drop(row.id, event.target.checked)}), " Drop"),
      make("span", {class: "merge"}, make("span", {"aria-hidden": "true"}, "Merge with "), other, make("button", {type: "submit", "aria-label": `Merge cluster ${row.id}`}, "Merge")),
      make("p", {class: "merged small"}));
  }

  function drop(id, dropped) {
    marks.setDropped(id, dropped);
    say(`Cluster ${id} ${dropped ? "will be dropped" : "stays"}`);
  }

  function mergeWith(id, input) {
    const other = Number(input.value);
    if (!marks.known(other) || other === id) {
      input.setCustomValidity(`Give the number of another cluster, 1 to ${rows.length}`);
      input.reportValidity();
      input.addEventListener("input", () => input.setCustomValidity(""), {once: true});
      return;
    }
    input.value = "";
    marks.join(id, other);
    say(`Cluster ${id} merged with ${other}`);
  }

  function toggleMerge(id, other) {
    if (marks.group(id).includes(other)) {
      marks.leave(other);
      say(`Cluster ${other} taken out of the merge`);
    } else {
      marks.join(id, other);
      say(`Cluster ${id} merged with ${other}`);
    }
  }

  // ---- what marks change

  function called(id) {
    const name = marks.name(id);
    return name ? `${id} ${name}` : String(id);
  }

  function updateCard(article, row) {
    const name = marks.name(row.id);
    article.querySelector("h3").replaceChildren(`Cluster ${row.id}`, name ? make("span", {class: "given"}, ` ${name}`) : "");
    article.classList.toggle("dropped", marks.dropped(row.id));
    article.querySelector(".drop").checked = marks.dropped(row.id);
    const input = article.querySelector(".name");
    if (input !== document.activeElement) input.value = name;
    for (const text of article.querySelectorAll("[data-called]")) text.textContent = called(Number(text.dataset.called));
    for (const button of article.querySelectorAll("[data-merge]")) {
      const other = Number(button.dataset.merge);
      const merged = marks.group(row.id).includes(other);
      button.textContent = merged ? "merged" : "merge";
      button.setAttribute("aria-pressed", merged);
      button.setAttribute("aria-label", `Merge cluster ${row.id} with ${other}`);
    }
    const others = marks.group(row.id).filter((id) => id !== row.id);
    article.querySelector(".merged").replaceChildren(...(others.length
      ? ["One category with ", ...others.flatMap((id, place) => [place ? ", " : "", link(id, called(id))]), " ",
        make("button", {type: "button", class: "quiet", onclick: () => { marks.leave(row.id); say(`Cluster ${row.id} taken out of the merge`); }}, "Take out")]
      : []));
  }

  function updateMarks() {
    for (const article of byId("cards").children) updateCard(article, rowOf.get(Number(article.dataset.cluster)));
    const {names, merge, drop} = marks.exported();
    byId("marks-count").textContent = `${Object.keys(names).length} named, ${merge.length} merged, ${drop.length} dropped`;
    byId("marks-kept").textContent = marks.kept()
      ? "They are kept in this browser." : "This browser keeps nothing: download them before you close the page.";
  }

  // ---- pictures

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const id = Number(entry.target.dataset.cluster);
      if (!entry.isIntersecting) {
        visible.delete(id);
        continue;
      }
      visible.add(id);
      if (waiting.has(id)) load(id);
      if (dirty.delete(id)) repaint(id);
    }
  }, {rootMargin: "400px 0px"});

  function load(id) {
    const script = make("script", {src: `clusters/${id}.js`, onerror: () => receive(id, [])});
    script.addEventListener("load", () => script.remove());
    document.head.append(script);
  }

  function receive(id, pictures) {
    const use = waiting.get(id);
    waiting.delete(id);
    if (use) use(pictures);
  }

  const PLACES = {nearest: "nearest to the centroid", median: "at the median", farthest: "farthest from the centroid"};

  function tile(row, picture) {
    if (picture.problem) return {element: make("div", {class: "tile broken", title: `${picture.name}: ${picture.problem}`}, "cannot be read")};
    const image = make("img", {
      src: `data:image/jpeg;base64,${picture.jpeg}`, loading: "lazy", decoding: "async", width: picture.width, height: picture.height,
      alt: `${picture.name}, ${PLACES[picture.place]} of cluster ${row.id}`,
    });
    if (!picture.map) return {element: make("div", {class: "tile"}, image)};
    const canvas = make("canvas", {width: picture.width, height: picture.height, "aria-hidden": "true"});
    return {element: make("div", {class: "tile"}, image, canvas), canvas, unpacked: unpackMap(picture.map, picture.width, picture.height)};
  }

  function showPictures(row, folder, pictures) {
    const groups = Object.entries(PLACES).map(([place, title]) => {
      const tiles = pictures.filter((picture) => picture.place === place).map((picture) => tile(row, picture));
      return {place, title, tiles};
    }).filter((group) => group.tiles.length);
    folder.replaceChildren(...groups.map(({place, title, tiles}) =>
      make("div", {class: `group ${place}`, role: "group", "aria-label": title}, make("p", {class: "small soft"}, place),
        make("div", {class: "tiles", style: `--tiles:${tiles.length}`}, ...tiles.map(({element}) => element)))));
    if (!groups.length) folder.replaceChildren(note("The pictures of this cluster are missing: copy the whole folder of the report."));
    folder.onclick = () => groups.length && lookCloser(row);
    row.loaded = pictures;
    shown.set(row.id, groups.flatMap((group) => group.tiles).filter(({canvas}) => canvas));
    repaint(row.id);
  }

  function repaint(id) {
    for (const {canvas, unpacked} of shown.get(id) ?? []) paint(canvas, unpacked, threshold, view);
  }

  function repaintAll() {
    for (const id of shown.keys()) (visible.has(id) ? repaint : dirty.add.bind(dirty))(id);
    if (byId("closer").open) shown.get("closer").forEach(({canvas, unpacked}) => paint(canvas, unpacked, threshold, view));
  }

  function lookCloser(row) {
    byId("closer-title").textContent = `Cluster ${called(row.id)}`;
    const tiles = (row.loaded ?? []).map((picture) => ({...tile(row, picture), picture}));
    byId("closer-body").replaceChildren(make("div", {class: "large"}, ...tiles.map(({element, picture}) =>
      make("figure", {}, element, make("figcaption", {class: "small"}, make("span", {}, `${picture.place}, cosine ${picture.cosine.toFixed(2)}`),
        make("span", {class: "soft"}, picture.name))))));
    const painted = tiles.filter(({canvas}) => canvas);
    shown.set("closer", painted);
    painted.forEach(({canvas, unpacked}) => paint(canvas, unpacked, threshold, view));
    byId("closer").showModal();
  }

  // ---- tools

  function setUpThreshold() {
    if (!data.maps) {
      byId("layer-note").replaceChildren(note("There are no label maps of these clusters yet: run the pseudo_labels stage to see masks."));
      return;
    }
    byId("threshold-tool").hidden = false;
    const histogram = lussData.histogram && histogramChart(lussData.histogram.counts, stored);
    if (histogram) byId("histogram").append(histogram.drawing);
    let asked = 0;
    const set = (value) => {
      threshold = value;
      byId("threshold").value = value;
      byId("threshold-value").textContent = value.toFixed(3);
      byId("threshold-note").textContent = thresholdNote(value);
      histogram?.move(value);
      cancelAnimationFrame(asked);
      asked = requestAnimationFrame(repaintAll);
    };
    byId("threshold").addEventListener("input", (event) => set(Number(event.target.value)));
    byId("threshold-reset").addEventListener("click", () => set(stored));
    byId("view").addEventListener("change", (event) => { view = event.target.value; repaintAll(); });
    set(stored);
  }

  function thresholdNote(value) {
    const parts = [];
    if (lussData.histogram) {  // as the label store compares: strictly below is background
      const {counts, num_maps: used, num_images: all} = lussData.histogram;
      const sum = (levels) => levels.reduce((total, number) => total + number, 0);
      const share = sum(counts.slice(Math.ceil(value * 255))) / sum(counts);
      parts.push(`${percent(share)} of all positions are object${used < all ? ` (${plural(used, "image")} counted)` : ""}.`);
    }
    parts.push(value === stored ? "This is the threshold of the pseudo labels." : `To use it: luss labels ${lussData.run.typed} --threshold ${value}`);
    return parts.join(" ");
  }

  function setUpMarks() {
    byId("labels-command").textContent = `luss labels ${lussData.run.typed} --names names.json`;
    byId("download").addEventListener("click", download);
    byId("load").addEventListener("change", loadFile);
    byId("clear").addEventListener("click", () => {
      if (confirm("Clear all names, merges and drops of this run?")) marks.replace({});
    });
    const layer = lussData.threshold?.layer;
    if (layer) byId("layer-note").textContent = `luss labels has edited these labels (layer ${layer}). What you mark here is added to those edits.`;
    marks.onChange(updateMarks);
    updateMarks();
  }

  function download() {
    const text = `${JSON.stringify(marks.exported(), null, 1)}\n`;
    const url = URL.createObjectURL(new Blob([text], {type: "application/json"}));
    make("a", {href: url, download: "names.json"}).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    say("names.json downloaded");
  }

  async function loadFile(event) {
    const [file] = event.target.files;
    event.target.value = "";
    if (!file) return;
    try {
      marks.replace(JSON.parse(await file.text()));
      say(`${file.name} loaded`);
    } catch (error) {
      alert(`${file.name} cannot be used: ${error.message}`);
    }
  }

  function setUp() {
    if (!data) {
      byId("clusters-intro").textContent = "There are no clusters yet: run the cluster stage, then luss report again.";
      return;
    }
    byId("clusters-intro").textContent = "Cohesion is the mean cosine of a cluster's images to its centroid: 1 is as tight as can be. "
      + "Pictures show the images nearest to the centroid, at the median and farthest away; coloured is what the pseudo label calls object.";
    byId("tools").hidden = false;
    byId("order").append(...Object.entries(orders).map(([value, [title]]) => make("option", {value}, title)));
    for (const id of ["find", "only", "order"]) byId(id).addEventListener("input", refresh);
    byId("closer-close").addEventListener("click", () => byId("closer").close());
    byId("closer").addEventListener("click", (event) => event.target === byId("closer") && byId("closer").close());
    setUpThreshold();
    refresh();
    setUpMarks();
  }

  return {setUp, receive, link, called};
})();

// Called by the scripts in clusters/.
function lussReceive(id, pictures) {
  gallery.receive(id, pictures);
}
