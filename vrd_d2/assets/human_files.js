// Ratings of all raters of this browser to a file and back; human_page.js has the state.

$("export").addEventListener("click", () => {
  const all = raters().map((name) => ({ name, ratings: Object.fromEntries(load(name).ratings) }))
    .filter((one) => Object.keys(one.ratings).length);
  if (!all.length) return note("Nothing is rated yet.", true);
  const text = JSON.stringify({ format: FORMAT, study: STUDY.study, raters: all }, null, 1);
  const link = document.createElement("a");
  const who = (all.length > 1 ? "all" : all[0].name).replace(/[^\p{L}\p{N}-]+/gu, "_");
  link.download = `ratings-${STUDY.study}-${who}.json`;
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  note(`Saved ${link.download}: ${all.map((one) => one.name).join(", ")}.`);
});

function readRatings(text) {
  let found;
  try { found = JSON.parse(text); } catch { throw new Error("it is no JSON"); }
  if (found?.format !== FORMAT || !Array.isArray(found.raters)) throw new Error("it holds no ratings");
  if (found.study !== STUDY.study) throw new Error(`its ratings are of another page (${found.study})`);
  return found.raters.map(({ name, ratings }) => {
    const rows = Object.entries(ratings ?? {});
    if (typeof name !== "string" || !name.trim() || !rows.every(([id, v]) => known.has(id) && isVerdict(v)))
      throw new Error("it was changed and does not fit this page");
    return { name: name.normalize("NFC").replace(/\s+/g, " ").trim(), rows };
  });
}

function ask(text, yes, no) {
  $("question").textContent = text;
  $("ask-yes").textContent = yes;
  $("ask-no").textContent = no;
  $("ask").returnValue = "";
  $("ask").showModal();
  return new Promise((resolve) =>
    $("ask").addEventListener("close", () => resolve($("ask").returnValue), { once: true }));
}

async function importFile(file) {
  const found = readRatings(await file.text());
  const differing = found.flatMap(({ name, rows }) => {
    const here = load(name).ratings;
    return rows.filter(([id, v]) => here.has(id) && here.get(id) !== v);
  }).length;
  let replace = false;
  if (differing) {
    const answer = await ask(`${file.name}: ${differing} answers differ from those here. Which are to stay?`,
      "Those of the file", "Those here");
    if (!answer) return `${file.name}: nothing changed.`;
    replace = answer === "yes";
  }
  let added = 0;
  for (const { name, rows } of found) {
    const state = load(name);
    for (const [id, v] of rows) {
      if (state.ratings.get(id) === v || (state.ratings.has(id) && !replace)) continue;
      state.ratings.set(id, v);
      added++;
    }
    const text = { ratings: Object.fromEntries(state.ratings), at: items[state.at].id };
    store.set(`${SAVED} ${name}`, JSON.stringify(text));
  }
  return `${file.name}: ${added} answers taken over (${found.map((one) => one.name).join(", ")}).`;
}

$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  const files = [...$("file").files], messages = [];
  let bad = false;
  $("file").value = "";
  for (const file of files) {
    try { messages.push(await importFile(file)); }
    catch (error) { bad = true; messages.push(`${file.name} cannot be used: ${error.message}.`); }
  }
  if (rater) become(rater);
  note(messages.join("\n"), bad);
});
