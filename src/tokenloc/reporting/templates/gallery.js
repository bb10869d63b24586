// Galleries: cards of photographs with the boxes of all runs at their thresholds.
const PAGE = 24;
const cards = new Map(); // of the images on the page: what a slider redraws
let shownCards = PAGE;

function overlay(one) {
  const svg = drawn("svg", { viewBox: `0 0 ${data.unit} ${data.unit}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const rectangle = (name, [x0, y0, x1, y1]) => {
    const size = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    svg.append(drawn("rect", { class: "halo", ...size }), drawn("rect", { class: name, ...size }));
  };
  one.truth.forEach((box) => rectangle("truth", box));
  data.runs.forEach((_, run) => one.boxes[run].length && rectangle(`found run-${run}`, [0, 0, 0, 0]));
  return svg;
}

function pictureOf(image) {
  const one = data.shown[image];
  const [width, height] = one.size ?? [4, 3];
  const frame = make("div", { class: width >= height ? "picture wide" : "picture tall", style: `aspect-ratio:${width}/${height}` });
  if (one.picture) {
    const source = `data:image/jpeg;base64,${byId(`picture-${image}`).textContent}`;
    frame.append(make("img", { src: source, alt: `${data.classes[data.labels[image]]}: ${data.ids[image]}` }));
  } else {
    frame.append(make("span", { class: "nothing" }, "no picture"));
  }
  const svg = overlay(one);
  const tags = data.runs.map((_, run) => (several && one.boxes[run].length ? make("span", { class: `badge tag run-${run}`, "aria-hidden": "true" }, LETTERS[run]) : null));
  frame.append(svg, ...tags.filter((tag) => tag !== null));
  return { frame, svg, tags };
}

function resultOf(image, run) {
  const [predicted, iou, kind, trust] = data.found[run][image];
  const value = make("b", { class: "iou" }, iou === null ? "" : `IoU ${hundredths(iou)}`);
  const wrong = predicted !== null && predicted !== data.labels[image];
  const line = make("p", { class: "result" }, badge(run), iou === null ? null : value);
  if (kind !== null && kind !== 0 && !wrong) line.append(make("span", { class: "pill" }, data.kinds[kind]));
  if (trust !== null) line.append(make("span", { class: "trust" }, `trust ${hundredths(trust)}`));
  if (wrong) line.append(make("span", { class: "wrong" }, "taken for ", ...breakable(data.classes[predicted])));
  return { line, value };
}

function card(image) {
  const { frame, svg, tags } = pictureOf(image);
  const results = data.runs.map((_, run) => resultOf(image, run));
  const caption = make("figcaption", {}, make("strong", {}, ...breakable(data.classes[data.labels[image]])));
  caption.append(make("span", { class: "file", title: data.ids[image] }, shortName(data.ids[image])), ...results.map((result) => result.line));
  cards.set(image, { svg, tags, values: results.map((result) => result.value) });
  return make("figure", { class: "card", "data-image": image }, make("div", { class: "frame" }, frame), caption);
}

function redraw(image) {
  const { svg, tags, values } = cards.get(image);
  data.runs.forEach((_, run) => {
    const steps = data.shown[image].boxes[run];
    if (!steps.length) return;
    const [x0, y0, x1, y1, iou] = boxAt(steps, stops[run]);
    const found = svg.querySelector(`.found.run-${run}`);
    for (const rectangle of [found, found.previousSibling]) {
      const size = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
      for (const [name, value] of Object.entries(size)) rectangle.setAttribute(name, value);
      rectangle.style.display = x1 > x0 ? "" : "none"; // nothing exceeds the threshold: no box
    }
    if (tags[run]) {
      const [x, y] = [[x0, y0], [x1, y0], [x0, y1], [x1, y1], [x1, y0], [x0, y1]][run]; // a corner of its own
      tags[run].style.left = `${(100 * x) / data.unit}%`;
      tags[run].style.top = `${(100 * y) / data.unit}%`;
      tags[run].hidden = x1 <= x0;
    }
    values[run].textContent = x1 > x0 ? `IoU ${hundredths(iou / data.unit)}` : "no box";
    // The kind of error is that of the reported threshold: at another it fades.
    values[run].parentNode.classList.toggle("moved", stops[run] !== data.runs[run].slider.start);
    values[run].className = iou >= data.unit / 2 ? "iou hit" : "iou miss";
  });
}

const redrawAll = () => cards.forEach((_, image) => redraw(image));

const ORDERS = [["", "as chosen"], ["low", "lowest IoU"], ["high", "highest IoU"], ["trust", "least trusted"], ["name", "file name"]];

// A number by the gallery's own run; where it is of all runs, their mean.
function numberOf(image, place) {
  const { run } = data.galleries[state.gallery];
  const values = data.found.map((found) => found[image][place]);
  if (run !== null) return values[run];
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value) / known.length : null;
}

function ordered(images) {
  const of = numberOf;
  const by = {
    low: (a, b) => compared(of(a, IOU), of(b, IOU), 1),
    high: (a, b) => compared(of(a, IOU), of(b, IOU), -1),
    trust: (a, b) => compared(of(a, TRUST), of(b, TRUST), 1),
    name: (a, b) => compared(data.ids[a], data.ids[b], 1),
  }[state.order];
  return by ? [...images].sort(by) : images;
}

function showCards() {
  const images = ordered(data.galleries[state.gallery].images.filter(passes));
  const page = images.slice(0, shownCards);
  cards.clear();
  byId("cards").replaceChildren(...page.map(card));
  redrawAll();
  byId("more").hidden = images.length <= shownCards;
  const some = page.length < images.length ? `${page.length} of ` : "";
  byId("count").textContent = `${some}${images.length} photograph${images.length === 1 ? "" : "s"}${images.length ? "" : ": none passes the filter here"}`;
}

function chip(gallery, index) {
  const total = gallery.total === null ? null : make("span", { class: "total" }, String(gallery.total));
  const button = make("button", { type: "button", "data-key": gallery.key, "data-gallery": index }, gallery.title, total);
  button.addEventListener("click", () => chooseGallery(index));
  return button;
}

// A row of galleries for each run, after those of all runs together.
function chipRows() {
  const rows = [null, ...data.runs.keys()].map((run) => {
    const chips = data.galleries.map((gallery, index) => (gallery.run === run ? chip(gallery, index) : null)).filter(Boolean);
    const name = several && run !== null ? make("span", {}, badge(run), data.runs[run].name) : null;
    return chips.length ? make("div", { class: "chips" }, name, ...chips) : null;
  });
  if (several) return rows.filter(Boolean);
  rows[1].append(...rows[0].children); // of one run, all in one row
  return [rows[1]];
}

function chooseGallery(index) {
  state.gallery = index;
  shownCards = PAGE;
  for (const other of document.querySelectorAll("[data-gallery]")) other.setAttribute("aria-pressed", String(Number(other.dataset.gallery) === index));
  refresh();
}

function startGallery() {
  byId("galleries").append(...chipRows());
  byId("more").addEventListener("click", () => {
    shownCards += PAGE;
    showCards();
  });
}
