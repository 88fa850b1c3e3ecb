// How right each version was, by outcomes old enough to be complete; estimates stand apart and are named so.

import { modelPath } from "../api.js";
import { intervals, number, percent } from "../charts.js";
import { h } from "../dom.js";
import { card, table, waiting } from "../pieces.js";

export const performanceView = {
  title: "Performance",

  paths: ({ name }) => ({ performance: { path: modelPath(name, "/performance"), every: 3 } }),

  draw(here) {
    const { data, live } = here;
    if (!data.performance) return waiting(live, "performance");
    const { versions } = data.performance;
    return h("div", { class: "grid" },
      versions.length === 0 && card("Nothing to judge yet", h("p", null, `No prediction is older than the horizon of ${number(data.performance.horizon_s, 0)} s after which an outcome is known for sure.`)),
      metricNames(versions).map((metric) => h("section", { class: "card", key: metric }, metricChart(here, versions, metric))),
      h("section", { class: "card wide" }, h("h2", null, "Coverage"), coverage(versions)),
      h("section", { class: "card wide" }, h("h2", null, "Estimates for predictions too young to judge"), estimates(versions)));
  },
};

function metricNames(versions) {
  return [...new Set(versions.flatMap((one) => Object.keys(one.metrics)))];
}

function metricChart({ tone, model }, versions, metric) {
  const { retraining } = model.configuration;
  return intervals({
    title: metric,
    rows: versions.filter((one) => one.metrics[metric]).map((one) => ({ ...one.metrics[metric], name: one.version, tone: tone(one.version) })),
    format: (value) => number(value, 3),
    reference: retraining.metric === metric && retraining.baseline != null ? { value: retraining.baseline, name: "at training" } : null,
  });
}

function coverage(versions) {
  return table([
    { name: "Version", of: (row) => row.version },
    { name: "Mature predictions", numeric: true, of: (row) => number(row.mature) },
    { name: "with an outcome", numeric: true, of: (row) => number(row.labelled) },
    { name: "coverage", numeric: true, of: (row) => percent(row.coverage) },
    { name: "Note", of: (row) => withheld(row) },
  ], versions, { empty: "no predictions yet", key: (row) => row.version });
}

const METHODS = { by_delay: "from early outcomes and how late they come", by_confidence: "from the confidences alone" };

/** Never beside the figures above: an estimate is not a measurement. */
function estimates(versions) {
  const rows = versions.flatMap(({ version, provisional }) => Object.keys(METHODS).flatMap((method) =>
    Object.values(provisional?.[method] ?? {}).map((figure) => ({ ...figure, version, how: METHODS[method], rows: provisional.rows }))));
  const known = rows.filter((row) => row.value != null);
  const reasons = [...new Set([...rows.filter((row) => row.value == null), ...versions.map((one) => one.provisional ?? {})].map((row) => row.reason).filter(Boolean))];
  return [
    table([
      { name: "Version", of: (row) => row.version },
      { name: "Metric", of: (row) => row.name },
      { name: "Estimate", numeric: true, of: (row) => number(row.value) },
      { name: "from", numeric: true, of: (row) => number(row.low) },
      { name: "to", numeric: true, of: (row) => number(row.high) },
      { name: "Predictions", numeric: true, of: (row) => number(row.rows) },
      { name: "How", of: (row) => row.how },
    ], known, { empty: "none", key: (row) => `${row.version} ${row.how} ${row.name}` }),
    reasons.length > 0 && h("p", { class: "note" }, `Withheld where ${reasons.join("; ")}.`),
  ];
}

function withheld({ metrics, newest_only: newestOnly, unusable }) {
  const reasons = [...new Set(Object.values(metrics).filter((one) => one.value == null).map((one) => one.reason))];
  const unread = Object.entries(unusable).map(([reason, count]) => `${number(count)} rows: ${reason}`);
  return [...reasons, ...unread, ...(newestOnly ? ["of the newest rows only"] : [])].join("; ") || "–";
}
