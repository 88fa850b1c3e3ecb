// All models at a glance: is anything being rolled out, is anything wrong?

import { milliseconds, number, percent, split } from "../charts.js";
import { h } from "../dom.js";
import { badge, table, waiting } from "../pieces.js";
import { metricsPath, nowAnswering, ratesOf, readMetrics } from "./traffic.js";

export const overviewView = {
  title: "Models",

  paths: () => metricsPath,

  arrived(name, here) {
    if (name === "metrics") readMetrics(here);
  },

  draw({ data, live, models }) {
    if (!data.models) return waiting(live, "models");
    if (models.length === 0) return h("p", { class: "empty" }, "The configuration has no models.");
    return [h("div", { class: "title" }, h("h1", null, "Models")), h("div", { class: "grid thirds" }, models.map(modelCard))];
  },
};

function modelCard(model) {
  const { flags, versions, name } = model;
  const tones = Object.fromEntries(versions.map((version, index) => [version.name, index % 6]));
  const { parts, perSecond } = nowAnswering(name, (version) => tones[version] ?? 5);
  const shadows = flags.shadow_enabled ? flags.shadow_versions : [];
  return h("a", { class: "card", key: name, href: `#/models/${encodeURIComponent(name)}` },
    h("div", { class: "row spread" }, h("h2", null, name), statusBadge(flags)),
    split({
      title: "Who answers clients now",
      parts,
      note: `${number(perSecond, perSecond < 10 ? 1 : 0)} requests a second; production ${flags.production}` +
        (shadows.length ? `; shadow ${shadows.join(", ")}` : ""),
    }),
    roles(name));
}

function statusBadge(flags) {
  if (flags.candidate && flags.canary_enabled) return badge(`${flags.candidate} at ${flags.canary_percent} %`, "warn");
  if (flags.disabled_versions.length) return badge(`${flags.disabled_versions.join(", ")} disabled`, "warn");
  return badge("steady", "good");
}

function roles(model) {
  return table([
    { name: "Version", of: (row) => row.version },
    { name: "as", of: (row) => row.role },
    { name: "a second", numeric: true, of: (row) => number(row.perSecond, 1) },
    { name: "errors", numeric: true, of: (row) => percent(row.errorRate) },
    { name: "p99", numeric: true, of: (row) => milliseconds(row.p99) },
  ], ratesOf(model).filter((row) => row.perSecond > 0), { key: (row) => `${row.version} ${row.role}`, empty: "no requests now" });
}
