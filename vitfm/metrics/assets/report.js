"use strict";

// Draws the charts of the page from the JSON in #data; `groups` of vitfm/metrics/curves.py says what is in it.
const state = { axis: "step", smoothing: 0.8 };
const SMOOTHED_FROM = 50; // points; fewer are better seen as they are
const MARGIN = { top: 8, right: 10, bottom: 24, left: 50 };
const COLORS = 6; // curves beyond so many take them again, dashed

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "circle"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const swatch = (color) => element("i", { class: `swatch c${color % COLORS}${color >= COLORS ? " dashed" : ""}` });

// ---------------------------------------------------------------- numbers

function compact(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e9) return trim(value / 1e9) + "B";
  if (size >= 1e6) return trim(value / 1e6) + "M";
  if (size >= 1e4) return trim(value / 1e3) + "k";
  if (size < 1e-3) return value.toExponential(Number(value.toExponential().split("e")[0]) % 1 ? 1 : 0);
  return trim(value);
}

const trim = (value) => String(Number(value.toPrecision(4)));

function exact(value, fraction) {
  if (value === null) return "not finite";
  if (fraction) return (100 * value).toFixed(2) + "%";
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e7) ? value.toExponential(3) : Number(value.toPrecision(6)).toLocaleString("en");
}

// The unit a reader would choose for so many seconds.
function timeUnit(seconds) {
  return seconds > 7200 ? [3600, " h"] : seconds > 180 ? [60, " min"] : [1, " s"];
}

function linearTicks(low, high, count) {
  if (low === high) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const factors = last - first > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = first; power <= last; power++) for (const factor of factors) ticks.push(factor * 10 ** power);
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

// Whether neighbours jump about: a schedule is no noise, and smoothing would only bend it.
function noisy(values) {
  const differences = (list) => list.slice(1).map((value, i) => value - list[i]);
  const sum = (list) => list.reduce((total, value) => total + Math.abs(value), 0);
  const first = differences(values.filter((value) => value !== null));
  return values.length >= SMOOTHED_FROM && sum(differences(first)) > 0.5 * sum(first);
}

// Exponentially weighted mean of what lies on both sides, so that it lags behind neither; steps over what is not finite.
function smoothed(values, weight) {
  const side = (list) => {
    let [sum, total] = [0, 0];
    return list.map((value) => ([sum, total] = [weight * sum + (value ?? 0), weight * total + (value === null ? 0 : 1)]));
  };
  const before = side(values);
  const after = side(values.slice().reverse()).reverse();
  const mean = (i) => (before[i][0] + after[i][0] - values[i]) / (before[i][1] + after[i][1] - 1);
  return values.map((value, i) => (value === null ? null : mean(i)));
}

// ---------------------------------------------------------------- one chart

function scale(domain, range, log) {
  const at = log ? Math.log : (value) => value;
  const [low, high] = domain.map(at);
  return (value) => range[0] + ((at(value) - low) / (high - low || 1)) * (range[1] - range[0]);
}

// [low, high] of the values, padded so that no curve runs along the frame.
function domainOf(series, log) {
  const values = series.flatMap((one) => one.values).filter((value) => value !== null);
  let [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  if (!values.length) return [0, 1];
  if (low === high) [low, high] = low ? [low - Math.abs(low) / 2, high + Math.abs(low) / 2] : [-1, 1];
  const pad = 0.04;
  if (log) return [low * (low / high) ** pad, high * (high / low) ** pad];
  const room = (high - low) * pad;
  return [low >= 0 && low < room * 8 ? 0 : low - room, high + room];
}

// Whether a logarithmic axis is possible, and shows more than a linear one.
function spansDecades(values) {
  const finite = values.filter((value) => value !== null);
  return finite.every((value) => value > 0) && finite.reduce((a, b) => Math.max(a, b), 0) > 3 * finite.reduce((a, b) => Math.min(a, b), Infinity);
}

function pathOf(xs, ys) {
  let path = "";
  let pen = "M";
  ys.forEach((y, i) => {
    if (y !== null) path += `${pen}${xs[i].toFixed(1)},${y.toFixed(1)}`;
    pen = y === null ? "M" : "L";
  });
  return path;
}

class Chart {
  constructor(figure, data) {
    Object.assign(this, { figure, data, log: false, index: null });
    this.plot = figure.querySelector(".plot");
    this.button = figure.querySelector(".log");
    this.button.hidden = !data.series.every((one) => spansDecades(one.values)) || data.fraction;
    this.button.addEventListener("click", () => {
      this.log = !this.log;
      this.button.setAttribute("aria-pressed", this.log);
      this.draw();
    });
    this.plot.addEventListener("pointermove", (event) => this.point(event.clientX - this.plot.getBoundingClientRect().left));
    this.plot.addEventListener("pointerleave", () => this.clear());
    this.plot.addEventListener("blur", () => this.clear());
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.legend();
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  legend() {
    const list = this.figure.querySelector(".legend");
    const { series, title } = this.data;
    if (series.length > 1) {
      list.append(...series.map((one) => element("li", {}, swatch(one.color), one.label)));
    }
    const lost = series.reduce((sum, one) => sum + one.values.filter((value) => value === null).length, 0);
    if (lost) list.append(element("li", { class: "loss" }, `${lost} not finite, marked below the curve`));
    const ends = series.map((one) => `${one.label} ${exact(one.values.at(-1), this.data.fraction)}`);
    this.plot.setAttribute("role", "img");
    this.plot.setAttribute("aria-label", `${title}, last: ${ends.join(", ")}`);
  }

  draw() {
    const { series, fraction } = this.data;
    const [width, height] = [this.plot.clientWidth, this.plot.clientHeight];
    const xs = series.map((one) => one[state.axis]);
    const xDomain = [Math.min(...xs.map((x) => x[0])), Math.max(...xs.map((x) => x.at(-1)))];
    const yDomain = domainOf(series, this.log);
    const [left, bottom] = [MARGIN.left, height - MARGIN.bottom];
    const x = scale(xDomain, [left, width - MARGIN.right], false);
    const y = scale(yDomain, [bottom, MARGIN.top], this.log);
    this.x = x;
    this.y = y;
    this.xs = xs;
    this.svg = element("svg", { viewBox: `0 0 ${width} ${height}` });
    const [unit, suffix] = state.axis === "seconds" ? timeUnit(xDomain[1]) : [1, ""];
    for (const tick of this.log ? logTicks(...yDomain) : linearTicks(...yDomain, height > 240 ? 6 : 5)) {
      const text = fraction ? compact(Number((100 * tick).toPrecision(6))) + "%" : compact(Number(tick.toPrecision(6)));
      this.svg.append(element("line", { class: "grid", x1: left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }));
      this.svg.append(element("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, text));
    }
    for (const tick of linearTicks(xDomain[0] / unit, xDomain[1] / unit, Math.max(2, width / 110))) {
      this.svg.append(element("text", { x: x(tick * unit), y: bottom + 17, "text-anchor": "middle" }, compact(tick) + suffix));
    }
    series.forEach((one, i) => this.curve(one, xs[i].map(x), bottom));
    this.plot.replaceChildren(this.svg);
  }

  curve(one, xs, bottom) {
    const smooth = this.data.smooth && state.smoothing > 0 && noisy(one.values);
    const color = `stroke: var(--c${one.color % COLORS})`;
    const dashed = one.color >= COLORS ? "dashed" : "";
    const line = (values, kind) => {
      const ys = values.map((value) => (value === null ? null : this.y(value)));
      this.svg.append(element("path", { class: `curve ${kind} ${dashed}`, style: color, d: pathOf(xs, ys) }));
    };
    if (smooth) line(one.values, "raw");
    line(smooth ? smoothed(one.values, state.smoothing) : one.values, "");
    one.values.forEach((value, at) => {
      if (value === null) this.svg.append(element("line", { class: "lost", x1: xs[at], x2: xs[at], y1: bottom - 7, y2: bottom }));
      else if (one.values.length <= 25) this.dot(one, xs[at], this.y(value), "");
    });
  }

  dot(one, cx, cy, kind) {
    this.svg.append(element("circle", { class: `dot ${kind}`, style: `fill: var(--c${one.color % COLORS})`, cx, cy, r: 3 }));
  }

  // ------------------------------------------------------------ reading values

  point(pixel) {
    const nearest = (xs) => xs.reduce((best, value, i) => (Math.abs(this.x(value) - pixel) < Math.abs(this.x(xs[best]) - pixel) ? i : best), 0);
    this.show(this.xs.map(nearest));
  }

  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const last = this.xs.map((xs) => xs.length - 1);
    this.show(last.map((end, i) => Math.min(end, Math.max(0, (this.index ? this.index[i] : end + 1) + move))));
  }

  show(index) {
    this.clear();
    this.index = index;
    const { series, fraction } = this.data;
    const places = index.map((place, i) => this.x(this.xs[i][place]));
    const at = Math.max(...places);
    const furthest = places.indexOf(at);
    const bottom = this.plot.clientHeight - MARGIN.bottom;
    this.svg.append(element("line", { class: "cross mark", x1: at, x2: at, y1: MARGIN.top, y2: bottom }));
    const rows = series.map((one, i) => {
      const value = one.values[index[i]];
      if (value !== null) this.dot(one, this.x(this.xs[i][index[i]]), this.y(value), "mark");
      return element("div", {}, swatch(one.color), one.label, element("b", {}, exact(value, fraction)));
    });
    const step = element("p", {}, `step ${series[furthest].step[index[furthest]].toLocaleString("en")}`);
    const side = at > this.plot.clientWidth / 2 ? `right: ${this.plot.clientWidth - at + 10}px` : `left: ${at + 10}px`;
    this.plot.append(element("div", { class: "tooltip mark", style: side }, step, ...rows));
  }

  clear() {
    this.index = null;
    this.plot.querySelectorAll(".mark").forEach((node) => node.remove());
  }
}

// ---------------------------------------------------------------- the page

function startCharts() {
  const source = document.getElementById("data");
  if (!source) return;
  const groups = JSON.parse(source.textContent);
  const charts = [...document.querySelectorAll(".chart")].map(
    (figure) => new Chart(figure, groups[figure.dataset.group].charts[figure.dataset.chart]),
  );
  const controls = document.querySelector(".controls");
  const redraw = () => {
    state.axis = controls.elements.axis.value;
    state.smoothing = Number(controls.elements.smoothing.value);
    charts.forEach((chart) => chart.draw());
  };
  controls.addEventListener("input", redraw);
  redraw(); // a browser may have kept the controls of an earlier visit
}

function startPictures() {
  const box = document.getElementById("lightbox");
  for (const button of document.querySelectorAll(".enlarge, .picture")) {
    button.addEventListener("click", () => {
      const image = button.querySelector("img");
      Object.assign(box.querySelector("img"), { src: image.src, alt: image.alt, className: image.className });
      box.showModal();
    });
  }
  if (box) box.addEventListener("click", () => box.close());
}

function startFilter() {
  const filter = document.querySelector(".filter");
  if (!filter) return;
  const rows = [...document.querySelectorAll(".config tbody tr")];
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    rows.forEach((row) => (row.hidden = !row.textContent.toLowerCase().includes(wanted)));
    document.querySelector(".none").hidden = rows.some((row) => !row.hidden);
  });
}

startCharts();
startPictures();
startFilter();
