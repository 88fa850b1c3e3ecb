// The charts: plain SVG that stretches to its box, with every word in HTML beside it so that text stays legible at any
// width. Each chart carries its figures in its label for people who do not see it. No chart may invent a point: a gap
// in the data is a gap in the line.

import { h } from "./dom.js";

const WIDTH = 1000;
const HEIGHT = 200;

/**
 * Lines over time. `series`: [{name, tone, points: [[seconds, value|null]]}], tones 0–5 are the colours and dashes of versions.
 * `threshold`: {value, name}; what lies beyond it is shaded. `format` turns a value into text.
 */
export function lines({ title, series, format, threshold, minimum = 0, atLeast = 0 }) {
  const points = series.flatMap((one) => one.points).filter(([, value]) => value != null);
  if (points.length === 0) return empty(title, "no data yet");
  const last = series.map((one) => `${one.name} ${format(lastValue(one.points))}`);
  return figure(title, `${title}: ${last.join(", ")}`, [
    plot({ series, points, format, threshold, minimum, atLeast }),
    legend([...series.map((one, index) => ({ key: one.name, mark: line(`line tone-${one.tone}`), text: last[index] })),
      ...(threshold ? [{ key: "threshold", mark: line("threshold", true), text: threshold.name }] : [])]),
  ]);
}

function plot({ series, points, format, threshold, minimum, atLeast }) {
  const to = Math.max(...points.map(([time]) => time));
  const from = Math.min(...points.map(([time]) => time), to - 10);
  const top = niceCeiling(Math.max(atLeast, (threshold?.value ?? 0) * 1.05, ...points.map(([, value]) => value)));
  const bottom = Math.min(minimum, ...points.map(([, value]) => value));
  const x = (time) => ((time - from) / (to - from)) * WIDTH;
  const tick = (value) => format(value).replace(/\.0(?= )/, "");
  const y = (value) => HEIGHT - ((value - bottom) / (top - bottom || 1)) * HEIGHT;
  return h("div", { class: "plot" },
    h("div", { class: "scale" }, h("span", null, tick(top)), h("span", null, tick(bottom))),
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      threshold && h("rect", { class: "beyond", x: 0, width: WIDTH, y: 0, height: y(threshold.value) }),
      [0, 0.5, 1].map((part) => h("line", { class: "grid", x1: 0, x2: WIDTH, y1: part * HEIGHT, y2: part * HEIGHT })),
      threshold && h("line", { class: "threshold", x1: 0, x2: WIDTH, y1: y(threshold.value), y2: y(threshold.value) }),
      series.map((one) => h("path", { key: one.name, class: `line tone-${one.tone}`, d: path(one.points, x, y) }))),
    h("div", { class: "ends" }, h("span", null, when(from, to)), h("span", null, when(to, to))));
}

function path(points, x, y) {
  let pen = "M";
  let text = "";
  for (const [time, value] of points) {
    if (value == null) {
      pen = "M";
      continue;
    }
    text += `${pen}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  }
  return text;
}

/** Who has which share: now as one bar cut into `parts` [{name, tone, share 0..1}], and over time as `series` where there is any. */
export function shares({ title, parts, series = [], note }) {
  const described = parts.map((part) => `${part.name} ${percent(part.share)}`);
  const points = series.flatMap((one) => one.points).filter(([, value]) => value != null);
  const mark = (tone) => (points.length ? line(`line tone-${tone}`) : swatch(tone));
  return figure(title, `${title}: ${described.join(", ") || "no traffic"}`, [
    h("div", { class: "split" },
      parts.map((part) => h("span", { key: part.name, class: `tone-${part.tone}`, styles: { width: `${part.share * 100}%` } }))),
    points.length > 0 && plot({ series, points, format: percent, minimum: 0, atLeast: 1 }),
    legend(parts.map((part, index) => ({ key: part.name, mark: mark(part.tone), text: described[index] }))),
    note && h("p", { class: "note" }, note),
  ]);
}

/** A value on its way to a threshold. `ratio` may pass 1; `words` say both. */
export function gauge({ title, ratio, words, bad }) {
  const filled = Math.max(0, Math.min(ratio ?? 0, 1.25)) / 1.25;
  return figure(title, `${title}: ${words}`, [
    h("div", { class: `gauge ${bad ? "bad" : ""}` },
      h("span", { class: "filled", styles: { width: `${filled * 100}%` } }),
      h("span", { class: "mark" })),
    h("p", { class: "note" }, words),
  ]);
}

/** Values with intervals on one scale: [{name, tone, value, low, high}]. */
export function intervals({ title, rows, format, reference }) {
  const known = rows.filter((row) => row.value != null);
  if (known.length === 0) return empty(title, "no version has enough mature outcomes yet");
  const ends = known.flatMap((row) => [row.low ?? row.value, row.high ?? row.value]).concat(reference ? [reference.value] : []);
  const spread = Math.max(...ends) - Math.min(...ends) || 0.1;
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  const from = least >= 0 ? Math.max(0, least - spread * 0.1) : least - spread * 0.1; // no axis beyond what a share can be
  const to = most <= 1 ? Math.min(1, most + spread * 0.1) : most + spread * 0.1;
  const at = (value) => `${(((value - from) / (to - from)) * 100).toFixed(2)}%`;
  const described = known.map((row) => `${row.name} ${format(row.value)}`).join(", ");
  return figure(title, `${title}: ${described}`, [
    h("div", { class: "intervals" }, known.map((row) => h("div", { key: row.name, class: "interval" },
      h("span", { class: "name" }, row.name),
      h("span", { class: "track" },
        reference && h("i", { class: "reference", styles: { left: at(reference.value) } }),
        row.low != null && h("i", { class: `range tone-${row.tone}`, styles: { left: at(row.low), right: `${100 - parseFloat(at(row.high))}%` } }),
        h("i", { class: `dot tone-${row.tone}`, styles: { left: at(row.value) } })),
      h("span", { class: "figure" }, row.low == null ? format(row.value) : `${format(row.value)} (${format(row.low)} – ${format(row.high)})`))),
      h("div", { class: "interval", key: "scale of all" }, h("span", { class: "name" }), h("span", { class: "ends" }, h("span", null, format(from)), h("span", null, format(to))), h("span", { class: "figure" }))),
    reference && legend([{ key: "reference", mark: h("i", { class: "swatch reference", "aria-hidden": "true" }), text: `${reference.name} ${format(reference.value)}` }]),
  ]);
}

/** Bars from 0: [{name, key?, ratio, words, bad}]. Ratio 1 is the threshold, or with `whole` the end of the bar. */
export function bars({ title, rows, whole = false }) {
  if (rows.length === 0) return empty(title, "nothing to compare yet");
  const longest = whole ? 1 : Math.max(1.1, ...rows.map((row) => row.ratio));
  const over = rows.filter((row) => row.bad).length;
  const label = whole ? rows.map((row) => `${row.name} ${row.words}`).join(", ") : `${over} of ${rows.length} over the threshold`;
  return figure(title, `${title}: ${label}`, [
    h("div", { class: "bars" }, rows.map((row) => h("div", { key: row.key ?? row.name, class: `bar ${row.bad ? "bad" : ""}` },
      h("span", { class: "name", title: row.name }, row.name),
      h("span", { class: "track" },
        h("i", { class: "filled", styles: { width: `${(row.ratio / longest) * 100}%` } }),
        !whole && h("i", { class: "reference", styles: { left: `${100 / longest}%` } })),
      h("span", { class: "figure" }, row.words)))),
  ]);
}

/** `items`: [{key, mark, text}]. A mark looks like what it stands for. */
function legend(items) {
  return h("ul", { class: "legend" }, items.map((item) => h("li", { key: item.key }, item.mark, item.text)));
}

export const swatch = (tone) => h("i", { class: `swatch tone-${tone}`, "aria-hidden": "true" });

function line(kind, shaded = false) {
  return h("svg", { class: "key", viewBox: "0 0 26 10", "aria-hidden": "true" },
    shaded && h("rect", { class: "beyond", x: 0, y: 0, width: 26, height: 5 }),
    h("line", { class: kind, x1: 0, x2: 26, y1: 5, y2: 5 }));
}

function figure(title, label, content) {
  return h("figure", { class: "chart" }, h("figcaption", null, title), h("div", { role: "img", "aria-label": label }, content));
}

function empty(title, why) {
  return h("figure", { class: "chart" }, h("figcaption", null, title), h("p", { class: "empty" }, why));
}

/** How long ago, on an axis that ends now; else the time of day. */
function when(time, end) {
  return Date.now() / 1000 - end < 10 ? ago(time) : new Date(time * 1000).toLocaleTimeString("en-GB");
}

function ago(time) {
  const seconds = Date.now() / 1000 - time;
  if (seconds < 5) return "now";
  if (seconds < 120) return `${Math.round(seconds)} s ago`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
}

function lastValue(points) {
  return points.length ? points[points.length - 1][1] : null;
}

function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((step) => step >= value * 0.9999) ?? 10 * unit;
}

/** 0.0512 → "5.1 %". */
export function percent(share) {
  if (share == null || Number.isNaN(share)) return "–";
  const value = share * 100;
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value < 1 ? value.toFixed(2) : value.toFixed(1)} %`;
}

/** Milliseconds with as many digits as they deserve. */
export function milliseconds(value) {
  if (value == null || Number.isNaN(value)) return "–";
  return value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${value >= 100 ? value.toFixed(0) : value.toFixed(1)} ms`;
}

/** A figure without a unit; whole numbers without digits behind the point. */
export function number(value, digits = 3) {
  if (value == null || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  return (Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(digits)).replace("-", "−");
}

/** A figure of a column in which all have three digits behind the point. */
export const fixed = (value) => (value == null ? "–" : value.toFixed(3).replace("-", "−"));

/** Seconds as people say them: "45 s", "12 min", "3 h", "30 days". */
export function duration(seconds) {
  if (seconds == null) return "–";
  const [size, unit] = [[172_800, "days"], [7200, "h"], [120, "min"]].find(([least]) => seconds >= least) ?? [0, "s"];
  const value = seconds / { days: 86_400, h: 3600, min: 60, s: 1 }[unit];
  return `${number(size ? Math.round(value * 10) / 10 : Math.round(value), 1)} ${unit}`;
}
