// The page: a login, the tree of metrics, and the picture of a target. What is
// shown stands in the address (#target=…&range=…), so that it can be passed on.

import "./style.css";
import { graphite, login, Refused, render } from "./api.js";
import { Chart, colour } from "./chart.js";
import { element } from "./element.js";
import { short, summary } from "./series.js";
import { fill, first } from "./tree.js";

const ranges = { "15min": 900, "1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800 };
const refreshEvery = 10_000;

const brand = () =>
  element("div", { class: "brand" }, element("img", { src: "/public/img/icon.svg", alt: "" }), "dkumonitor ", element("small", {}, "miniature"));

function showLogin() {
  const name = element("input", { name: "user", autocomplete: "username", required: "", value: "admin" });
  const password = element("input", { name: "password", type: "password", autocomplete: "current-password", required: "" });
  const message = element("p", { class: "message", role: "alert" });
  const form = element(
    "form",
    { class: "login" },
    brand(),
    element("label", {}, "User", name),
    element("label", {}, "Password", password),
    element("button", { class: "primary" }, "Log in"),
    message,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await login(name.value, password.value);
      history.replaceState(null, "", `/${location.hash}`);
      await start();
    } catch (error) {
      message.textContent = error.message;
      password.select();
    }
  });
  document.body.replaceChildren(form);
  password.focus();
}

class Page {
  constructor(source) {
    this.source = source;
    this.list = element("ul", { class: "tree" });
    this.target = element("input", { class: "target", spellcheck: "false", "aria-label": "Target", placeholder: "a metric, or sumSeries(a.*.b) …" });
    this.message = element("p", { class: "message", role: "alert" });
    this.place = element("div", { class: "chart" });
    this.rows = element("tbody");
    this.buttons = Object.keys(ranges).map((range) => {
      const button = element("button", { type: "button", "data-range": range }, range);
      button.addEventListener("click", () => this.show({ range }));
      return button;
    });
    this.turn = 0;
    document.body.replaceChildren(this.layout());
    this.chart = new Chart(this.place);
    this.target.addEventListener("change", () => this.show({ target: this.target.value.trim() }));
    window.addEventListener("hashchange", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    setInterval(() => document.hidden || this.draw(), refreshEvery);
  }

  layout() {
    const reload = element("button", { type: "button", title: "Look for new metrics" }, "↻");
    reload.addEventListener("click", () => this.openTree());
    const head = ["", "last", "min", "mean", "max"].map((name) => element("th", {}, name));
    return element(
      "div",
      { class: "page" },
      element("header", {}, brand(), element("nav", {}, ...this.buttons), element("a", { href: "/logout" }, "Log out")),
      element("aside", {}, element("h2", {}, "Metrics ", reload), this.list),
      element(
        "main",
        {},
        this.target,
        this.message,
        this.place,
        element("table", {}, element("thead", {}, element("tr", {}, ...head)), this.rows),
      ),
    );
  }

  state() {
    const given = new URLSearchParams(location.hash.slice(1));
    const range = given.get("range");
    return { target: given.get("target") ?? "", range: range in ranges ? range : "1h" };
  }

  show(change) {
    location.hash = new URLSearchParams({ ...this.state(), ...change });
  }

  async openTree() {
    try {
      await fill(this.list, this.source, "", (target) => this.show({ target }));
    } catch (error) {
      this.report(error);
    }
  }

  report(error) {
    if (error instanceof Refused && error.status === 401) {
      location.reload(); // the session has ended: the server shows the login
    }
    this.message.textContent = error.message;
  }

  async draw() {
    const { target, range } = this.state();
    const turn = ++this.turn;
    for (const button of this.buttons) {
      button.classList.toggle("chosen", button.dataset.range === range);
    }
    for (const button of this.list.querySelectorAll("[data-metric]")) {
      button.classList.toggle("chosen", button.dataset.metric === target);
    }
    if (document.activeElement !== this.target) {
      this.target.value = target;
    }
    if (target === "") {
      return;
    }
    try {
      const series = await render(this.source, target, range, Math.max(100, this.place.clientWidth));
      if (turn !== this.turn) {
        return; // a later one is on its way
      }
      this.message.textContent = series.length === 0 ? "No metric matches." : "";
      this.chart.draw(series, ranges[range]);
      this.rows.replaceChildren(...series.map((one, index) => this.row(one, index)));
    } catch (error) {
      this.report(error);
    }
  }

  row(one, index) {
    const mark = element("i");
    mark.style.background = colour(index);
    const { last, min, mean, max } = summary(one);
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, mark, one.target),
      ...[last, min, mean, max].map((value) => element("td", {}, short(value))),
    );
  }
}

async function start() {
  const source = await graphite();
  if (source === undefined) {
    document.body.replaceChildren(element("p", { class: "login" }, "No Graphite data source is provisioned."));
    return;
  }
  const page = new Page(source);
  await page.openTree();
  if (page.state().target === "") {
    const target = await first(source).catch(() => null);
    if (target !== null) {
      history.replaceState(null, "", `#${new URLSearchParams({ ...page.state(), target })}`);
    }
  }
  await page.draw();
}

const fail = (error) => document.body.replaceChildren(element("p", { class: "login" }, error.message));

// Who has no session is sent to /login by the server.
if (location.pathname === "/login") {
  showLogin();
} else {
  start().catch(fail);
}
