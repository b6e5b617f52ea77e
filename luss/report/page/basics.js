"use strict";
// What every script of the page uses. Names of files and folders come from outside: they are set as text, never as HTML.

function byId(id) {
  return document.getElementById(id);
}

// make("p", {class: "soft", onclick: f}, "text", child, ...): an element. null attributes and children are left out.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function count(number) {
  return number.toLocaleString("en");
}

function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

function percent(share, digits = 0) {
  return `${(100 * share).toFixed(digits)} %`;
}

// Four significant digits at most; large numbers with separators.
function figure(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return count(Math.round(value));
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
}

function duration(seconds) {
  if (!seconds) return "–";
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function words(name) {
  return name.replaceAll("_", " ");
}

// A table that scrolls by itself where the screen is narrow. Cells are text or elements; columns are {title, number, wide}.
function table(caption, columns, rows) {
  const kind = ({number, wide}) => (number ? "number" : wide ? "wide" : null);
  const head = make("tr", {}, ...columns.map((column) => make("th", {scope: "col", class: kind(column)}, column.title)));
  const body = rows.map((cells) =>
    make("tr", {}, ...cells.map((cell, place) =>
      make(place ? "td" : "th", {scope: place ? null : "row", class: kind(columns[place])}, cell ?? "–"))));
  return make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": caption},
    make("table", {}, make("caption", {class: "hidden"}, caption), make("thead", {}, head), make("tbody", {}, ...body)));
}

function note(text) {
  return make("p", {class: "note"}, text);
}

// Said to people who hear the page; the text is also what tests wait for.
function say(text) {
  byId("said").textContent = text;
}
