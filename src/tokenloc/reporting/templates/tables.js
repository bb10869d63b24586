// Tables that sort by a click on a column's head: that of classes, whose lines are on the page, and that of photographs.
const LINES = 50;
let shownLines = LINES;
const sorting = { column: 0, direction: 1 };

function mark(heads, column, direction) {
  heads.forEach((head, index) => {
    if (index === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
}

const turned = (head) => (head.getAttribute("aria-sort") === "ascending" ? -1 : 1);

function startClasses() {
  const table = byId("class-table"), body = table.tBodies[0];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const value = (row, column) => {
    const text = row.cells[column].dataset.value;
    return column === 0 ? text : text === "" ? null : Number(text);
  };
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      const direction = turned(head);
      mark(heads, column, direction);
      body.append(...[...body.rows].sort((a, b) => compared(value(a, column), value(b, column), direction)));
    }),
  );
  body.addEventListener("click", (event) => {
    const name = event.target.closest("[data-class]")?.dataset.class;
    if (name === undefined) return;
    byId("class").value = String(data.classes.indexOf(name));
    showAllOf();
  });
}

const columns = [
  { name: "Photograph", of: (image) => data.ids[image], text: true },
  { name: "Class", of: (image) => data.classes[data.labels[image]], text: true },
  ...data.runs.flatMap((_, run) => {
    const of = (place) => (image) => data.found[run][image][place];
    const named = (place, names) => (image) => (of(place)(image) === null ? null : names[of(place)(image)]);
    return [
      { run, name: "Predicted", of: named(PREDICTED, data.classes), text: true },
      data.boxes && { run, name: "IoU", of: of(IOU) },
      { run, name: "Kind", of: named(KIND, data.kinds), text: true },
      data.trust && { run, name: "Trust", of: of(TRUST) },
    ].filter(Boolean);
  }),
];

function cell(column, image) {
  const value = column.of(image);
  if (column.text) return make("td", {}, ...breakable(value ?? "-"));
  return make("td", { class: "value" }, value === null ? "-" : hundredths(value));
}

function showLines() {
  const column = columns[sorting.column];
  const images = data.ids.map((_, image) => image).filter(passes);
  images.sort((a, b) => compared(column.of(a), column.of(b), sorting.direction));
  const lines = images.slice(0, shownLines).map((image) => make("tr", {}, ...columns.map((one) => cell(one, image))));
  byId("list").tBodies[0].replaceChildren(...lines);
  byId("more-lines").hidden = images.length <= shownLines;
  byId("more-lines").textContent = `Show more (${Math.min(shownLines, images.length)} of ${images.length})`;
}

function startList() {
  const heads = columns.map((column, index) => {
    const button = make("button", { type: "button" }, column.run === undefined ? null : badge(column.run), column.name);
    const head = make("th", { scope: "col", class: column.text ? null : "value" }, button);
    button.addEventListener("click", () => {
      Object.assign(sorting, { column: index, direction: turned(head) });
      mark(heads, index, sorting.direction);
      showLines();
    });
    return head;
  });
  mark(heads, 0, 1);
  byId("list").tHead.append(make("tr", {}, ...heads));
  byId("more-lines").addEventListener("click", () => {
    shownLines += LINES;
    showLines();
  });
}
