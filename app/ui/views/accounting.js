// Is every record that the gateway received accounted for?

import { number } from "../charts.js";
import { h } from "../dom.js";
import { badge, card, figures, table, waiting } from "../pieces.js";

export const accountingView = {
  title: "Accounting",

  paths: () => ({ accounting: { path: "/admin/accounting", every: 1 }, ready: { path: "/readyz", every: 2, on: ["gateway"] } }),

  draw({ data, live }) {
    return [
      h("div", { class: "title" }, h("h1", null, "Accounting")),
      h("div", { class: "grid" },
        data.accounting ? balance(data.accounting) : card(null, waiting(live, "accounting")),
        card("Readiness", data.ready ? readiness(data.ready) : waiting(live, "ready"))),
    ];
  },
};

function balance({ received, stored, pending, dropped, quarantined }) {
  const lost = Object.values(dropped).reduce((sum, count) => sum + count, 0);
  const even = received === stored + pending + lost;
  return h("section", { class: "card wide" },
    h("div", { class: "row spread" }, h("h2", null, "Records of this host's journal"),
      badge(even ? "adds up" : "does not add up", even ? "good" : "bad")),
    figures([["received", number(received)], ["stored", number(stored)], ["pending", number(pending)],
      ["dropped", number(lost)], ["quarantined, of the stored", number(quarantined)]]),
    h("p", { class: "note" }, "received = stored + pending + dropped. What the store would not take is kept whole in quarantine, and counts as stored."),
    lost > 0 && table([
      { name: "Dropped because", of: ([reason]) => reason },
      { name: "records", numeric: true, of: ([, count]) => number(count) },
    ], Object.entries(dropped).filter(([, count]) => count > 0)));
}

function readiness(ready) {
  const down = [ready.degraded ?? []].flat();
  return [
    h("p", null, badge(down.length ? "degraded" : "ready", down.length ? "warn" : "good")),
    down.length > 0 && h("ul", null, down.map((one) => h("li", null, typeof one === "string" ? one : JSON.stringify(one)))),
    h("p", { class: "note" }, "Clients are served even while a dependency is down; its backlog lands later."),
  ];
}
