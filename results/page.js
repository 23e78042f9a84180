"use strict";
const root = document.documentElement;
const specs = JSON.parse(document.getElementById("specs").textContent);
const wantsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (wantsDark.matches ? "dark" : "light")) === "dark";
const views = new Map();

const longest = Math.max(6, ...[...document.querySelectorAll("table.results tbody th")].map((th) => Math.min(25, th.firstChild.textContent.length)));
function config(width) {
  const css = getComputedStyle(root), ink = css.getPropertyValue("--ink").trim(), soft = css.getPropertyValue("--soft").trim();
  const grid = css.getPropertyValue("--grid").trim();
  const font = getComputedStyle(document.body).fontFamily.replaceAll('"', "'");
  return {
    background: null, font, view: { stroke: grid },
    axis: { labelColor: soft, titleColor: soft, gridColor: grid, domainColor: grid, tickColor: grid, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 },
    legend: { labelColor: ink, titleColor: soft, labelFontSize: 12, columns: Math.max(2, Math.floor((width - 50) / (34 + 7 * longest))) },
  };
}

// A chart is drawn when it can be seen: a hidden run page has no width.
async function draw(element) {
  const old = views.get(element.id);
  if (old) old.finalize();
  element.textContent = "";
  const options = { actions: false, renderer: "svg", config: config(element.clientWidth), tooltip: { theme: isDark() ? "dark" : "light" } };
  views.set(element.id, await vegaEmbed(element, specs[element.id], options));
}
const drawVisible = (again) => {
  for (const element of document.querySelectorAll(".chart"))
    if (element.offsetParent !== null && (again || !views.has(element.id))) draw(element);
};

// Sorting: methods and references are sorted each among themselves; empty cells stay last.
function sort(table, index, kind, button) {
  const header = button.closest("th"), down = header.getAttribute("aria-sort") === "descending";
  const first = kind === "number" ? "descending" : "ascending";
  const order = header.hasAttribute("aria-sort") ? (down ? "ascending" : "descending") : first;
  for (const th of table.tHead.rows[0].cells) th.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const key = (row) => kind === "number" ? row.cells[index].dataset.value : row.cells[index].textContent;
  const sign = order === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (kind === "number") return x === "" || y === "" ? (x === "") - (y === "") : sign * (Number(x) - Number(y));
      return sign * x.localeCompare(y);
    });
    body.append(...rows);
  }
}

for (const table of document.querySelectorAll("table.results")) {
  [...table.tHead.rows[0].cells].forEach((th, index) => {
    const button = document.createElement("button");
    button.type = "button";
    th.dataset.name = th.firstChild.textContent;
    button.append(th.firstChild);
    th.prepend(button);
    button.addEventListener("click", () => sort(table, index, th.dataset.kind, button));
  });
}

for (const form of document.querySelectorAll("form.tools")) {
  const rows = [...form.parentElement.querySelectorAll("table.results tbody tr")];
  const apply = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.dataset.text.toLowerCase();
      row.hidden = !words.every((w) => text.includes(w)) || (form.elements.collapsed.checked && row.dataset.collapsed === "1");
      shown += !row.hidden;
    }
    form.querySelector("output").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
}

const theme = document.getElementById("theme");
const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); drawVisible(true); });
wantsDark.addEventListener("change", () => { label(); drawVisible(true); });
addEventListener("hashchange", () => {
  drawVisible(false);
  const target = document.querySelector(".run:target");
  if (target) { scrollTo(0, 0); target.focus({ preventScroll: true }); }
});
addEventListener("beforeprint", () => drawVisible(false));
label();
addEventListener("load", () => drawVisible(false)); // not before: only then is the page's #fragment applied
