// What a version would have answered: agreement, how far apart, and the worst cases, each with its prediction's id.

import { get, modelPath } from "../api.js";
import { bars, milliseconds, number, percent } from "../charts.js";
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

function selected({ model }) {
  if (!model) return null;
  const { flags, versions } = model;
  const others = versions.map((one) => one.name).filter((name) => name !== flags.production);
  return chosen ?? flags.shadow_versions.find((name) => name !== flags.production) ?? flags.candidate ?? others[0] ?? null;
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
    }, here.model.versions.map(({ name }) => h("option", { key: name, value: name, selected: name === version }, name))));
}

function comparison(here, shadow) {
  return [
    card("Agreement with production",
      figures([
        ["pairs", number(shadow.n)],
        ["agree", percent(shadow.agreement_rate)],
        ["failed as shadow", number(shadow.failures.shadow)],
      ]),
      shadow.agreement_rate != null && h("p", { class: "note" },
        `95 % interval ${shadow.agreement_interval.map(percent).join(" to ")}; ` +
        (shadow.noise_floor ? `the same version asked twice agrees in ${percent(shadow.noise_floor.agreement_rate)}` : "how often a version agrees with itself is not known")),
      shadow.newest_only && h("p", { class: "note" }, "Of the newest pairs only; there are more.")),
    card("Size of the difference", differences(shadow)),
    card("Latency", table([
      { name: "", of: (row) => row.name },
      ...["p50", "p90", "p99"].map((quantile) => ({ name: quantile, numeric: true, of: (row) => milliseconds(row[quantile]) })),
    ], ["production", "shadow"].map((name) => ({ name, ...shadow.latency_ms[name] })))),
    card("Right and wrong on the same labelled requests", judged(shadow.labelled)),
    h("section", { class: "card wide" }, h("h2", null, "Furthest apart"), worst(here, shadow.worst)),
  ];
}

function differences({ differences: count, absolute_quantiles: quantiles, tails, mean_difference: mean }) {
  if (!count) return h("p", { class: "empty" }, "no numbers to compare; labels agree or differ");
  return [
    bars({
      title: "Share of pairs further apart than",
      rows: Object.entries(tails).sort(([a], [b]) => a - b).map(([tau, share]) => ({ name: tau, ratio: share, words: percent(share), bad: false })),
      whole: true,
    }),
    h("p", { class: "note" }, `mean ${number(mean)}; half of all pairs within ${number(quantiles["0.5"])}, 99 % within ${number(quantiles["0.99"])}`),
  ];
}

function judged(labelled) {
  if (!labelled) return h("p", { class: "empty" }, "no outcomes for compared requests yet");
  const names = Object.keys(labelled.production).filter((name) => labelled.production[name].value != null || labelled.shadow[name]?.value != null);
  return table([
    { name: "Metric", of: (name) => name },
    { name: "production", numeric: true, of: (name) => number(labelled.production[name].value) },
    { name: "shadow", numeric: true, of: (name) => number(labelled.shadow[name]?.value) },
  ], names, { caption: `${number(labelled.n)} labelled requests`, key: (name) => name });
}

function worst(here, cases) {
  const open = async (id) => {
    opened = { id };
    here.show();
    opened = { id, ...(await get(`/predictions/${encodeURIComponent(id)}`).then((record) => ({ record }), (error) => ({ error }))) };
    here.show();
  };
  return [
    table([
      { name: "Prediction", of: (row) => h("button", { type: "button", class: "quiet mono", "aria-expanded": opened?.id === row.prediction_id, onclick: () => open(row.prediction_id) }, row.prediction_id) },
      { name: "Difference", numeric: true, of: (row) => number(row.difference) },
      { name: "Why", of: (row) => row.reason },
    ], cases, { empty: "no pair disagrees", key: (row) => row.prediction_id }),
    opened && record(opened),
  ];
}

function record({ id, record: found, error }) {
  if (error) return h("p", { class: "message bad" }, error.message);
  if (!found) return h("p", { class: "empty" }, "asking the gateway …");
  return h("section", { class: "record", "aria-label": `Prediction ${id}` },
    h("h3", null, "The whole record"), h("pre", null, JSON.stringify(found, null, 2)));
}
