// How right each version was, by outcomes old enough to be complete; estimates stand apart and are named so.

import { modelPath } from "../api.js";
import { duration, fixed, intervals, number, percent } from "../charts.js";
import { h } from "../dom.js";
import { moment, table, waiting } from "../pieces.js";

// Which metric decides about retraining where none is configured.
const DEFAULT_METRIC = { binary: "f1", multiclass: "f1_macro", regression: "rmse" };
const ECE_NOISE = "ece_noise"; // not how good a version is, but how large ece is for a version without any fault

export const performanceView = {
  title: "Performance",

  paths: ({ name }) => ({
    performance: { path: modelPath(name, "/performance"), every: 3 },
    baseline: { path: modelPath(name, "/baseline"), every: 30 },
  }),

  draw(here) {
    const { data, live } = here;
    if (!data.performance) return waiting(live, "performance");
    const { versions } = data.performance;
    const known = metricNames(versions).filter((metric) => versions.some((one) => one.metrics[metric]?.value != null));
    return h("div", { class: "grid" },
      known.length === 0 && h("section", { class: "card wide", key: "nothing" }, h("h2", null, "Nothing to judge yet"), untold(data.performance)),
      known.map((metric) => h("section", { class: "card", key: metric }, metricChart(here, versions, metric))),
      h("section", { class: "card wide", key: "coverage" }, h("h2", null, "Coverage"), coverage(versions)),
      h("section", { class: "card wide", key: "estimates" }, h("h2", null, "Estimates for predictions too young to judge"), estimates(versions)));
  },
};

function metricNames(versions) {
  return [...new Set(versions.flatMap((one) => Object.keys(one.metrics)))].filter((name) => name !== ECE_NOISE);
}

/** Why there is no figure at all: nobody has asked, nothing is old enough, or too little came back. */
function untold({ versions, horizon_s: horizon }) {
  if (versions.length === 0) return h("p", null, "No prediction in the last 30 days.");
  if (versions.some((one) => one.mature > 0)) return h("p", null, "There are mature predictions, but too few outcomes of them: see coverage below.");
  // The ages are told in tenths of the sampled span; the oldest part is good to one of them.
  const oldest = Math.max(0, ...versions.flatMap((one) => (one.coverage_by?.age ?? []).map(({ part }) => parseFloat(part))));
  const first = new Date(Date.now() + (horizon - oldest) * 1000);
  return h("p", null, `An outcome is known for sure ${duration(horizon)} after its prediction (labels.horizon_s), and no prediction is that old. The first will be about `,
    moment(first), ".");
}

/** A metric at training time as the retraining decision knows it: of the version itself, of the uploaded baseline, of the configuration. */
function atTraining({ data, model }, metric) {
  const { retraining, task } = model.configuration;
  const own = model.versions.find((one) => one.name === model.flags.production)?.metadata[metric];
  const configured = (retraining.metric ?? DEFAULT_METRIC[task]) === metric ? retraining.baseline : null;
  const found = [own, data.baseline?.metrics?.[metric], configured].map((value) => (value == null || value === "" ? NaN : Number(value)));
  return found.find((value) => !Number.isNaN(value));
}

function metricChart(here, versions, metric) {
  const value = atTraining(here, metric);
  const noise = versions.map((one) => [one.version, one.metrics[ECE_NOISE]?.value]).filter(([, floor]) => floor != null);
  return [
    intervals({
      title: metric,
      rows: versions.filter((one) => one.metrics[metric]).map((one) => ({ ...one.metrics[metric], name: one.version, tone: here.tone(one.version) })),
      format: fixed,
      reference: value == null ? null : { value, name: "at training" },
    }),
    metric === "ece" && noise.length > 0 && h("p", { class: "note" }, `By chance alone a perfectly calibrated version shows ${noise.map(([name, floor]) => `${fixed(floor)} (${name})`).join(", ")}.`),
  ];
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
  const missing = [...new Set([
    ...rows.filter((row) => row.value == null && row.reason).map((row) => `${row.version}, ${row.how}: ${row.reason}`),
    ...versions.filter((one) => one.provisional?.reason).map((one) => `${one.version}: ${one.provisional.reason}`),
  ])];
  return [
    table([
      { name: "Version", of: (row) => row.version },
      { name: "Metric", of: (row) => row.name },
      { name: "Estimate", numeric: true, of: (row) => fixed(row.value) },
      { name: "from", numeric: true, of: (row) => fixed(row.low) },
      { name: "to", numeric: true, of: (row) => fixed(row.high) },
      { name: "Predictions", numeric: true, of: (row) => number(row.rows) },
      { name: "How", of: (row) => row.how },
    ], known, { empty: "none", key: (row) => `${row.version} ${row.how} ${row.name}` }),
    missing.length > 0 && h("div", { class: "note" }, h("p", null, "No estimate where too little is known:"), h("ul", null, missing.map((text) => h("li", { key: text }, `${text}.`)))),
  ];
}

function withheld({ metrics, newest_only: newestOnly, unusable }) {
  const reasons = [...new Set(Object.values(metrics).filter((one) => one.value == null).map((one) => one.reason))];
  const unread = Object.entries(unusable).map(([reason, count]) => `${number(count)} rows: ${reason}`);
  return [...reasons, ...unread, ...(newestOnly ? ["of the newest rows only"] : [])].join("; ") || "–";
}
