// A person labels the predictions whose labels are worth most. Items are drawn, and leased to this person, only when
// asked for: looking at this page must never take items away from others.

import { call, get, modelPath, Refusal } from "../api.js";
import { number, percent } from "../charts.js";
import { h } from "../dom.js";
import { announce, badge, moment } from "../pieces.js";

const STRATEGIES = {
  uncertainty: "least confident",
  margin: "closest call",
  novelty: "unlike the reference",
  disagreement: "shadows disagree",
  random: "by chance, so that figures stay unbiased",
};
const MORE = 10;

const fresh = () => ({ items: [], at: 0, done: 0, busy: false, drawn: false, note: "", problem: "", strategies: ["uncertainty", "random"] });
let desk = fresh();
let stopListening = () => {};

export const reviewView = {
  title: "Review",

  leave() {
    desk = fresh();
    stopListening();
    stopListening = () => {};
  },

  draw(here) {
    listen(here);
    const item = desk.items[desk.at];
    return h("div", { class: "grid" },
      h("section", { class: "card wide" },
        h("h2", null, "Predictions worth a label"),
        strategies(here),
        h("div", { class: "actions" },
          h("button", { type: "button", class: item ? "" : "primary", onclick: () => draw(here) }, `Draw ${MORE} items`),
          h("span", { class: "note" }, progress())),
        desk.problem && h("p", { class: "message bad", role: "alert" }, desk.problem)),
      item && question(here, item));
  },
};

function progress() {
  if (!desk.drawn) return "Items that you draw are yours for a while; nobody else gets them.";
  if (desk.items.length === 0) return `Nothing waits for a label. ${desk.note}`;
  return `${desk.done} labelled, ${Math.max(0, desk.items.length - desk.at)} left. ${desk.note}`;
}

function strategies(here) {
  const toggle = (name) => (event) => {
    desk.strategies = event.target.checked ? [...desk.strategies, name] : desk.strategies.filter((one) => one !== name);
    here.show();
  };
  return h("fieldset", null, h("legend", null, "Choose by"), Object.entries(STRATEGIES).map(([name, words]) => h("label", { class: "inline", key: name },
    h("input", { type: "checkbox", checked: desk.strategies.includes(name), onchange: toggle(name) }), `${name} (${words})`)));
}

async function draw(here) {
  try {
    const answer = await get(modelPath(here.name, `/review?limit=${MORE}&strategy=${desk.strategies.join(",")}`));
    desk = { ...desk, items: answer.items, at: 0, drawn: true, note: noted(answer), problem: "" };
    announce(`${answer.items.length} items to label`);
  } catch (error) {
    desk = { ...desk, problem: error.message };
  }
  here.show();
}

/** What the draw came from, and what a strategy could not rank. */
const noted = ({ reason, notes }) => [reason ?? "", ...Object.entries(notes ?? {}).map(([name, words]) => `${name}: ${words}`)].filter(Boolean).join(". ");

function question(here, item) {
  const options = choices(here, item);
  return h("section", { class: "card wide", key: item.prediction_id },
    h("div", { class: "row spread" }, h("h2", null, `Item ${desk.at + 1} of ${desk.items.length}`), badge(item.strategy)),
    h("p", null, `${item.model_version} answered `, h("strong", null, String(item.prediction)), item.confidence == null ? "" : ` with confidence ${percent(item.confidence)}`, ", ", moment(item.timestamp), "."),
    h("div", { class: "actions", role: "group", "aria-label": "The right answer" },
      options.map((option, index) => h("button", { type: "button", class: "primary", key: String(option), onclick: () => answer(here, item, option) }, h("kbd", null, String(index + 1)), ` ${option}`)),
      h("button", { type: "button", onclick: () => next(here) }, h("kbd", null, "s"), " Skip")),
    options.length === 0 && freeLabel(here, item),
    h("h3", null, "Inputs"),
    features(item.features));
}

/** The labels to offer as buttons: 0 and 1 for two classes, the classes seen for more; none for a number. */
function choices(here, item) {
  const { task } = here.model.configuration;
  if (task === "binary") return typeof item.prediction === "string" ? seen(item) : [0, 1];
  return task === "multiclass" ? seen(item) : [];
}

function seen(item) {
  return [...new Set(desk.items.map((one) => one.prediction).concat(item.prediction))].filter((one) => one != null).sort().slice(0, 9);
}

function freeLabel(here, item) {
  const submit = (event) => {
    event.preventDefault();
    const text = new FormData(event.target).get("label").trim();
    const value = here.model.configuration.task === "regression" && text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
    answer(here, item, value);
  };
  return h("form", { onsubmit: submit, class: "row" },
    h("label", { for: "label", class: "inline" }, "The right answer"),
    h("input", { id: "label", name: "label", required: true, class: "narrow" }),
    h("button", { type: "submit", class: "primary" }, "Label"));
}

function features(values) {
  if (!values) return h("p", { class: "empty" }, "not recorded");
  return h("dl", { class: "inputs" }, Object.entries(values).map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, number(value)))));
}

async function answer(here, item, label) {
  if (desk.busy) return; // a second key press must not label the next item unseen
  desk = { ...desk, busy: true };
  try {
    await call("POST", modelPath(here.name, `/review/${encodeURIComponent(item.prediction_id)}`), { label });
    desk = { ...desk, done: desk.done + 1, problem: "" };
  } catch (error) {
    if (!(error instanceof Refusal)) {
      desk = { ...desk, busy: false };
      throw error;
    }
    desk = { ...desk, problem: error.message };
    if (error.status !== 409) {
      desk = { ...desk, busy: false };
      here.show();
      return;
    }
  }
  next(here);
}

function next(here) {
  desk = { ...desk, at: desk.at + 1, busy: false };
  announce(desk.at < desk.items.length ? `Item ${desk.at + 1} of ${desk.items.length}` : "All items of this draw are done");
  here.show();
}

/** Number keys label, s skips: ten items without the mouse. */
function listen(here) {
  stopListening();
  const press = (event) => {
    const item = desk.items[desk.at];
    if (!item || event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input[type=text], input:not([type]), select, textarea, dialog *")) return;
    const option = choices(here, item)[Number(event.key) - 1];
    if (option !== undefined) answer(here, item, option);
    else if (event.key === "s") next(here);
  };
  document.addEventListener("keydown", press);
  stopListening = () => document.removeEventListener("keydown", press);
}
