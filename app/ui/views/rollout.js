// The rollout: how far the candidate is, what speaks against it, what happened, and the handles to act.

import { call, modelPath } from "../api.js";
import { duration, gauge, lines, number } from "../charts.js";
import { h } from "../dom.js";
import { announce, badge, card, confirm, facts, moment, sentence, table, waiting } from "../pieces.js";

const TONES = { healthy: "good", degraded: "bad", inconclusive: "warn", no_data: "warn" };
const STATES = { promoted: "good", rolled_back: "bad", canary: "warn", shadowing: "warn", paused: "warn", pending: "" };
let announced = "";

export const rolloutView = {
  title: "Rollout",

  paths({ name, data }) {
    const latest = data.rollouts?.rollouts?.[0];
    return {
      rollouts: { path: modelPath(name, "/rollouts"), every: 2, on: ["rollout"] },
      ...(latest ? { rollout: { path: modelPath(name, `/rollouts/${latest.id}`), every: 1, on: ["rollout"] } } : {}),
    };
  },

  arrived(name, { data, history }) {
    if (name !== "rollout") return;
    const { rollout } = data;
    if (rollout.evidence && isOpen(rollout)) history.add(`evidence/${rollout.id}`, rollout.evidence.log_e);
    const { health, reason } = rollout.verdict ?? { health: "", reason: rollout.reason };
    const news = `${rollout.id} ${rollout.state} ${rollout.stage_index} ${health}`;
    if (announced && news !== announced) {
      const at = isOpen(rollout) ? ` at ${rollout.percent} %, ${health.replace("_", " ")}` : "";
      announce(`${rollout.candidate} is ${rollout.state.replace("_", " ")}${at}: ${reason}`);
    }
    announced = news;
  },

  draw(here) {
    const { data, live } = here;
    if (!data.rollouts) return waiting(live, "rollouts");
    const { rollout } = data;
    return h("div", { class: "grid" },
      rollout ? present(here, rollout) : h("section", { class: "card wide" }, startButton(here), h("p", { class: "empty" }, "No rollout yet: all requests go to production.")),
      rollout && card("What happened", events(rollout.events)),
      rollout && evidence(here, rollout),
      h("section", { class: "card wide" }, h("h2", null, "Earlier rollouts"), past(data.rollouts.rollouts.slice(1))));
  },
};

const isOpen = (rollout) => rollout.ended_at == null;

function present(here, rollout) {
  return h("section", { class: "card wide" },
    h("div", { class: "row spread" },
      h("h2", null, `${rollout.candidate} in place of ${rollout.production}`),
      h("div", { class: "row" }, badge(rollout.state.replace("_", " "), STATES[rollout.state]), rollout.verdict && badge(rollout.verdict.health.replace("_", " "), TONES[rollout.verdict.health]))),
    stages(rollout),
    h("p", null, sentence(rollout.verdict?.reason ?? rollout.reason)),
    facts([
      ["started", [moment(rollout.started_at), isOpen(rollout) ? `, ${duration(Date.now() / 1000 - Date.parse(rollout.started_at) / 1000)} ago` : null]],
      isOpen(rollout) && rollout.state === "promoted" && ["watched", `${duration(rollout.elapsed_s)} of ${duration(rollout.watch_s)}`],
      isOpen(rollout) && rollout.state !== "promoted" && rollout.requests_in_stage != null && ["in this stage",
        `${number(rollout.requests_in_stage)} of at least ${number(rollout.min_requests)} requests, ${duration(rollout.elapsed_s)} of at least ${duration(rollout.dwell_s)}`],
      rollout.ended_at && ["ended", moment(rollout.ended_at)],
    ]),
    h("div", { class: "actions" }, isOpen(rollout) && rollout.state !== "promoted" ? actions(here, rollout)
      : [rollout.state === "promoted" && isOpen(rollout) && act(here, rollout, "rollback", "Roll back", `${rollout.production} takes all requests again.`, "danger"), !isOpen(rollout) && startButton(here)]));
}

export function stages(rollout) {
  const promoted = rollout.state === "promoted";
  return h("ol", { class: "stages", "aria-label": "Stages" }, rollout.stages.map((percent, index) => {
    const reached = index === rollout.stage_index;
    const state = promoted || index < rollout.stage_index ? "done" : !reached ? "" : rollout.state === "rolled_back" ? "stopped" : "now";
    return h("li", { key: index, class: state, "aria-current": state === "now" ? "step" : null }, `${percent} %`);
  }));
}

function actions(here, rollout) {
  const paused = rollout.state === "paused";
  return [
    paused
      ? act(here, rollout, "resume", "Resume", "Stages move on again.")
      : act(here, rollout, "pause", "Pause", "The share stays as it is; bad evidence still rolls back."),
    act(here, rollout, "advance", "Next stage", "Moves one stage on now, without waiting for time and requests."),
    act(here, rollout, "promote", "Promote now", `${rollout.candidate} becomes production at once, for all clients, without waiting for more evidence.`, "risky"),
    act(here, rollout, "rollback", "Roll back", `${rollout.production} answers everything from the next request on.`, "danger"),
  ];
}

function act(here, rollout, verb, label, words, weight = "") {
  return h("button", {
    type: "button",
    key: verb,
    class: weight,
    onclick: () => confirm({
      title: `${label}: ${rollout.candidate}`,
      words,
      action: label,
      danger: weight === "danger",
      risky: weight === "risky",
      act: async ({ reason }) => {
        await call("POST", modelPath(here.name, `/rollouts/${rollout.id}/${verb}`), { reason });
        here.refresh();
      },
    }),
  }, label);
}

function startButton(here) {
  const { flags, versions, configuration } = here.model;
  const candidates = versions.map((one) => one.name).filter((name) => name !== flags.production);
  return h("button", {
    type: "button", class: "primary", disabled: candidates.length === 0,
    onclick: () => confirm({
      title: `Start a rollout of ${here.name}`,
      words: `The candidate gets ${configuration.canary.stages.join(", ")} % of the requests, step by step, and is taken out when the evidence says that it is worse.`,
      action: "Start",
      fields: [{ name: "candidate", label: "Candidate", options: candidates }],
      act: async ({ candidate, reason }) => {
        await call("POST", modelPath(here.name, "/rollouts"), { candidate, reason });
        announce(`Rollout of ${candidate} started`);
        here.refresh();
      },
    }),
  }, "Start a rollout …");
}

/** How far the evidence against the candidate is on its way to the threshold that ends the rollout. */
export function evidenceGauge({ evidence: found }) {
  if (!found) return h("p", { class: "empty" }, "no evidence yet");
  const { log_e: logE, threshold } = found;
  return gauge({
    title: "Evidence that it is worse, against the threshold that takes it out",
    ratio: logE / threshold,
    bad: logE >= threshold,
    words: `log e ${number(logE, 2)} of ${number(threshold, 2)}` + (logE > 0 && found.decisive_metric ? `; mostly ${found.decisive_metric}` : ""),
  });
}

function evidence(here, rollout) {
  const figures = rollout.evidence;
  if (!figures) return card("Evidence", h("p", { class: "empty" }, "none yet"));
  const { log_e: logE, threshold } = figures;
  return card("Evidence",
    evidenceGauge(rollout),
    lines({
      title: "Since the rollout began",
      series: [{ name: "log e", tone: 0, points: evidencePoints(here, rollout) }],
      format: (value) => number(value, 2),
      threshold: { value: threshold, name: `roll back at ${number(threshold, 2)}` },
    }),
    h("p", { class: "note" }, "Odds of e to 1 against “no worse than production”. The rollout ends when they pass the threshold, whenever one looks."));
}

/** What the events recorded, then what this page has seen since. */
function evidencePoints({ history }, { id, events: list = [] }) {
  const recorded = list.filter((event) => event.figures?.log_e != null).map((event) => [Date.parse(event.at) / 1000, event.figures.log_e]);
  const last = recorded.at(-1)?.[0] ?? 0;
  return [...recorded, ...history.points(`evidence/${id}`).filter(([at]) => at > last)];
}

function events(list) {
  if (!list?.length) return h("p", { class: "empty" }, "nothing yet");
  return h("ol", { class: "events", tabindex: "0", "aria-label": "Events, newest first" }, [...list].reverse().map((event, index) => h("li", { key: list.length - index },
    moment(event.at), h("span", null, badge(event.kind, event.kind === "rollback" ? "bad" : event.kind === "promote" ? "good" : "")), h("span", null, event.reason))));
}

function past(list) {
  return table([
    { name: "Candidate", of: (row) => row.candidate },
    { name: "State", of: (row) => badge(row.state.replace("_", " "), STATES[row.state]) },
    { name: "Started", tight: true, of: (row) => moment(row.started_at) },
    { name: "Ended", tight: true, of: (row) => moment(row.ended_at) },
    { name: "Why", of: (row) => row.reason },
  ], list, { empty: "none", key: (row) => row.id });
}
