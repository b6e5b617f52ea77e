"use strict";
// The page of a data set's statistics.

const GROUP_TITLES = {S: "S: up to 5 % of the image", MS: "MS: up to 25 %", ML: "ML: up to 50 %", L: "L: larger"};
const MOST_ROWS = 30;

function showData() {
  document.title = `${lussData.data} · luss`;
  byId("title").textContent = lussData.data;
  byId("subtitle").textContent = plural(lussData.categories, "category").replace("categorys", "categories");
  byId("footer").textContent = `Made ${lussData.made} by luss ${lussData.luss}. The same numbers are in dataset.json; the page loads nothing from a network.`;
  byId("problems").replaceChildren(...lussData.problems.map((problem) => note(`Left out: ${problem}`)));
  const columns = [{title: "split"}, ...["images", "categories", "masks", "least images a category", "median", "most"].map((title) => ({title, number: true}))];
  const cells = lussData.splits.map((row) => [row.split, count(row.images), count(row.categories), count(row.masks), count(row.least), count(row.median), count(row.most)]);
  byId("splits").replaceChildren(table("Splits", columns, cells));
  byId("masks").replaceChildren(...Object.entries(lussData.masks).map(([split, masks]) => splitSection(split, masks)));
}

function splitSection(split, masks) {
  const title = `Masks of ${split}`;
  const {background, objects, ignored} = masks.shares;
  return make("section", {"aria-label": title}, make("h2", {}, title),
    make("p", {class: "soft"}, `${plural(masks.masks, "mask")} of ${count(masks.width)} x ${count(masks.height)} pixels (medians); `
      + `${masks.mean_categories_an_image.toFixed(2)} categories an image; pixels: ${background.toFixed(1)} % background, ${objects.toFixed(1)} % objects, `
      + `${ignored.toFixed(1)} % ignored.`),
    make("div", {class: "halves"},
      block("Categories an image", table(`Categories an image, ${split}`, [{title: "categories"}, {title: "images", number: true}, {title: "share", number: true}],
        Object.entries(masks.categories_an_image).map(([number, images]) => [number, count(images), percent(images / masks.masks, 1)]))),
      block("Size of objects", table(`Size groups, ${split}`, [{title: "group"}, {title: "objects", number: true}, {title: "share", number: true}],
        Object.entries(masks.size_groups).map(([name, number]) => [GROUP_TITLES[name], count(number), percent(number / Math.max(1, masks.objects), 1)])),
      bars(masks.sizes, "objects by the percentage of the image that they cover, 1 to 100")),
      block("Where objects are", heat(masks.where), make("p", {class: "small soft"}, "Share of images with an object at a place; the darker, the more.")),
      block("Most frequent pairs in one image", masks.together.length
        ? table(`Pairs, ${split}`, [{title: "categories"}, {title: "images", number: true}],
          masks.together.slice(0, MOST_ROWS).map((pair) => [pair.names.join(", "), count(pair.masks)]))
        : note("No image holds two categories.")),
      block("Categories", bars(masks.categories.map((row) => row.masks), "images of each category, in the order of their ids"),
        make("details", {}, make("summary", {}, `All ${masks.categories.length}`),
          table(`Categories, ${split}`, [{title: "category"}, {title: "images", number: true}, {title: "share of object pixels", number: true}],
            masks.categories.map((row) => [row.name, count(row.masks), `${row.pixels.toFixed(2)} %`]))))));
}

function block(title, ...children) {
  return make("div", {}, make("h3", {}, title), ...children);
}

function bars(values, what) {
  const highest = Math.max(1, ...values);
  const drawing = svg("svg", {viewBox: `0 0 ${values.length} 60`, preserveAspectRatio: "none", class: "histogram", role: "img",
    "aria-label": `Histogram: ${what}; the highest bar is ${count(highest)}`});
  values.forEach((value, place) => drawing.append(svg("rect", {x: place, y: 60 - 58 * value / highest, width: 0.9, height: 58 * value / highest, class: "area"})));
  return make("figure", {}, drawing, make("figcaption", {class: "small soft"}, `${what}; highest ${count(highest)}`));
}

function heat(rows) {
  const highest = Math.max(1e-9, ...rows.flat());
  const drawing = svg("svg", {viewBox: `0 0 ${rows.length} ${rows.length}`, width: 256, height: 256, role: "img",
    "aria-label": `Where objects are: at most ${highest.toFixed(0)} % of the images have one at the same place`});
  rows.forEach((row, y) => row.forEach((value, x) =>
    drawing.append(svg("rect", {x, y, width: 1, height: 1, class: "square", "fill-opacity": value / highest}))));
  return drawing;
}

showData();
