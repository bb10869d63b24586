// The filters, which the galleries and the table of photographs obey, and the start of all.
function refresh() {
  state.text = byId("search").value.trim().toLowerCase();
  state.label = byId("class").value;
  state.kind = byId("kind").value;
  state.order = byId("order").value;
  shownLines = LINES;
  showCards();
  showLines();
}

// A gallery holds a few photographs of each kind; what is asked for by class or kind is sought among all.
function showAllOf() {
  chooseGallery(data.galleries.length - 1);
  byId("photographs").scrollIntoView();
}

function showKind({ run, kind }) {
  const own = data.galleries.findIndex((gallery) => gallery.key === kind && gallery.run === Number(run));
  byId("filters").reset();
  if (own < 0) byId("kind").value = `${run}:${data.keys.indexOf(kind)}`;
  chooseGallery(own < 0 ? data.galleries.length - 1 : own);
  byId("photographs").scrollIntoView();
}

function startFilters() {
  const option = (value, text) => make("option", { value }, text);
  const labels = [...new Set(data.labels)].sort((a, b) => a - b);
  byId("class").append(...labels.map((label) => option(label, data.classes[label])));
  for (const [run, found] of data.found.entries()) {
    const there = new Set(found.map((one) => one[KIND]));
    const kinds = data.kinds.map((name, kind) => there.has(kind) && option(`${run}:${kind}`, name)).filter(Boolean);
    byId("kind").append(...(several ? [make("optgroup", { label: `${LETTERS[run]} ${data.runs[run].name}` }, ...kinds)] : kinds));
  }
  const orders = ORDERS.filter(([key]) => (key !== "trust" || data.trust) && (!["low", "high"].includes(key) || data.boxes));
  byId("order").append(...orders.map(([key, name]) => option(key, name)));
  byId("filters").addEventListener("input", () => {
    shownCards = PAGE;
    refresh();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(refresh)); // once the fields are empty
  for (const button of document.querySelectorAll(".kinds button")) button.addEventListener("click", () => showKind(button.dataset));
}

startFilters();
startClasses();
startList();
startGallery();
startSliders(redrawAll);
chooseGallery(0);
