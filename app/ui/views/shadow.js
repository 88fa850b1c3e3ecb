// What a version would have answered: agreement, how far apart, and the worst cases, each with its prediction's id.

import { get, modelPath } from "../api.js";
import { bars, fixed, milliseconds, number, percent } from "../charts.js";
import { h } from "../dom.js";
import { card, figures, table, waiting } from "../pieces.js";

let chosen = null;
let opened = null;

export const shadowView = {
  title: "Shadow",

  leave() {
    chosen = null;
    opened = null;
  },

  paths(here) {
    const version = selected(here);
    return version ? { shadow: { path: modelPath(here.name, `/shadow?version=${encodeURIComponent(version)}`), every: 2 } } : {};
  },

  draw(here) {
    const version = selected(here);
    if (!version) return h("p", { class: "empty" }, "There is no other version than production.");
    const { shadow } = here.data;
    return [picker(here, version), shadow ? h("div", { class: "grid", key: version }, comparison(here, shadow)) : waiting(here.live, "shadow")];
  },
};

const others = ({ flags, versions }) => versions.map((one) => one.name).filter((name) => name !== flags.production);

function selected({ model }) {
  if (!model) return null;
  const { flags } = model;
  const known = others(model);
  if (known.includes(chosen)) return chosen;
  return flags.shadow_versions.find((name) => name !== flags.production) ?? flags.candidate ?? known[0] ?? null;
}

function picker(here, version) {
  return h("div", { class: "row picker", key: "picker" },
    h("label", { class: "inline", for: "shadow-version" }, "Compared with production:"),
    h("select", {
      id: "shadow-version", class: "narrow",
      onchange: (event) => {
        chosen = event.target.value;
        here.follow();
      },
    }, others(here.model).map((name) => h("option", { key: name, value: name, selected: name === version }, name))));
}

function comparison(here, shadow) {
  const binary = asLabels(here, shadow);
  return [
    h("div", { class: "stack" },
      card("Agreement with production",
        figures([
          ["pairs", number(shadow.n)],
          ["agree", percent(shadow.agreement_rate)],
          ["failed as shadow", number(shadow.failures.shadow)],
        ]),
        shadow.n === 0 && h("p", { class: "empty" }, "Nothing has been compared yet: no request was answered by both."),
        shadow.agreement_rate != null && h("p", { class: "note" },
          `95 % interval ${shadow.agreement_interval.map(percent).join(" to ")}; ` +
          (shadow.noise_floor ? `production asked twice agrees with itself in ${percent(shadow.noise_floor.agreement_rate)}` : "how often production agrees with itself is not known")),
        shadow.newest_only && h("p", { class: "note" }, "Of the newest pairs only; there are more.")),
      card("Latency", shadow.n === 0 ? h("p", { class: "empty" }, "nothing to compare yet") : table([
        { name: "", of: (row) => row.name },
        ...["p50", "p90", "p99"].map((quantile) => ({ name: quantile, numeric: true, of: (row) => milliseconds(row[quantile]) })),
      ], ["production", "shadow"].map((name) => ({ name, ...shadow.latency_ms[name] })), { slim: true }))),
    h("div", { class: "stack" },
      card(binary ? "Where the labels differ" : "Size of the difference", binary ? labels(shadow) : differences(shadow)),
      card("Right and wrong on the same labelled requests", judged(shadow.labelled))),
    h("section", { class: "card wide" }, h("h2", null, "Furthest apart"), worst(here, shadow)),
  ];
}

/** Two classes told as 0 and 1: each difference is 0 or 1, so its size says nothing, and its direction all. */
function asLabels({ model }, { differences: count, tails, worst }) {
  const apart = Object.entries(tails).filter(([tau]) => tau < 1).map(([, share]) => share);
  return model.configuration.task === "binary" && count > 0 && new Set(apart).size === 1 && worst.every((row) => Math.abs(row.difference) === 1);
}

function labels({ differences: count, tails, mean_difference: mean }) {
  const apart = Math.max(...Object.values(tails));
  const rows = [["production 0, shadow 1", (apart + mean) / 2], ["production 1, shadow 0", (apart - mean) / 2]];
  return [
    bars({
      title: "Share of pairs",
      rows: rows.map(([name, share]) => ({ name, ratio: share, words: `${percent(share)}, ${number(Math.round(share * count))} pairs`, bad: false })),
      whole: true,
    }),
    h("p", { class: "note" }, `${percent(1 - apart)} of ${number(count)} pairs have the same label.`),
  ];
}

function differences({ n, differences: count, absolute_quantiles: quantiles, tails, mean_difference: mean, worst }) {
  if (!count) return h("p", { class: "empty" }, n ? "no numbers to compare; labels agree or differ" : "nothing to compare yet");
  // Quantiles are good to a hundredth of their value; the largest difference is known exactly.
  const most = worst.length > 0 && worst[0].difference != null ? Math.abs(worst[0].difference) : Infinity;
  const within = (quantile) => number(quantiles[quantile] > most * 0.989 ? most : quantiles[quantile]);
  return [
    bars({
      title: "Share of pairs further apart than",
      rows: Object.entries(tails).sort(([a], [b]) => a - b).map(([tau, share]) => ({ name: tau, ratio: share, words: percent(share), bad: false })),
      whole: true,
    }),
    h("p", { class: "note" }, `mean ${number(mean)}; half of all pairs within ${within("0.5")}, 99 % within ${within("0.99")}`),
  ];
}

function judged(labelled) {
  if (!labelled) return h("p", { class: "empty" }, "no outcomes for compared requests yet");
  const names = Object.keys(labelled.production).filter((name) => name !== "ece_noise").filter((name) => labelled.production[name].value != null || labelled.shadow[name]?.value != null);
  return table([
    { name: "Metric", of: (name) => name },
    { name: "production", numeric: true, of: (name) => fixed(labelled.production[name].value) },
    { name: "shadow", numeric: true, of: (name) => fixed(labelled.shadow[name]?.value) },
  ], names, { caption: `${number(labelled.n)} labelled requests`, slim: true, key: (name) => name });
}

function worst(here, { worst: cases, compared }) {
  const open = async (id) => {
    opened = { id };
    here.show();
    opened = { id, ...(await get(`/predictions/${encodeURIComponent(id)}`).then((record) => ({ record }), (error) => ({ error }))) };
    here.show();
  };
  return [
    table([
      { name: "Prediction", of: (row) => h("button", { type: "button", class: "quiet mono", "aria-expanded": opened?.id === row.prediction_id, onclick: () => open(row.prediction_id) }, row.prediction_id) },
      { name: "production", numeric: true, of: (row) => told(row.prediction) },
      { name: "shadow", numeric: true, of: (row) => (typeof row.prediction === "number" && row.difference != null ? told(row.prediction + row.difference) : "–") },
      { name: "Difference", numeric: true, of: (row) => number(row.difference) },
      { name: "Why", of: (row) => (row.difference == null ? row.reason : "") },
    ].filter(({ name }) => name !== "Why" || cases.some((row) => row.difference == null)), cases, { slim: true, empty: compared ? "no pair disagrees" : "no pair has been compared yet", key: (row) => row.prediction_id }),
    opened && record(opened),
  ];
}

const told = (prediction) => (prediction == null ? "–" : typeof prediction === "object" ? JSON.stringify(prediction) : number(prediction));

function record({ id, record: found, error }) {
  if (error) return h("p", { class: "message bad" }, error.message);
  if (!found) return h("p", { class: "empty" }, "asking the gateway …");
  return h("section", { class: "record", "aria-label": `Prediction ${id}` },
    h("h3", null, "The whole record"), h("pre", null, JSON.stringify(found, null, 2)));
}
