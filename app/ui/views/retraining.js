// Should the model be retrained, why, and how urgently; and what has been decided before.

import { call, modelPath } from "../api.js";
import { number } from "../charts.js";
import { h } from "../dom.js";
import { badge, card, moment, table, waiting } from "../pieces.js";

export const retrainingView = {
  title: "Retraining",
  paths: ({ name }) => ({ retraining: { path: modelPath(name, "/retraining"), every: 4 } }),
  draw({ data, live }) {
    return data.retraining ? h("div", { class: "grid" }, JSON.stringify(data.retraining)) : waiting(live, "retraining");
  },
};
