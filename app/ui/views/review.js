import { h } from "../dom.js";
export const reviewView = { title: "Review", draw: () => h("p", null, "") };
