// What a version would have answered: agreement, how far apart, and the worst cases, each with its prediction's id.

import { get, modelPath } from "../api.js";
import { lines, milliseconds, number, percent } from "../charts.js";
import { h } from "../dom.js";
import { card, figures, moment, table, waiting } from "../pieces.js";

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
  return h("div", { class: "row", key: "picker" },
    h("label", { class: "inline", for: "shadow-version" }, "Compared with production:"),
    h("select", {
      id: "shadow-version", class: "narrow",
      onchange: (event) => {
        chosen = event.target.value;
        here.follow();
      },
    }, here.model.versions.map(({ name }) => h("option", { key: name, value: name, selected: name === version }, name))));
}
