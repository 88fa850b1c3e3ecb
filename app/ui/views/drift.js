// Which inputs look different from the reference, feature by feature, the furthest over its threshold first.

import { modelPath } from "../api.js";
import { bars, number } from "../charts.js";
import { h } from "../dom.js";
import { badge, card, table, waiting } from "../pieces.js";

export const driftView = {
  title: "Drift",
  paths: ({ name }) => ({ drift: { path: modelPath(name, "/drift"), every: 4 } }),
  draw({ data, live }) {
    return data.drift ? h("div", { class: "grid" }, JSON.stringify(data.drift)) : waiting(live, "drift");
  },
};
