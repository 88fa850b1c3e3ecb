// Who changed what, when, from where and why.

import { h } from "../dom.js";
import { badge, moment, table, waiting } from "../pieces.js";

export const auditView = {
  title: "Audit",

  paths: () => ({ audit: { path: "/admin/audit?limit=200", every: 3, on: ["flag", "rollout"] } }),

  draw({ data, live }) {
    return [
      h("div", { class: "title" }, h("h1", null, "Audit")),
      h("section", { class: "card" }, data.audit
        ? table([
            { name: "When", tight: true, of: (row) => moment(row.at) },
            { name: "Who", of: (row) => [row.actor, row.origin !== row.actor && [" ", h("span", { class: "note" }, row.origin)]] },
            { name: "What", tight: true, of: (row) => badge(row.action, row.action.includes("rollback") ? "bad" : "") },
            { name: "Model", of: (row) => row.model ?? "–" },
            { name: "Why", of: (row) => row.reason || "–" },
            { name: "Change", of: (row) => difference(row.before, row.after) },
          ], data.audit.entries, { empty: "nothing has been changed yet", caption: "Newest first" })
        : waiting(live, "audit")),
    ];
  },
};

function difference(before, after) {
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const changed = names.filter((name) => JSON.stringify(before?.[name]) !== JSON.stringify(after?.[name]) && name !== "salt");
  if (changed.length === 0) return "–";
  return h("details", null,
    h("summary", null, changed.slice(0, 3).join(", ") + (changed.length > 3 ? " …" : "")),
    h("ul", null, changed.map((name) => h("li", { class: "mono" }, `${name}: ${text(before?.[name])} → ${text(after?.[name])}`))));
}

function text(value) {
  return value === undefined ? "–" : JSON.stringify(value);
}
