"use strict";
// State: what a rater answered, {ratings: Map id -> verdict, at: index of the relation shown}.
// Text from the study and from raters reaches the page by textContent only.
const STUDY = JSON.parse(document.getElementById("study").textContent);
const FORMAT = "vrd_d2 human ratings 1";
const VERDICTS = { yes: "✓", no: "✗", skip: "–" };
const SAVED = `vrd_d2 human ${STUDY.study}`; // the name of whoever rates; with a name added: answers
const $ = (id) => document.getElementById(id);
const frame = $("frame"), stage = $("stage");

// All relations in one row: index -> {id, subject, predicate, object, image}.
const items = STUDY.pictures.flatMap((image, number) =>
  image.relations.map((relation) => ({ ...relation, image: number })));
const first = []; // of each image
items.forEach((item, index) => (first[item.image] ??= index));
const known = new Set(items.map((item) => item.id));
const isVerdict = (value) => Object.hasOwn(VERDICTS, value);

let rater = "", ratings = new Map(), at = 0;
let undone = []; // {id, before}: what undo takes back, last first
let zoomed = false, hovered = null, shownImage = -1;
const inMemory = new Map(); // where the browser saves nothing

// --- Saving answers ---

const store = {
  works: true,
  get(key) {
    try { return localStorage.getItem(key) ?? inMemory.get(key) ?? null; }
    catch { this.works = false; return inMemory.get(key) ?? null; }
  },
  set(key, text) {
    inMemory.set(key, text);
    try { localStorage.setItem(key, text); this.works = true; }
    catch { this.works = false; }
  },
  keys() {
    const keys = new Set(inMemory.keys());
    try { for (let i = 0; i < localStorage.length; i++) keys.add(localStorage.key(i)); }
    catch { this.works = false; }
    return [...keys];
  },
};

function raters() {
  return store.keys().filter((key) => key.startsWith(SAVED + " "))
    .map((key) => key.slice(SAVED.length + 1)).sort();
}

function load(name) {
  try {
    const saved = JSON.parse(store.get(`${SAVED} ${name}`));
    const rows = Object.entries(saved.ratings).filter(([id, v]) => known.has(id) && isVerdict(v));
    const index = items.findIndex((item) => item.id === saved.at);
    return { ratings: new Map(rows), at: Math.max(0, index) };
  } catch { // nothing is saved, or somebody changed it
    return { ratings: new Map(), at: 0 };
  }
}

function save() {
  if (!rater) return;
  store.set(SAVED, rater);
  const text = { ratings: Object.fromEntries(ratings), at: items[at].id };
  store.set(`${SAVED} ${rater}`, JSON.stringify(text));
}

function become(name) {
  rater = name;
  ({ ratings, at } = load(name));
  undone = [];
  save();
  show();
}

// --- Showing ---

function words(parent, item) {
  const { entities } = STUDY.pictures[item.image];
  const parts = [["b", "subject", entities[item.subject].label], ["i", "", item.predicate],
    ["b", "object", entities[item.object].label]];
  parent.replaceChildren(...parts.flatMap(([tag, name, text]) => {
    const word = document.createElement(tag);
    word.className = name;
    word.textContent = text;
    return [word, " "];
  }));
}

function listImage(number) {
  shownImage = number;
  $("image").src = STUDY.pictures[number].source;
  $("list").replaceChildren(...items.flatMap((item, index) => {
    if (item.image !== number) return [];
    const row = document.createElement("li"), button = document.createElement("button");
    const mark = document.createElement("span"), text = document.createElement("span");
    mark.className = "mark";
    words(text, item);
    button.dataset.index = index;
    button.append(mark, text);
    button.addEventListener("click", () => go(index));
    button.addEventListener("mouseenter", () => { hovered = index; place(); });
    button.addEventListener("mouseleave", () => { hovered = null; place(); });
    row.append(button);
    return [row];
  }));
}

function show() {
  const item = items[at], image = STUDY.pictures[item.image];
  if (shownImage !== item.image) {
    hovered = null;
    listImage(item.image);
  }
  for (const button of $("list").querySelectorAll("button")) {
    const verdict = ratings.get(items[button.dataset.index].id) ?? "";
    const here = Number(button.dataset.index) === at;
    button.className = `${verdict} ${here ? "here" : ""}`;
    button.toggleAttribute("aria-current", here);
    button.firstChild.textContent = VERDICTS[verdict] ?? "·";
    button.title = verdict;
    if (here) scrollList(button);
  }
  for (const verdict in VERDICTS) {
    const given = ratings.get(item.id) === verdict;
    const button = document.querySelector(`[data-act="${verdict}"]`);
    button.classList.toggle("given", given);
    button.setAttribute("aria-pressed", given);
  }
  words($("sentence"), item);
  const number = at - first[item.image] + 1;
  $("position").textContent = `Image ${item.image + 1} of ${STUDY.pictures.length}, ` +
    `relation ${number} of ${image.relations.length}`;
  showProgress(item.image);
  place();
}

// Scrolls the list alone: on a narrow window it lies below the image, which has to stay.
function scrollList(button) {
  const list = $("list"), { offsetTop: top, offsetHeight: height } = button;
  const low = top + height - list.clientHeight;
  list.scrollTop = Math.min(top, Math.max(low, list.scrollTop));
}

function showProgress(current) {
  const done = items.filter((item) => ratings.has(item.id)).length;
  const all = done === items.length;
  $("count").textContent = `${done} of ${items.length} rated (${Math.floor((100 * done) / items.length)} %)`;
  const bar = $("bar");
  bar.setAttribute("aria-valuemax", items.length);
  bar.setAttribute("aria-valuenow", done);
  [...bar.children].forEach((segment, number) => {
    const { relations } = STUDY.pictures[number];
    const rated = relations.filter((relation) => ratings.has(relation.id)).length;
    segment.style.setProperty("--done", `${(100 * rated) / relations.length}%`);
    segment.className = number === current ? "here" : "";
  });
  $("rater").textContent = rater || "Your name";
  $("export").className = all ? "ready" : "";
  $("saved").className = store.works ? "" : "bad";
  $("saved").textContent = !store.works
    ? "This browser saves nothing: export before you close the page."
    : done ? "Every answer is saved in this browser." : "";
}

// Puts image, boxes and names where they belong; in zoom, the two boxes fill the frame.
function place() {
  const item = items[hovered ?? at], image = STUDY.pictures[item.image];
  const subject = image.entities[item.subject], object = image.entities[item.object];
  const { clientWidth: width, clientHeight: height } = frame;
  let scale = Math.min(width / image.width, height / image.height);
  let centre = [0.5, 0.5];
  if (zoomed) {
    const low = [0, 1].map((i) => Math.min(subject.box[i], object.box[i]));
    const high = [2, 3].map((i) => Math.max(subject.box[i], object.box[i]));
    const [across, down] = [0, 1].map((i) => Math.max(high[i] - low[i], 0.02));
    const wanted = Math.min(width / (across * image.width), height / (down * image.height));
    scale = Math.max(scale, Math.min(0.72 * wanted, 8 * scale));
    centre = [0, 1].map((i) => (low[i] + high[i]) / 2);
  }
  const size = [scale * image.width, scale * image.height];
  const origin = [width, height].map((room, i) =>
    size[i] <= room ? (room - size[i]) / 2
      : Math.min(0, Math.max(room - size[i], room / 2 - centre[i] * size[i])));
  ["width", "height"].forEach((side, i) => (stage.style[side] = `${size[i]}px`));
  ["left", "top"].forEach((side, i) => (stage.style[side] = `${origin[i]}px`));
  for (const [name, { label, box }] of [["subject", subject], ["object", object]]) {
    const [x1, y1, x2, y2] = box;
    for (const rectangle of stage.querySelectorAll(`rect.${name}`)) {
      const values = { x: x1, y: y1, width: Math.max(x2 - x1, 0.002), height: Math.max(y2 - y1, 0.002) };
      for (const key in values) rectangle.setAttribute(key, values[key]);
    }
    const chip = stage.querySelector(`.chip.${name}`);
    chip.textContent = label;
    // The subject's name above its box, the object's below: they cannot hide each other there.
    const above = name === "subject";
    const edge = (above ? y1 : y2) * size[1];
    const wish = [x1 * size[0], above ? edge - chip.offsetHeight - 4 : edge + 4];
    const room = [chip.offsetWidth, chip.offsetHeight];
    const [left, top] = wish.map((value, i) => {
      const low = Math.max(0, -origin[i]), high = Math.min(size[i], [width, height][i] - origin[i]);
      return Math.max(low + 3, Math.min(high - room[i] - 3, value));
    });
    chip.style.left = `${left}px`;
    chip.style.top = `${top}px`;
  }
}

let noteTimer;
function note(text, bad = false) {
  $("note").textContent = text;
  $("note").className = bad ? "shown bad" : "shown";
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => ($("note").className = bad ? "bad" : ""), bad ? 8000 : 3500);
}

// --- Acting ---

function go(index) {
  at = Math.max(0, Math.min(items.length - 1, index));
  hovered = null;
  save();
  show();
}

function rate(verdict) {
  const { id } = items[at];
  const wasDone = items.every((item) => ratings.has(item.id));
  undone.push({ id, before: ratings.get(id) });
  ratings.set(id, verdict);
  go(at + 1);
  if (!wasDone && items.every((item) => ratings.has(item.id)))
    note("Everything is rated. Thank you! Export your ratings now.");
}

function undo() {
  const last = undone.pop();
  if (!last) return note("There is nothing to take back.");
  if (last.before) ratings.set(last.id, last.before);
  else ratings.delete(last.id);
  go(items.findIndex((item) => item.id === last.id));
}

function nextUnrated() {
  const order = [...items.keys()];
  const found = [...order.slice(at + 1), ...order.slice(0, at + 1)]
    .find((index) => !ratings.has(items[index].id));
  if (found === undefined) note("Everything is rated.");
  else go(found);
}

function goImage(step) {
  const number = items[at].image + step;
  if (number >= 0 && number < STUDY.pictures.length) go(first[number]);
}

const acts = {
  yes: () => rate("yes"), no: () => rate("no"), skip: () => rate("skip"), undo,
  previous: () => go(at - 1), next: () => go(at + 1),
  "previous-image": () => goImage(-1), "next-image": () => goImage(1),
  "next-unrated": nextUnrated,
  zoom() {
    zoomed = !zoomed;
    document.querySelector("[data-act=zoom]").setAttribute("aria-pressed", zoomed);
    place();
  },
  help: openStart,
};
const keys = {
  y: "yes", n: "no", s: "skip", z: "undo", backspace: "undo", u: "next-unrated", f: "zoom",
  arrowright: "next", arrowdown: "next", arrowleft: "previous", arrowup: "previous",
  pageup: "previous-image", pagedown: "next-image", "?": "help",
};

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.altKey) return;
  // On a keyboard without Latin letters, the key in the position of the letter.
  let key = event.key.toLowerCase();
  if (!/^[\x20-\x7e]+$/.test(key)) key = event.code.replace("Key", "").toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key !== "z") return;
  const act = keys[key];
  if (!act) return;
  event.preventDefault();
  if (event.repeat && act in VERDICTS) return; // a key that stays down answers once
  acts[act]();
});
for (const button of document.querySelectorAll("[data-act]"))
  button.addEventListener("click", () => acts[button.dataset.act]());

// --- Who rates ---

function openStart() {
  $("names").replaceChildren(...raters().map((name) => new Option(name)));
  $("name").value = rater;
  $("start").querySelector("button").textContent = rater ? "Go on" : "Start";
  $("start").showModal();
  $("name").select();
}
$("start").addEventListener("cancel", (event) => { if (!rater) event.preventDefault(); });
$("start").addEventListener("submit", (event) => {
  const name = $("name").value.normalize("NFC").replace(/\s+/g, " ").trim();
  if (!name) event.preventDefault();
  else if (name !== rater) become(name);
});
$("rater").addEventListener("click", openStart);
$("help").addEventListener("click", openStart);

// --- Beginning ---

STUDY.pictures.forEach((image, number) => {
  const segment = document.createElement("i");
  segment.title = `Image ${number + 1}`;
  segment.addEventListener("click", () => go(first[number]));
  $("bar").append(segment);
});
new ResizeObserver(place).observe(frame);
// The same rater in another tab: the answers given there are taken over.
window.addEventListener("storage", (event) => {
  if (rater && event.key === `${SAVED} ${rater}`) {
    ({ ratings } = load(rater));
    show();
  }
});
window.addEventListener("beforeunload", (event) => {
  if (!store.works && ratings.size) event.preventDefault();
});
const before = store.get(SAVED);
if (before) become(before);
else { show(); openStart(); }
