"use strict";
document.documentElement.classList.add("js");
const byId = (id) => document.getElementById(id);

// Sorting: numbers by size, names by letter; what has no value stays last both ways.
const body = document.querySelector("#metrics tbody");
const heads = [...document.querySelectorAll("#metrics thead tr:last-child th")];
function sortBy(index) {
  const down = heads[index].getAttribute("aria-sort") === (index ? "descending" : "ascending");
  const sign = (index ? -1 : 1) * (down ? -1 : 1);
  heads.forEach((h) => h.removeAttribute("aria-sort"));
  heads[index].setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const value = (row) => row.children[index].dataset.value;
  const order = (a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    return sign * (index ? Number(x) - Number(y) : x.localeCompare(y));
  };
  body.append(...[...body.rows].sort(order));
}
heads.forEach((h, index) => h.querySelector("button").addEventListener("click", () => sortBy(index)));

// Bars: one metric at a time.
const metric = byId("metric");
function chart() {
  for (const e of document.querySelectorAll(".metric-chart")) e.hidden = e.dataset.chart !== metric.value;
}
if (metric) { metric.addEventListener("change", chart); chart(); }

// Word diff: the longest common subsequence of words; spaces go with the word before them.
const segments = new Intl.Segmenter("en", {granularity: "word"});
function words(text) {
  const out = [];
  for (const {segment} of segments.segment(text)) {
    if (/^\s+$/u.test(segment) && out.length) out[out.length - 1].space += segment;
    else out.push({word: segment, space: ""});
  }
  return out;
}
const MOST = 4e6;  // cells of the table; longer texts are shown without marks
function diff(from, to) {
  const a = words(from), b = words(to), n = a.length, m = b.length;
  if (n * m > MOST) return null;
  const best = Array.from({length: n + 1}, () => new Uint32Array(m + 1));
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      best[i][j] = a[i].word === b[j].word ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  const parts = [];
  const put = (kind, w) => {
    const last = parts[parts.length - 1];
    if (last && last.kind === kind) last.text += w.word + w.space; else parts.push({kind, text: w.word + w.space});
  };
  let i = 0, j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && a[i].word === b[j].word) { put("same", b[j]); i++; j++; }
    else if (i < n && (j === m || best[i + 1][j] >= best[i][j + 1])) put("del", a[i++]);
    else put("ins", b[j++]);
  }
  return parts;
}

// The row browser builds one row at a time, with text nodes only.
const data = byId("data") && JSON.parse(byId("data").textContent);
let at = 0, found = [];
function add(parent, tag, text, kind) {
  const e = parent.appendChild(document.createElement(tag));
  e.textContent = text;
  if (kind) e.className = kind;
  return e;
}
const plain = (name) => name.replaceAll("_", " ");
const shownGroups = () => new Set([...body.rows].filter((r) => !r.hidden).map((r) => Number(r.dataset.group)));
function search() {
  const set = data.sets[byId("set").value], wanted = byId("find").value.trim().toLowerCase();
  const texts = [set.example_id, set.question, set.answer, ...set.models.map((m) => m.answers)];
  found = [...set.question.keys()].filter((k) => !wanted || texts.some((list) => (list[k] ?? "").toLowerCase().includes(wanted)));
  at = 0;
  render();
}
function line(card, title, text) {
  const p = add(card, "p", "", "row-text");
  add(p, "b", title);
  add(p, "span", text).dir = "auto";
}
function fillAnswer(box, against, text, missing) {
  const p = add(box, "p", "");
  p.dir = "auto";
  if (text === null) { p.textContent = "(no answer was generated)"; return; }
  const parts = against === null ? null : diff(against, text);
  if (parts === null) { p.textContent = text; return; }
  for (const part of parts) {
    if (part.kind === "same") p.append(part.text);
    else if (part.kind === "ins" || missing) {
      // Spaces stay outside the mark, where a line may break.
      const trimmed = part.text.trimEnd();
      add(p, part.kind, trimmed);
      p.append(part.text.slice(trimmed.length) || (part.kind === "del" ? "\u200b" : ""));
    }
  }
  if (text === "") add(p, "em", "(empty answer)");
}
function render() {
  const card = byId("card"), set = data.sets[byId("set").value], k = found[at], shown = shownGroups();
  card.replaceChildren();
  byId("of").textContent = found.length ? `of ${found.length}` : "no row matches";
  byId("row").value = found.length ? at + 1 : "";
  byId("row").max = found.length;
  byId("previous").disabled = at <= 0;
  byId("next").disabled = at >= found.length - 1;
  if (!found.length) return;
  line(card, set.example_id[k], set.question[k]);
  line(card, "Gold answer", set.answer[k]);
  const choice = byId("against").value, missing = byId("missing").checked;
  const against = choice === "gold" ? set.answer[k] : choice === "none" ? null : set.models[choice].answers[k];
  const answers = add(card, "div", "", "answers");
  set.models.forEach((model, i) => {
    if (!shown.has(data.groups[i])) return;
    const box = add(answers, "div", "", "answer");
    add(box, "h3", data.labels[i]).dir = "auto";
    fillAnswer(box, String(i) === choice ? null : against, model.answers[k], missing);
    const numbers = Object.entries(model.numbers).filter(([, values]) => values[k] !== null);
    add(box, "p", numbers.map(([name, values]) => `${name} ${values[k]}`).join(" · "), "nums");
  });
}
function go(to) {
  if (to < 0 || to >= found.length) return;
  at = to;
  render();
}
if (data) {
  data.sets.forEach((set, i) => byId("set").append(new Option(plain(set.name), i)));
  byId("against").append(new Option("gold answer", "gold"), ...data.labels.map((l, i) => new Option(l, i)), new Option("nothing", "none"));
  byId("set").addEventListener("change", search);
  byId("find").addEventListener("input", search);
  byId("against").addEventListener("change", render);
  byId("missing").addEventListener("change", render);
  byId("previous").addEventListener("click", () => go(at - 1));
  byId("next").addEventListener("click", () => go(at + 1));
  byId("row").addEventListener("change", () => go(Math.min(Math.max(1, Number(byId("row").value) || 1), found.length) - 1));
  byId("rows").addEventListener("keydown", (e) => {
    if (e.target.matches("input, select") || e.ctrlKey || e.altKey || e.metaKey) return;
    if (e.key === "ArrowLeft") go(at - 1); else if (e.key === "ArrowRight") go(at + 1); else return;
    e.preventDefault();
  });
  search();
}

// One filter for the table and the row browser; what it hides is dimmed in the plot.
function filter() {
  const wanted = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of body.rows) row.hidden = !wanted.every((w) => row.dataset.find.toLowerCase().includes(w));
  const shown = shownGroups();
  for (const e of document.querySelectorAll("svg.plot [data-group]")) e.style.opacity = shown.has(Number(e.dataset.group)) ? 1 : 0.15;
  byId("shown").textContent = shown.size < body.rows.length ? `${shown.size} of ${body.rows.length}` : "";
  if (data) render();
}
byId("filter").addEventListener("input", filter);
filter();
