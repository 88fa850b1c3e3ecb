// Live traffic: who answers, how often it fails, how long it takes, by version.

import { modelPath } from "../api.js";
import { lines, milliseconds, number, percent, shares, swatch } from "../charts.js";
import { h } from "../dom.js";
import { Rates } from "../metrics.js";
import { badge, table, waiting } from "../pieces.js";

const rates = new Rates();
export const metricsPath = { metrics: { path: "/metrics", every: 1 } };

/** Takes in a reading of /metrics and remembers each model's figures for the charts. */
export function readMetrics({ data, history, models }) {
  rates.add(data.metrics);
  for (const { name, versions } of models) {
    const rows = rates.of(name);
    const all = clientRate(rows);
    for (const version of versions) {
      const mine = rows.filter((row) => row.version === version.name && row.toClients);
      const busiest = mine.reduce((best, row) => (row.perSecond > (best?.perSecond ?? 0) ? row : best), undefined);
      const key = `${name}/${version.name}`;
      history.add(`${key}/share`, all ? clientRate(mine) / all : null);
      history.add(`${key}/errors`, errorRate(mine));
      history.add(`${key}/p50`, busiest?.p50 ?? null);
      history.add(`${key}/p99`, busiest?.p99 ?? null);
    }
  }
}

/** What each version did in each role in the last seconds. */
export const ratesOf = (model) => rates.of(model);

/** Who answers clients now, as parts for `shares`, and the requests a second. */
export function nowAnswering(model, tone) {
  const rows = rates.of(model).filter((row) => row.toClients);
  const all = clientRate(rows);
  const versions = [...new Set(rows.map((row) => row.version))].sort();
  const parts = versions.map((name) => ({ name, tone: tone(name), share: all ? clientRate(rows.filter((row) => row.version === name)) / all : 0 }));
  return { parts: parts.filter((part) => part.share > 0), perSecond: all };
}

const clientRate = (rows) => rows.filter((row) => row.toClients).reduce((sum, row) => sum + row.perSecond, 0);

function errorRate(rows) {
  const asked = rows.reduce((sum, row) => sum + row.perSecond, 0);
  return asked ? rows.reduce((sum, row) => sum + row.perSecond * (row.errorRate ?? 0), 0) / asked : null;
}

export const trafficView = {
  title: "Traffic",

  paths: ({ name }) => ({ ...metricsPath, health: { path: modelPath(name, "/health"), every: 2 } }),

  arrived(name, here) {
    if (name === "metrics") readMetrics(here);
  },

  draw(here) {
    const { data, live, model, tone } = here;
    if (!data.metrics) return waiting(live, "metrics");
    const { parts, perSecond } = nowAnswering(here.name, tone);
    const series = (figure) => model.versions.map((version) => ({
      name: version.name,
      tone: tone(version.name),
      points: here.history.points(`${here.name}/${version.name}/${figure}`),
    })).filter((one) => one.points.some(([, value]) => value != null && (figure !== "share" || value > 0)));
    const { guard } = model.configuration;
    return h("div", { class: "grid thirds" },
      h("section", { class: "card wide" },
        shares({ title: "Who answers clients", parts, series: series("share"), note: `${number(perSecond, perSecond < 10 ? 1 : 0)} requests a second` })),
      h("section", { class: "card" }, lines({
        title: "Errors", series: series("errors"), format: percent, atLeast: 0.01,
        threshold: { value: guard.error_rate, name: `guard ${percent(guard.error_rate)}` },
      })),
      h("section", { class: "card" },
        lines({ title: "Latency of the slowest hundredth (p99)", series: series("p99"), format: milliseconds, atLeast: 1 })),
      h("section", { class: "card" },
        lines({ title: "Median latency", series: series("p50"), format: milliseconds, atLeast: 1 })),
      h("section", { class: "card wide" }, h("h2", null, "Each version in each role, last minute"),
        data.health ? healthTable(data.health, tone) : waiting(live, "health")));
  },
};

function healthTable(health, tone) {
  return table([
    { name: "Version", of: (row) => [swatch(tone(row.version)), row.version] },
    { name: "Role", of: (row) => row.role },
    { name: "Requests", numeric: true, of: (row) => number(row.requests) },
    { name: "Errors", numeric: true, of: (row) => percent(row.error_rate) },
    { name: "p50", numeric: true, of: (row) => milliseconds(row.latency_ms.p50) },
    { name: "p90", numeric: true, of: (row) => milliseconds(row.latency_ms.p90) },
    { name: "p99", numeric: true, of: (row) => milliseconds(row.latency_ms.p99) },
    { name: "Guard", of: guardBadge },
  ], health.versions, { key: (row) => `${row.version} ${row.role}`, empty: "no requests lately" });
}

function guardBadge({ guard_tripped: tripped, guard_reason: reason }) {
  if (tripped == null) return [badge("not known"), " ", h("span", { class: "note" }, reason)];
  return tripped ? [badge("tripped", "bad"), " ", reason] : badge("quiet", "good");
}
