// The report's data, and the filters that apply to the galleries and to the table of images.
const data = JSON.parse(byId("data").textContent);
const several = data.sliders.length > 1;
const LETTERS = "ABCDEF";
const PREDICTED = 0, IOU = 1, KIND = 2, CONFIDENCE = 3; // indices into data.predictions[run][image]
const ORDERS = [["", "default"], ["low", "lowest IoU"], ["high", "highest IoU"], ["confidence", "lowest confidence"], ["name", "file name"]];
const state = { gallery: 0, text: "", label: "", kind: "", order: "" }; // kind is RUN:KIND
const searched = data.ids.map((id, image) => `${id}\n${data.classes[data.labels[image]]}`.toLowerCase());
const badge = (run) => (several ? make("span", { class: `badge run-${run}` }, LETTERS[run]) : null);

function passes(image) {
  if (state.label !== "" && data.labels[image] !== Number(state.label)) return false;
  if (state.kind !== "") {
    const [run, kind] = state.kind.split(":").map(Number);
    if (data.predictions[run][image][KIND] !== kind) return false;
  }
  return state.text === "" || searched[image].includes(state.text);
}

function refresh() {
  state.text = byId("search").value.trim().toLowerCase();
  for (const key of ["label", "kind", "order"]) state[key] = byId(key).value;
  visibleRows = ROWS;
  showCards();
  showRows();
}

// Shows a gallery, by default that of all images.
function showGallery(index = data.galleries.length - 1) {
  chooseGallery(index);
  byId("images").scrollIntoView();
}

function showKind({ run, kind }) {
  const own = data.galleries.findIndex((gallery) => gallery.key === kind && gallery.run === Number(run));
  byId("filters").reset();
  if (own < 0) byId("kind").value = `${run}:${data.keys.indexOf(kind)}`;
  showGallery(own < 0 ? undefined : own);
}

const option = (value, text) => make("option", { value }, text);
const labels = [...new Set(data.labels)].sort((a, b) => a - b);
byId("label").append(...labels.map((label) => option(label, data.classes[label])));
for (const [run, images] of data.predictions.entries()) {
  const present = new Set(images.map((values) => values[KIND]));
  const kinds = data.kinds.map((name, kind) => present.has(kind) && option(`${run}:${kind}`, name)).filter(Boolean);
  byId("kind").append(...(several ? [make("optgroup", { label: `${LETTERS[run]} ${data.names[run]}` }, ...kinds)] : kinds));
}
byId("kind").parentElement.hidden = !data.judged;
const orders = ORDERS.filter(([key]) => (key !== "confidence" || data.confidence) && (!["low", "high"].includes(key) || data.boxes));
byId("order").append(...orders.map(([key, name]) => option(key, name)));
byId("filters").addEventListener("input", () => {
  visibleCards = PAGE;
  refresh();
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("reset", () => setTimeout(refresh)); // after the fields are empty
for (const button of document.querySelectorAll(".kinds button")) button.addEventListener("click", () => showKind(button.dataset));
