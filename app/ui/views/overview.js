// All models at a glance: is it safe to let the next version in, is anything being rolled out, is anything wrong?

import { modelPath } from "../api.js";
import { milliseconds, number, percent, shares, swatch } from "../charts.js";
import { h } from "../dom.js";
import { announce, badge, figures, healthBadge, sentence, table, waiting } from "../pieces.js";
import { evidenceGauge, stages } from "./rollout.js";
import { metricsPath, nowAnswering, ratesOf, readMetrics } from "./traffic.js";

const MOST = 12; // models whose last rollout is read as well
const told = new Map();

export const overviewView = {
  title: "Models",

  paths: ({ models }) => ({
    ...metricsPath,
    ready: { path: "/readyz", every: 2, on: ["gateway"] },
    ...Object.fromEntries(models.slice(0, MOST).map(({ name }) => [`last/${name}`, { path: modelPath(name, "/rollouts?limit=1"), every: 10, on: ["rollout"] }])),
  }),

  arrived(name, here) {
    if (name === "metrics") readMetrics(here);
    if (name !== "models") return;
    for (const model of here.models) {
      const { word, text } = answer(model, here.data);
      if (told.has(model.name) && told.get(model.name) !== word) announce(`${model.name}: ${word}. ${text}`);
      told.set(model.name, word);
    }
  },

  draw(here) {
    const { data, live, models } = here;
    if (!data.models) return waiting(live, "models");
    if (models.length === 0) return h("p", { class: "empty" }, "The configuration has no models.");
    return [
      h("div", { class: "title" }, h("h1", null, "Models")),
      summary(here),
      // What fails stands first, however many models there are.
      h("div", { class: "grid loose" }, [...models].sort((a, b) => (troubled(b) ? 1 : 0) - (troubled(a) ? 1 : 0)).map((model) => modelCard(here, model))),
    ];
  },
};

function summary({ data, models }) {
  const open = models.filter((model) => model.rollout).length;
  const tripped = models.flatMap((model) => model.health.filter((row) => row.guard_tripped)).length;
  const down = data.ready?.degraded ?? [];
  return figures([
    ["models", number(models.length)],
    ["rollouts under way", number(open)],
    ["guards tripped", tripped ? h("span", { class: "bad" }, number(tripped)) : number(tripped)],
    ["requests a second", number(models.reduce((sum, { name }) => sum + nowAnswering(name, () => 0).perSecond, 0), 0)],
    ["dependencies", !data.ready ? "–" : down.length ? h("span", { class: "bad" }, `${down.join(", ")} down`) : "all up"],
  ]);
}

const troubled = ({ flags, health }) => health.find((row) => row.version === flags.production && row.role === "production" && row.guard_tripped);

/** "Safe to let the next one in?", in a word, a sentence and a tone, from what the gateway decided: nothing is judged here. */
function answer(model, data) {
  const { name, rollout, flags } = model;
  const trouble = troubled(model);
  if (rollout) {
    const who = `${rollout.candidate} at ${rollout.percent} %`;
    const reason = rollout.verdict?.reason ?? rollout.reason;
    if (rollout.state === "promoted") return { word: "Yes", text: `${rollout.candidate} is production and still watched. ${sentence(reason)}`, tone: "good" };
    if (rollout.state === "paused") return { word: "Paused", text: `${who}: ${reason}`, tone: "warn" };
    if (rollout.verdict?.health === "degraded") return { word: "No", text: `${who}: ${reason}`, tone: "bad" };
    if (rollout.verdict?.health === "healthy") return { word: "So far yes", text: `${who}: ${reason}`, tone: "good" };
    return { word: "Not yet", text: `${who}: ${reason}`, tone: "warn" };
  }
  if (trouble) return { word: "No", text: `production ${flags.production} itself: ${trouble.guard_reason}`, tone: "bad" };
  const last = data[`last/${name}`]?.rollouts?.[0];
  if (flags.candidate && flags.canary_enabled) return { word: "By hand", text: `${flags.candidate} at ${flags.canary_percent} %, set by flags: nothing is judged.`, tone: "warn" };
  if (last?.state === "rolled_back") return { word: "Kept out", text: `${last.candidate}: ${last.reason}`, tone: "bad" };
  if (last?.state === "promoted") return { word: "Let in", text: `${last.candidate}: ${last.reason}`, tone: "good" };
  return { word: "Nobody waits", text: `No rollout yet; ${flags.production} answers everything.`, tone: "" };
}

function modelCard(here, model) {
  const { flags, versions, name, rollout } = model;
  const tones = Object.fromEntries(versions.map((version, index) => [version.name, index % 6]));
  const tone = (version) => tones[version] ?? 5;
  const { parts, perSecond } = nowAnswering(name, tone);
  const shadows = flags.shadow_enabled ? flags.shadow_versions : [];
  const { word, text, tone: mood } = answer(model, here.data);
  const series = versions.map((version) => ({ name: version.name, tone: tone(version.name), points: here.history.points(`${name}/${version.name}/share`) }))
    .filter((one) => one.points.some(([, value]) => value > 0));
  // A single version's share is no news: the line is drawn while there is something to follow.
  const followed = series.length > 1 ? series : [];
  const answering = shares({
    title: "Who answers clients",
    parts,
    series: followed,
    note: `${number(perSecond, perSecond < 10 ? 1 : 0)} requests a second; production ${flags.production}` +
      (shadows.length ? `; shadow ${shadows.join(", ")}` : ""),
  });
  return h("section", { class: `card model ${troubled(model) ? "alarm" : ""}`, key: name, "aria-labelledby": `model-${name}` },
    h("div", { class: "row spread" },
      h("h2", { id: `model-${name}` }, h("a", { href: `#/models/${encodeURIComponent(name)}/${rollout ? "rollout" : "traffic"}` }, name)),
      h("span", { class: "row" }, statusBadges(model))),
    h("p", { class: `answer ${mood}` }, h("span", { class: "question" }, "Safe to let the next one in? "), h("strong", null, `${word}.`), ` ${text}`),
    h("div", { class: "halves" },
      h("div", { key: "way" }, rollout && [stages(rollout), evidenceGauge(rollout)], rollout ? roles(name, tone) : answering),
      h("div", { key: "others" }, rollout ? answering : roles(name, tone))));
}

function statusBadges(model) {
  const { flags } = model;
  const badges = [];
  if (flags.candidate && flags.canary_enabled) badges.push(badge(`${flags.candidate} at ${flags.canary_percent} %`, "warn"));
  if (flags.disabled_versions.length) badges.push(badge(`${flags.disabled_versions.join(", ")} disabled`, "bad"));
  if (!flags.durable) badges.push(badge("change not stored yet", "warn"));
  if (badges.length === 0 || troubled(model)) badges.unshift(healthBadge(model));
  return badges;
}

function roles(model, tone) {
  return table([
    { name: "Version", of: (row) => [swatch(tone(row.version)), row.version] },
    { name: "as", of: (row) => row.role },
    { name: "a second", numeric: true, of: (row) => number(row.perSecond, 1) },
    { name: "errors", numeric: true, of: (row) => percent(row.errorRate) },
    { name: "p99", numeric: true, of: (row) => milliseconds(row.p99) },
  ], ratesOf(model).filter((row) => row.perSecond > 0), { slim: true, key: (row) => `${row.version} ${row.role}`, empty: "no requests now" });
}
