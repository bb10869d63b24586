// Tables that sort by a click on a column's header: classes, whose rows are in the page, and images.
const ROWS = 50;
let visibleRows = ROWS;
const sorting = { column: 0, direction: 1 };

// Calls sort(column, direction) for a click on a header; a second click reverses the direction.
function onSort(headers, sort) {
  headers.forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => {
      const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headers.forEach((each) => each.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      sort(column, direction);
    }),
  );
}

const classTable = byId("class-table"), classRows = classTable.tBodies[0];
function classValue(row, column) {
  const text = row.cells[column].dataset.value;
  return column === 0 ? text : text === "" ? null : Number(text);
}
onSort([...classTable.tHead.rows[classTable.tHead.rows.length - 1].cells], (column, direction) => {
  classRows.append(...[...classRows.rows].sort((a, b) => compareValues(classValue(a, column), classValue(b, column), direction)));
});
classRows.addEventListener("click", (event) => {
  const name = event.target.closest("[data-class]")?.dataset.class;
  if (name === undefined) return;
  byId("label").value = String(data.classes.indexOf(name));
  showGallery();
});

const columns = [
  { name: "Image", value: (image) => data.ids[image], text: true },
  { name: "Class", value: (image) => data.classes[data.labels[image]], text: true },
  ...data.names.flatMap((_, run) => {
    const value = (index) => (image) => data.predictions[run][image][index];
    const named = (index, names) => (image) => names[value(index)(image)] ?? null;
    return [
      data.judged && { run, name: "Predicted", value: named(PREDICTED, data.classes), text: true },
      data.boxes && { run, name: "IoU", value: value(IOU) },
      data.judged && { run, name: "Kind", value: named(KIND, data.kinds), text: true },
      data.confidence && { run, name: "Confidence", value: value(CONFIDENCE) },
    ].filter(Boolean);
  }),
];

function makeCell(column, image) {
  const value = column.value(image);
  if (column.text) return make("td", {}, ...breakable(value ?? "-"));
  return make("td", { class: "value" }, value === null ? "-" : hundredths(value));
}

function showRows() {
  const column = columns[sorting.column];
  const images = data.ids.map((_, image) => image).filter(passes);
  images.sort((a, b) => compareValues(column.value(a), column.value(b), sorting.direction));
  const rows = images.slice(0, visibleRows).map((image) => make("tr", {}, ...columns.map((each) => makeCell(each, image))));
  byId("list").tBodies[0].replaceChildren(...rows);
  byId("more-rows").hidden = images.length <= visibleRows;
  byId("more-rows").textContent = `Show more (${Math.min(visibleRows, images.length)} of ${images.length})`;
}

const headers = columns.map((column, index) => {
  const button = make("button", { type: "button" }, column.run === undefined ? null : badge(column.run), column.name);
  const attributes = { scope: "col", class: column.text ? null : "value", "aria-sort": index === 0 ? "ascending" : null };
  return make("th", attributes, button);
});
onSort(headers, (column, direction) => {
  Object.assign(sorting, { column, direction });
  showRows();
});
byId("list").tHead.append(make("tr", {}, ...headers));
byId("more-rows").addEventListener("click", () => {
  visibleRows += ROWS;
  showRows();
});
chooseGallery(0);
