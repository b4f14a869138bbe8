
"use strict";
// Elements are made with their text as text: nothing of the data is ever read as markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const percent = (value, digits = 1) => (isNumber(value) ? (100 * value).toFixed(digits) : "–");
const fixed = (value, digits = 2) => (isNumber(value) ? value.toFixed(digits) : "–");
const count = (value) => (isNumber(value) ? value.toLocaleString("en") : "–");

function key(color, text) {
  return el("span", { class: "key" }, el("i", { style: `background:${color}` }), text);
}

function tile(value, text) {
  return el("div", { class: "tile" }, el("b", {}, value), el("span", {}, text));
}

// A cell of a table is {text, value (to sort by), bar (0 to 1)} or a text.
function cell(content) {
  if (typeof content !== "object" || content === null) return el("td", {}, content);
  if (content.bar === undefined) return el("td", { class: content.class }, content.text);
  const width = isNumber(content.bar) ? 100 * Math.max(0, Math.min(1, content.bar)) : 0;
  const inside = el("span", { style: `width:${width}%` + (content.color ? `;background:${content.color}` : "") });
  return el("td", { class: "bar" }, el("span", { class: "track" }, inside), el("span", { class: "number" }, content.text));
}

const sortValue = (content) => (typeof content === "object" && content !== null ? content.value : content);

function compareCells(a, b) {
  const left = sortValue(a), right = sortValue(b);
  const leftMissing = left === null || left === undefined, rightMissing = right === null || right === undefined;
  if (leftMissing || rightMissing) return leftMissing - rightMissing || 0;
  return typeof left === "number" ? right - left : String(left).localeCompare(String(right));
}

// Rows: {cells, isChosen, choose}. A click on a heading sorts by its column, a second one the other way round.
function sortedTable(headings, rows) {
  const body = el("tbody", {});
  let order = null;
  const show = () => {
    const shown = [...rows];
    if (order !== null) shown.sort((a, b) => order.sign * compareCells(a.cells[order.column], b.cells[order.column]));
    body.replaceChildren(
      ...shown.map((row) =>
        el("tr", { class: (row.choose ? "choosable" : "") + (row.isChosen ? " chosen" : ""), onclick: row.choose || (() => {}) },
          row.cells.map(cell))
      )
    );
  };
  const heading = (text, column) =>
    el("th", { class: "sortable" + (rows.some((row) => (row.cells[column] || {}).class === "text") ? " text" : ""), scope: "col", title: "sort", onclick: () => {
      order = { column, sign: order !== null && order.column === column ? -order.sign : 1 };
      show();
    } }, text);
  show();
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, headings.map(heading))), body));
}

const FRAME = { width: 440, height: 300, left: 50, right: 14, top: 12, bottom: 42 };
const px = (x) => FRAME.left + x * (FRAME.width - FRAME.left - FRAME.right);
const py = (y) => FRAME.height - FRAME.bottom - y * (FRAME.height - FRAME.top - FRAME.bottom);

// Axes from 0 to 1; yTicks are [place, text].
function chart(title, xLabel, yLabel, yTicks, ...content) {
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1];
  return svg("svg", { class: "chart", viewBox: `0 0 ${FRAME.width} ${FRAME.height}`, role: "img", "aria-label": title },
    ticks.map((x) => svg("text", { x: px(x), y: py(0) + 16, "text-anchor": "middle" }, x.toFixed(1))),
    yTicks.map(([y, text]) => [
      svg("line", { class: "axis", x1: px(0), x2: px(1), y1: py(y), y2: py(y) }),
      svg("text", { x: px(0) - 6, y: py(y) + 4, "text-anchor": "end" }, text),
    ]),
    svg("text", { x: px(0.5), y: FRAME.height - 6, "text-anchor": "middle" }, xLabel),
    svg("text", { transform: `translate(13 ${py(0.5)}) rotate(-90)`, "text-anchor": "middle" }, yLabel),
    content);
}
const unitTicks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((y) => [y, y.toFixed(1)]);

function line(points, color, dashes) {
  const path = points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
  return svg("path", { d: path, fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": dashes || null });
}

function bar(x0, x1, y0, y1, color, title) {
  return svg("rect", { x: px(x0) + 1, width: Math.max(0, px(x1) - px(x0) - 2), y: py(y1), height: Math.max(0, py(y0) - py(y1)), fill: color },
    svg("title", {}, title));
}

function countTicks(highest) {
  const step = Math.pow(10, Math.floor(Math.log10(Math.max(highest, 1))));
  const width = [1, 2, 5, 10].map((factor) => (factor * step) / 5).find((each) => highest / each <= 6) || step;
  const ticks = [];
  for (let value = 0; value <= highest; value += Math.max(1, width)) ticks.push([highest ? value / highest : 0, count(Math.round(value))]);
  return ticks;
}
