// Galleries: cards of images with the boxes of all runs at their thresholds.
const PAGE = 24;
const cards = new Map(); // by image index: what a slider updates
let visibleCards = PAGE;

function makeImage(index) {
  const { size, truth, boxes, others, thumbnail } = data.images[index];
  const source = thumbnail ? `data:image/jpeg;base64,${byId(`image-${index}`).textContent}` : null;
  const alt = `${data.classes[data.labels[index]]}: ${data.ids[index]}`;
  const { frame, svg } = imageFrame({ size: size ?? [4, 3], unit: data.unit, source, alt });
  truth.forEach((box) => addBox(svg, "truth", box));
  others.forEach((box) => addBox(svg, "predicted run-0", box));
  const rectangles = boxes.map((steps, run) => (steps.length ? addBox(svg, `predicted run-${run}`, [0, 0, 0, 0]) : null));
  const tags = rectangles.map((drawn, run) => (several && drawn ? make("span", { class: `badge tag run-${run}`, "aria-hidden": "true" }, LETTERS[run]) : null));
  frame.append(...tags.filter(Boolean));
  return { frame, rectangles, tags };
}

function makeResult(image, run) {
  const [predicted, iou, kind, confidence] = data.predictions[run][image];
  const value = make("b", { class: "iou" }, iou === null ? "" : `IoU ${hundredths(iou)}`);
  const wrong = predicted !== null && predicted !== data.labels[image];
  const line = make("p", { class: "result" }, badge(run), iou === null ? null : value);
  if (kind !== null && !["correct", "unjudged"].includes(data.keys[kind]) && !wrong) line.append(make("span", { class: "pill" }, data.kinds[kind]));
  if (confidence !== null) line.append(make("span", { class: "confidence" }, `confidence ${hundredths(confidence)}`));
  if (wrong) line.append(make("span", { class: "wrong" }, "predicted: ", ...breakable(data.classes[predicted])));
  return { line, value };
}

function makeCard(image) {
  const { frame, ...drawn } = makeImage(image);
  const results = data.names.map((_, run) => makeResult(image, run));
  const caption = make("figcaption", {}, make("strong", {}, ...breakable(data.classes[data.labels[image]])));
  caption.append(make("span", { class: "file", title: data.ids[image] }, fileName(data.ids[image])), ...results.map((result) => result.line));
  cards.set(image, { ...drawn, values: results.map((result) => result.value) });
  return make("figure", { class: "card", "data-image": image }, make("div", { class: "frame" }, frame), caption);
}

function updateCard({ rectangles, tags, values }, image) {
  data.images[image].boxes.forEach((steps, run) => {
    if (!steps.length) return;
    const [x0, y0, x1, y1, iou] = boxAt(steps, stops[run]);
    moveBox(rectangles[run], [x0, y0, x1, y1]);
    if (tags[run]) {
      const [x, y] = [[x0, y0], [x1, y0], [x0, y1], [x1, y1], [x1, y0], [x0, y1]][run]; // runs use different corners
      tags[run].style.left = `${(100 * x) / data.unit}%`;
      tags[run].style.top = `${(100 * y) / data.unit}%`;
      tags[run].hidden = x1 <= x0;
    }
    values[run].textContent = x1 > x0 ? `IoU ${hundredths(iou / data.unit)}` : "no box";
    values[run].className = iou >= data.unit / 2 ? "iou hit" : "iou miss";
    // The kind of error is that of the reported threshold; at another one it fades.
    values[run].parentNode.classList.toggle("moved", stops[run] !== data.sliders[run].start);
  });
}

const updateCards = () => cards.forEach(updateCard);

// A value of the gallery's run, or the mean over runs in a gallery of all runs.
function galleryValue(image, column) {
  const { run } = data.galleries[state.gallery];
  const values = data.predictions.map((images) => images[image][column]);
  if (run !== null) return values[run];
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value) / known.length : null;
}

function sorted(images) {
  if (state.order === "") return images;
  const direction = state.order === "high" ? -1 : 1;
  const column = state.order === "confidence" ? CONFIDENCE : IOU;
  const key = state.order === "name" ? (image) => data.ids[image] : (image) => galleryValue(image, column);
  return [...images].sort((a, b) => compareValues(key(a), key(b), direction));
}

function showCards() {
  const images = sorted(data.galleries[state.gallery].images.filter(passes));
  const page = images.slice(0, visibleCards);
  cards.clear();
  byId("cards").replaceChildren(...page.map(makeCard));
  updateCards();
  byId("more").hidden = images.length <= visibleCards;
  const some = page.length < images.length ? `${page.length} of ` : "";
  byId("count").textContent = `${some}${images.length} image${images.length === 1 ? "" : "s"}${images.length ? "" : ": none passes the filter"}`;
}

function makeChip(gallery, index) {
  const total = gallery.total === null ? null : make("span", { class: "total" }, String(gallery.total));
  const button = make("button", { type: "button", "data-key": gallery.key, "data-gallery": index }, gallery.title, total);
  button.addEventListener("click", () => chooseGallery(index));
  return button;
}

// One row of buttons; with several runs one for the galleries of all runs and one for each run.
function chipRows() {
  const chips = data.galleries.map(makeChip);
  if (!several) return [make("div", { class: "chips" }, ...chips)];
  const rows = [null, ...data.names.keys()].map((run) => {
    const own = chips.filter((_, index) => data.galleries[index].run === run);
    const name = run === null ? null : make("span", {}, badge(run), data.names[run]);
    return own.length ? make("div", { class: "chips" }, name, ...own) : null;
  });
  return rows.filter(Boolean);
}

function chooseGallery(index) {
  state.gallery = index;
  visibleCards = PAGE;
  for (const button of document.querySelectorAll("[data-gallery]")) button.setAttribute("aria-pressed", String(Number(button.dataset.gallery) === index));
  refresh();
}

byId("galleries").append(...chipRows());
byId("more").addEventListener("click", () => {
  visibleCards += PAGE;
  showCards();
});
