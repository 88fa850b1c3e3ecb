// Which inputs look different from the reference, feature by feature, the furthest over its threshold first.

import { modelPath } from "../api.js";
import { bars, number } from "../charts.js";
import { h } from "../dom.js";
import { badge, facts, moment, sentence, table, waiting } from "../pieces.js";

const VERDICTS = { drift: ["drift", "bad"], stable: ["stable", "good"], no_data: ["not enough data", ""] };

export const driftView = {
  title: "Drift",

  paths: ({ name }) => ({ drift: { path: modelPath(name, "/drift"), every: 4 } }),

  draw({ name, data, live }) {
    if (!data.drift) return waiting(live, "drift");
    const { results, reason, detected, severity, rows, version, baseline } = data.drift;
    const ranked = [...results].sort((a, b) => ratio(b) - ratio(a));
    const tested = ranked.filter((row) => row.threshold > 0 && row.verdict !== "no_data");
    return h("div", { class: "grid" },
      h("section", { class: "card wide" },
        h("div", { class: "row spread" }, h("h2", null, `Inputs and answers of ${version}, last day`),
          badge(detected == null ? "not known" : detected ? "drift" : "stable", detected ? "bad" : detected == null ? "" : "good")),
        reason && h("p", { class: "message" }, sentence(reason).replaceAll("{model}", encodeURIComponent(name))),
        baseline && facts([
          ["rows compared", number(rows)],
          ["reference", [baseline.source, ", ", moment(baseline.at)]],
          ["largest PSI", detected == null ? "–" : number(severity)],
        ])),
      // Without a reference there is nothing to be found, and so nothing to be shown as found or not.
      baseline && h("section", { class: "card wide", key: "furthest" },
        bars({
          title: "Statistic against its threshold (the red line), the twenty furthest",
          rows: tested.slice(0, 20).map((row) => ({
            name: row.window === "day" ? named(row) : `${named(row)}, ${row.window}`, key: `${row.feature} ${row.test} ${row.window}`, ratio: ratio(row), bad: row.verdict === "drift",
            words: `${row.test} ${number(row.statistic)} of ${number(row.threshold)}`,
          })),
        }),
        h("p", { class: "note" }, "Drift warns and asks for a look at the outcomes; it never rolls anything back by itself.")),
      baseline && h("section", { class: "card wide", key: "findings" },
        h("h2", null, "Findings"),
        tests(ranked.filter((row) => row.verdict === "drift"), "none"),
        h("details", null, h("summary", null, `All ${ranked.length} tests`),
          tests(ranked, "no reference data yet"))));
  },
};

function tests(rows, empty) {
  return table([
    { name: "Feature", of: named },
    { name: "Test", of: (row) => row.test },
    { name: "Window", of: (row) => row.window },
    { name: "Statistic", numeric: true, of: (row) => number(row.statistic) },
    { name: "Threshold", numeric: true, of: (row) => number(row.threshold) },
    { name: "n", numeric: true, of: (row) => number(row.n) },
    { name: "Verdict", of: (row) => badge(...(VERDICTS[row.verdict] ?? [row.verdict])) },
    { name: "Why", of: (row) => row.reason },
  ], rows, { key: (row) => `${row.feature} ${row.test} ${row.window}`, empty });
}

function ratio({ statistic, threshold }) {
  return threshold > 0 ? statistic / threshold : 0;
}

/** The prediction is judged beside the features, under a name that no feature can have. */
const named = ({ feature }) => (feature === "$prediction" ? "the prediction itself" : feature);
