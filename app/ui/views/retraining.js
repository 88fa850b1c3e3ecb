// Should the model be retrained, why, and how urgently; and what has been decided before.

import { call, modelPath } from "../api.js";
import { number, percent } from "../charts.js";
import { h } from "../dom.js";
import { announce, badge, facts, moment, table, waiting } from "../pieces.js";

const URGENCY = { critical: "bad", elevated: "warn", routine: "" };
let problem = "";

export const retrainingView = {
  title: "Retraining",
  leave: () => (problem = ""),

  paths: ({ name }) => ({ retraining: { path: modelPath(name, "/retraining"), every: 4 } }),

  draw(here) {
    if (!here.data.retraining) return waiting(here.live, "retraining");
    const { decisions } = here.data.retraining;
    const [latest, ...before] = decisions;
    return h("div", { class: "grid" },
      h("section", { class: "card wide" },
        h("div", { class: "row spread" }, h("h2", null, "Now"), h("button", { type: "button", onclick: () => evaluate(here) }, "Evaluate now")),
        problem && h("p", { class: "message bad", role: "alert" }, problem),
        latest ? decision(latest) : h("p", { class: "empty" }, "Nothing has been decided yet.")),
      h("section", { class: "card wide" }, h("h2", null, "Training set"), trainingSet(here)),
      h("section", { class: "card wide" }, h("h2", null, "Earlier decisions"), table([
        { name: "When", tight: true, of: (row) => moment(row.at) },
        { name: "Retrain", of: (row) => answer(row) },
        { name: "Why", of: (row) => row.reason },
      ], before.slice(0, 50), { empty: "none" })));
  },
};

/** "No" is good news only where it was judged: without outcomes, or without what they were at training, nobody knows. */
function answer(row) {
  if (row.should_retrain) return badge(`yes, ${row.urgency}`, URGENCY[row.urgency]);
  const { performance_current: current, performance_baseline: baseline, drift_detected: drift } = row.inputs ?? {};
  if (current != null && baseline != null) return badge("no", drift ? "warn" : "good");
  return drift == null ? badge("not known") : badge("no, by drift alone", drift ? "warn" : "");
}

function decision(row) {
  const { inputs } = row;
  return [
    h("p", null, answer(row), " ", row.reason),
    facts([
      ["decided", [moment(row.at), row.should_retrain && row.told === false && ", not told: a call as urgent went out before"]],
      ["metric", `${inputs.metric ?? "none"} of ${inputs.version}`],
      ["now", `${number(inputs.performance_current)}${inputs.performance_note ? ` (${inputs.performance_note})` : ""}`],
      ["at training", number(inputs.performance_baseline)],
      ["drift", inputs.drift_detected == null ? "not known" : inputs.drift_detected ? [`yes, PSI ${number(inputs.drift_severity)}`, ...(inputs.drift_findings ?? [])].join("; ") : "no"],
      ["rule", `${inputs.policy.strategy}: retrain at a drop of ${percent(inputs.policy.performance_threshold)}, critical at ${percent(inputs.policy.critical_threshold)}`],
    ]),
  ];
}

async function evaluate(here) {
  try {
    problem = "";
    const { should_retrain: yes, reason } = await call("POST", modelPath(here.name, "/retraining"), {});
    announce(`${yes ? "Retrain" : "Do not retrain"}: ${reason}`);
  } catch (error) {
    problem = error.message;
  }
  here.refresh();
  here.show();
}

function trainingSet({ name }) {
  return [
    h("p", null, "Labelled predictions, each with a weight: recent ones count most (full for 7 days, then halved every 47), unlikely ones are not forgotten."),
    h("pre", null, `model-gateway export training-set ${name} -o ${name}.parquet`),
  ];
}
