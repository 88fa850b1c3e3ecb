// The dashboard: signs in, follows the address (#/…), and draws the view that it names, anew whenever an answer arrives.

import { get, Refusal, sendable, session } from "./api.js";
import { draw, h } from "./dom.js";
import { History, Live } from "./live.js";
import { badge, healthBadge, waiting } from "./pieces.js";
import { accountingView } from "./views/accounting.js";
import { auditView } from "./views/audit.js";
import { controlsView } from "./views/controls.js";
import { driftView } from "./views/drift.js";
import { overviewView } from "./views/overview.js";
import { performanceView } from "./views/performance.js";
import { retrainingView } from "./views/retraining.js";
import { reviewView } from "./views/review.js";
import { rolloutView } from "./views/rollout.js";
import { shadowView } from "./views/shadow.js";
import { trafficView } from "./views/traffic.js";

const TABS = {
  traffic: trafficView,
  rollout: rolloutView,
  shadow: shadowView,
  performance: performanceView,
  drift: driftView,
  retraining: retrainingView,
  review: reviewView,
  controls: controlsView,
};
const PAGES = { "": overviewView, accounting: accountingView, audit: auditView };
const MODELS = { path: "/admin/models", every: 2, on: ["flag", "rollout", "health"] };

const root = document.getElementById("app");
const history = new History();
let live = null;
let place = null;

/** `#/` → overview, `#/audit`, `#/models/{model}/{tab}`. */
function placeOf(hash) {
  const [first = "", model, tab = "traffic"] = hash.replace(/^#\/?/, "").split("/").map(decoded);
  if (first === "models" && model) return { view: TABS[tab] ?? trafficView, model, tab: TABS[tab] ? tab : "traffic" };
  return { view: PAGES[first] ?? overviewView, page: PAGES[first] ? first : "" };
}

/** An address that somebody cut or mistyped names nothing, but it still gets an answer. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function follow() {
  if (!live) return;
  const next = placeOf(location.hash);
  const moved = next.view !== place?.view || next.model !== place?.model;
  if (moved) place?.view.leave?.();
  place = next;
  live.follow({ models: MODELS, ...place.view.paths?.(context()) });
  document.title = `${place.model ? `${place.model} ${place.view.title.toLowerCase()}` : place.view.title} · model-gateway`;
  show();
  if (!moved) return;
  window.scrollTo(0, 0);
  document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

function context() {
  const models = live.data.models?.models ?? [];
  const model = models.find((one) => one.name === place.model);
  const tones = Object.fromEntries((model?.versions ?? []).map((version, index) => [version.name, index % 6]));
  return {
    name: place.model,
    model,
    models,
    live,
    data: live.data,
    history,
    tone: (version) => tones[version] ?? 5,
    refresh: () => live.refresh(),
    show,
    follow,
  };
}

function show() {
  if (!live) return;
  const here = context();
  draw(root, [
    header(here),
    h("main", { id: "content", tabindex: "-1", key: "main" },
      place.model ? modelPage(here) : place.view.draw(here)),
  ]);
}

function header({ live: { lost, told } }) {
  const link = (page, text) => h("a", { href: `#/${page}`, "aria-current": place.page === page ? "page" : null }, text);
  return h("header", { class: "masthead", key: "masthead" },
    h("a", { class: "brand", href: "#/" }, h("img", { src: "/ui/icon.svg", alt: "" }), "model-gateway"),
    h("nav", { "aria-label": "Pages" }, link("", "Models"), link("accounting", "Accounting"), link("audit", "Audit")),
    h("div", { class: "row" },
      h("span", { class: `live ${lost ? "lost" : ""}`, role: "status" }, lost ? `${lost}; trying again` : told ? "live" : "polling"),
      h("button", { type: "button", class: "quiet", onclick: signOut }, "Sign out")));
}

function modelPage(here) {
  const tab = (name, view) => h("a", {
    key: name,
    href: `#/models/${encodeURIComponent(here.name)}/${name}`,
    "aria-current": place.tab === name ? "page" : null,
  }, view.title);
  return [
    h("div", { class: "title" }, h("h1", null, here.name), here.model && stateOf(here.model)),
    h("nav", { class: "tabs", "aria-label": `Views of ${here.name}` }, Object.entries(TABS).map(([name, view]) => tab(name, view))),
    here.model ? h("div", { key: place.tab }, place.view.draw(here)) : missing(here),
  ];
}

function missing(here) {
  if (!here.data.models) return waiting(here.live, "models");
  return h("p", { class: "message bad" }, `There is no model named ${here.name}.`);
}

function stateOf(model) {
  const { flags } = model;
  const parts = [badge(`production ${flags.production}`), healthBadge(model)];
  if (flags.candidate && flags.canary_enabled) parts.push(badge(`canary ${flags.candidate} ${flags.canary_percent} %`, "warn"));
  if (flags.disabled_versions.length) parts.push(badge(`disabled: ${flags.disabled_versions.join(", ")}`, "bad"));
  if (!flags.durable) parts.push(badge("change not stored yet", "warn"));
  return parts;
}

function signOut() {
  session.end();
  live?.stop();
  live = null;
  place?.view.leave?.();
  place = null;
  signIn();
}

function signIn(problem = "") {
  document.title = "Sign in · model-gateway";
  const submit = async (event) => {
    event.preventDefault();
    const token = new FormData(event.target).get("token").trim();
    if (!sendable(token)) {
      signIn("A token has only Latin letters, digits and signs, without spaces; this text has others.");
      return;
    }
    try {
      await get("/admin/models", { token });
      session.start(token);
      start();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      signIn(error.status === 401 ? "The gateway does not know this token." : error.message);
    }
  };
  draw(root, h("main", { id: "content", class: "sign-in" },
    h("form", { class: "card", onsubmit: submit },
      h("h1", null, "Sign in to model-gateway"),
      h("input", { type: "text", name: "username", value: "model-gateway", autocomplete: "username", hidden: true }),
      h("label", { for: "token" }, "Token"),
      h("input", { id: "token", name: "token", type: "password", required: true, autocomplete: "current-password" }),
      problem && h("p", { class: "message bad", role: "alert" }, problem),
      h("p", { class: "note" }, "Without configured tokens the gateway made one at its first start:"),
      h("pre", null, "cat DATA_DIR/admin-token"),
      h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Sign in")))));
  root.querySelector("#token").focus();
}

function start() {
  live = new Live((name) => {
    if (!live) return;
    place.view.arrived?.(name, context());
    follow();
  }, () => {
    signOut();
    signIn("The gateway no longer accepts this token.");
  });
  follow();
}

window.addEventListener("hashchange", follow);
document.addEventListener("visibilitychange", () => document.hidden || live?.refresh());
if (session.token()) start();
else signIn();
