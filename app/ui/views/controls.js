// Flags and kill switches. Every change is asked about first, carries a reason, and names the revision it was based on,
// so that two people cannot overwrite each other unseen.

import { call, modelPath, Refusal } from "../api.js";
import { h } from "../dom.js";
import { announce, badge, card, confirm, facts, table, waiting } from "../pieces.js";

export const controlsView = {
  title: "Flags",

  paths: ({ name }) => ({ flags: { path: modelPath(name, "/flags"), every: 1, on: ["flag"] } }),

  draw(here) {
    const { data, live, model } = here;
    const { flags } = data;
    if (!flags) return waiting(live, "flags");
    return h("div", { class: "grid" },
      killSwitches(here, flags),
      card("Flags in force", facts([
        ["revision", `${flags.revision}${flags.durable ? "" : " (not stored yet)"}`],
        ["production", flags.production],
        ["candidate", flags.candidate ?? "none"],
        ["canary", flags.canary_enabled ? `${flags.canary_percent} %` : "off"],
        ["shadow", flags.shadow_enabled ? flags.shadow_versions.join(", ") || "no version" : "off"],
        ["disabled", flags.disabled_versions.join(", ") || "none"],
      ]), h("div", { class: "actions" },
        h("button", { type: "button", onclick: () => askProduction(here, flags) }, "Change production …"),
        h("button", { type: "button", onclick: () => askShadows(here, flags) }, "Change shadows …"))),
      h("section", { class: "card wide" },
        h("div", { class: "row spread" }, h("h2", null, "Versions"),
          h("button", { type: "button", onclick: () => askRegister(here) }, "Register a version …")),
        versions(here, model.versions, flags)));
  },
};

function killSwitches(here, flags) {
  const running = flags.candidate != null && flags.canary_enabled;
  return card("Kill switches",
    h("p", null, "Each takes effect on the next request, also while the store is down."),
    h("div", { class: "actions" },
      h("button", {
        type: "button", class: running ? "danger" : "", disabled: !running,
        onclick: () => ask(here, flags, {
          title: `Stop the canary of ${here.name}?`,
          words: `${flags.candidate} gets no more requests; ${flags.production} answers all of them from now on.`,
          action: "Stop the canary", danger: true, patch: { canary_enabled: false },
        }),
      }, running ? `Stop canary ${flags.candidate}` : "No canary runs"),
      h("button", {
        type: "button", class: flags.shadow_enabled ? "danger" : "",
        onclick: () => ask(here, flags, {
          title: flags.shadow_enabled ? "Stop all shadows?" : "Let shadows run again?",
          words: flags.shadow_enabled ? "No request is copied any more." : `Requests are copied to ${flags.shadow_versions.join(", ") || "no version yet"}.`,
          action: flags.shadow_enabled ? "Stop shadows" : "Start shadows", danger: flags.shadow_enabled,
          patch: { shadow_enabled: !flags.shadow_enabled },
        }),
      }, flags.shadow_enabled ? "Stop shadows" : "Start shadows")));
}

function versions(here, list, flags) {
  const role = (name) => {
    if (flags.disabled_versions.includes(name)) return badge("disabled", "bad");
    if (name === flags.production) return badge("production", "good");
    if (name === flags.candidate) return badge(flags.canary_enabled ? `canary ${flags.canary_percent} %` : "candidate", "warn");
    if (flags.shadow_enabled && flags.shadow_versions.includes(name)) return badge("shadow");
    return "–";
  };
  return table([
    { name: "Version", of: (row) => row.name },
    { name: "Role", of: (row) => role(row.name) },
    { name: "Servers", of: (row) => row.urls.map((url) => h("div", { class: "mono" }, url)) },
    { name: "Time limit", numeric: true, of: (row) => `${row.timeout_s} s` },
    { name: "From", of: (row) => [row.defined_in, Object.entries(row.metadata).map(([key, value]) => h("div", { class: "note" }, `${key}: ${value}`))] },
    { name: "", of: (row) => versionActions(here, row, flags) },
  ], list, { key: (row) => row.name });
}

function versionActions(here, version, flags) {
  const disabled = flags.disabled_versions.includes(version.name);
  const others = flags.disabled_versions.filter((name) => name !== version.name);
  return h("div", { class: "row" },
    version.name !== flags.production && h("button", {
      type: "button", class: disabled ? "" : "danger",
      onclick: () => ask(here, flags, {
        title: disabled ? `Allow ${version.name} again?` : `Disable ${version.name}?`,
        words: disabled ? "It may be shadow, canary or production again." : "It gets no request of any kind, whatever a rollout or shadow says.",
        action: disabled ? "Allow" : "Disable", danger: !disabled,
        patch: { disabled_versions: disabled ? others : [...others, version.name] },
      }),
    }, disabled ? "Allow" : "Disable"),
    version.defined_in === "api" && h("button", { type: "button", onclick: () => askRetire(here, version.name) }, "Retire"));
}

function askProduction(here, flags) {
  ask(here, flags, {
    title: `Change production of ${here.name}?`,
    words: "All requests outside a canary go to the version you choose, from the next one on. A rollout does this step by step.",
    action: "Change production", danger: true,
    fields: [{ name: "production", label: "Version", options: here.model.versions.map((one) => one.name), value: flags.production }],
  });
}

function askShadows(here, flags) {
  ask(here, flags, {
    title: "Change shadows",
    words: "Versions that get a copy of each request after its reply has left; separated by commas.",
    action: "Change shadows",
    fields: [{ name: "shadow_versions", label: "Versions", value: flags.shadow_versions.join(", ") }],
    read: (values) => ({ shadow_versions: values.shadow_versions.split(",").map((one) => one.trim()).filter(Boolean) }),
  });
}

function askRegister(here) {
  confirm({
    title: `Register a version of ${here.name}`,
    words: "It gets no traffic until it becomes a shadow or a candidate.",
    action: "Register",
    fields: [
      { name: "version", label: "Name", required: true },
      { name: "url", label: "URL of its server", required: true },
    ],
    act: async ({ version, url, reason }) => {
      await call("PUT", modelPath(here.name, `/versions/${encodeURIComponent(version)}`), { url, reason });
      done(here, `${version} registered`);
    },
  });
}

function askRetire(here, version) {
  confirm({
    title: `Retire ${version}?`,
    words: "It is forgotten; its past predictions stay.",
    action: "Retire", danger: true,
    act: async ({ reason }) => {
      await call("DELETE", modelPath(here.name, `/versions/${encodeURIComponent(version)}?reason=${encodeURIComponent(reason)}`));
      done(here, `${version} retired`);
    },
  });
}

/** Asks for a reason, then changes flags based on the revision that was shown. */
function ask(here, flags, { patch, read = (values) => values, ...words }) {
  confirm({
    ...words,
    act: async ({ reason, ...values }) => {
      try {
        await call("PATCH", modelPath(here.name, "/flags"), { ...(patch ?? read(values)), reason }, { headers: { "If-Match": `"${flags.revision}"` } });
      } catch (error) {
        here.refresh();
        if (error instanceof Refusal && error.status === 412) throw new Refusal(412, "Someone changed the flags meanwhile. Look at them and ask again.");
        throw error;
      }
      done(here, "Flags changed");
    },
  });
}

function done(here, text) {
  announce(text);
  here.refresh();
}
