// Small parts that several views share: badges, tables, facts, times, and the dialogs in which a person confirms.

import { draw, h } from "./dom.js";

export const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));

export const figures = (pairs) => h("dl", { class: "figures" }, pairs.map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value))));

export const badge = (text, tone = "") => h("span", { class: `badge ${tone}` }, text);

/** How production fares, by the window rule over the last minute. Too little traffic is neither good nor bad. */
export function healthBadge({ flags, health, configuration }) {
  const own = health.find((row) => row.version === flags.production && row.role === "production");
  if (!own || own.requests === 0) return badge("no traffic");
  if (own.guard_tripped) return badge(own.error_rate > configuration.guard.error_rate ? "failing" : "slow", "bad");
  if (own.guard_tripped == null) return own.error_rate > 0 ? badge("errors, little traffic", "warn") : badge("little traffic");
  return badge("steady", "good");
}

export const card = (title, ...content) => h("section", { class: "card" }, title && h("h2", null, title), ...content);

/** `columns`: [{name, of: row => content, numeric}]. A `slim` one stays a table on a phone; others become lists of rows there. */
export function table(columns, rows, { caption, empty = "nothing yet", key, slim = false } = {}) {
  if (!rows || rows.length === 0) return h("p", { class: "empty" }, empty);
  return h("div", { class: "scroll" },
    h("table", { class: slim ? "slim" : "" },
      caption && h("caption", null, caption),
      h("thead", null, h("tr", null, columns.map((column) => h("th", { scope: "col", class: column.numeric ? "n" : "" }, column.name)))),
      h("tbody", null, rows.map((row, index) => h("tr", { key: key ? key(row) : index }, columns.map((column) => h("td", { "data-name": column.name, class: column.numeric ? "n" : column.tight ? "tight" : "" }, h("div", null, column.of(row)))))))));
}

/** What the gateway says of a reason, as a sentence of its own. */
export const sentence = (text) => text && text[0].toUpperCase() + text.slice(1);

/** A moment as local time, with the full form for those who point at it. */
export function moment(text) {
  if (!text) return "–";
  const at = new Date(typeof text === "number" ? text * 1000 : text);
  const today = at.toDateString() === new Date().toDateString();
  return h("time", { datetime: at.toISOString(), title: at.toISOString() },
    today ? at.toLocaleTimeString("en-GB") : `${at.toLocaleDateString("sv-SE")} ${at.toLocaleTimeString("en-GB")}`);
}

/** Tells screen readers, without moving the focus. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/**
 * Asks before something changes for clients. `act({reason, …fields})` does it; its error stays in the dialog.
 * `fields`: [{name, label, options?, value?}] are asked beside the reason.
 */
export function confirm({ title, words, action, danger, risky, fields = [], act }) {
  const dialog = document.createElement("dialog");
  let problem = "";
  let busy = false;
  const close = () => dialog.close();
  const submit = async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.target));
    busy = true;
    problem = "";
    show();
    try {
      await act(values);
      close();
    } catch (error) {
      problem = error.message;
      busy = false;
      show();
    }
  };
  const show = () => draw(dialog,
    h("form", { onsubmit: submit },
      h("h2", { id: "dialog-title" }, title),
      h("p", null, words),
      fields.map((field) => [
        h("label", { for: `ask-${field.name}` }, field.label),
        field.options
          ? h("select", { id: `ask-${field.name}`, name: field.name }, field.options.map((option) => h("option", { value: option, selected: option === field.value }, option)))
          : h("input", { id: `ask-${field.name}`, name: field.name, value: field.value ?? "", required: field.required, inputmode: field.inputmode, autocomplete: "off" }),
      ]),
      h("label", { for: "ask-reason" }, "Reason (kept in the audit log)"),
      h("input", { id: "ask-reason", name: "reason", required: true, maxlength: 300, autocomplete: "off", autofocus: true }),
      problem && h("p", { class: "message bad", role: "alert" }, problem),
      h("div", { class: "actions" },
        h("button", { type: "submit", class: danger ? "danger" : risky ? "risky" : "primary", disabled: busy }, action),
        h("button", { type: "button", onclick: close }, "Cancel"))));
  dialog.setAttribute("aria-labelledby", "dialog-title");
  dialog.addEventListener("close", () => dialog.remove());
  show();
  document.body.append(dialog);
  dialog.showModal();
  dialog.querySelector("#ask-reason").focus();
}

/** What to show while, or instead of, data. */
export function waiting(live, name) {
  const error = live.errors[name];
  if (!error) return h("p", { class: "empty" }, "asking the gateway …");
  if (error.status === 404) return h("p", { class: "empty" }, error.message);
  return h("p", { class: "message bad" }, error.status === 403 ? `This token may not see this: ${error.message}` : error.message);
}
