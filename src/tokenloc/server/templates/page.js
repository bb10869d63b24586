// The server's page: sends an image to /predict, draws its boxes, and redraws them at other thresholds from /results.
const BOXES = 1, PREDICTION = 2; // what a change affects
const thresholds = JSON.parse(byId("data").textContent); // each model's own
const file = byId("file"), results = byId("results"), slider = byId("threshold");
let image = null; // the chosen file
let threshold = null; // null for the model's own
let token = null; // of the result that the server keeps
let sections = []; // one for each class on the page

async function request(url, options) {
  const response = await fetch(url, options).catch(() => null);
  if (!response) throw new Error("The server does not answer. Is it still running?");
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw Object.assign(new Error(error ?? `The server answered with status ${response.status}.`), { status: response.status });
}

function boxSettings() {
  return { objects: byId("objects").value, ...(threshold === null ? {} : { threshold }) };
}

async function predict() {
  if (image.size > Number(file.dataset.maxBytes)) {
    throw new Error(`${image.name} has ${(image.size / 1e6).toFixed(1)} MB; the limit is ${file.dataset.maxBytes / 1e6} MB`);
  }
  const form = new FormData();
  const values = { image, model: byId("model").value, top_k: byId("top_k").value, refine: byId("refine").value, images: true, keep: true, ...boxSettings() };
  for (const [name, value] of Object.entries(values)) form.set(name, value);
  const answer = await (await request("/predict", { method: "POST", body: form })).json();
  token = answer.result;
  return answer;
}

// Requests a path of the kept result; sends the image again if the server no longer keeps it.
async function requestResult(path) {
  const send = () => request(`/results/${token}${path}?${new URLSearchParams(boxSettings())}`);
  try {
    return await send();
  } catch (error) {
    if (error.status !== 404) throw error;
    await predict();
    return send();
  }
}

function makeSection({ width, height, label, score, map }, photo) {
  const frames = [null, `data:image/png;base64,${map}`].map((heatmap) => {
    const { frame, svg } = imageFrame({ size: [width, height], unit: 1, source: `data:image/jpeg;base64,${photo}`, heatmap });
    frame.style.width = `min(100%, calc(75vh * ${width / height}))`;
    const caption = make("figcaption");
    return { figure: make("figure", {}, frame, caption), svg, caption };
  });
  const head = make("h3", {}, label, " ", make("small", {}, `${Math.round(100 * score)}%`));
  const table = make("div", { class: "scroll", hidden: true });
  const element = make("section", {}, head, make("div", { class: "pair" }, ...frames.map((one) => one.figure)), table);
  return { element, frames, table };
}

function drawBoxes({ frames, table }, { width, height, boxes, confidence, threshold: used }) {
  for (const { svg } of frames) {
    svg.replaceChildren();
    for (const [x0, y0, x1, y1] of boxes) addBox(svg, "predicted run-0", [x0 / width, y0 / height, x1 / width, y1 / height]);
  }
  frames[0].caption.textContent = boxes.length ? `${boxes.length} box${boxes.length === 1 ? "" : "es"}` : "no box: nothing exceeds the threshold";
  frames[1].caption.textContent = `map, threshold ${used.toFixed(2)}`;
  const row = (cell, values) => make("tr", {}, ...values.map((value) => make(cell, { class: "value" }, value)));
  const rows = boxes.map((box, index) => row("td", [...box.map((value) => value.toFixed(1)), hundredths(confidence[index])]));
  const head = make("thead", {}, row("th", ["left", "top", "right", "bottom", "confidence"]));
  table.replaceChildren(make("table", {}, head, make("tbody", {}, ...rows)));
  table.hidden = boxes.length === 0;
}

function draw({ predictions, image: photo }) {
  if (photo) { // absent when only boxes have changed
    sections = predictions.map((prediction) => makeSection(prediction, photo));
    results.replaceChildren(...sections.map((section) => section.element));
  }
  predictions.forEach((prediction, index) => drawBoxes(sections[index], prediction));
  byId("download").disabled = false;
}

// Sets the threshold of the boxes; null for the model's own.
function setThreshold(value) {
  threshold = value;
  slider.value = value ?? thresholds[byId("model").value];
  document.querySelector(".slider output").replaceChildren(make("b", {}, Number(slider.value).toFixed(2)));
  byId("reset").disabled = value === null;
}

function clearResults(...children) {
  [sections, token] = [[], null];
  byId("download").disabled = true;
  results.replaceChildren(...children);
}

const showError = (error) => clearResults(make("p", { class: "error", role: "alert" }, error.message));

async function show(change) {
  if (!image) return clearResults(make("p", { class: "hint" }, "Choose an image to see its boxes here."));
  results.classList.add("busy");
  try {
    draw(change === BOXES && token !== null ? await (await requestResult("")).json() : await predict());
  } catch (error) {
    showError(error);
  } finally {
    results.classList.remove("busy");
  }
}

// Shows what a change affects. Changes during a request are combined and shown after it.
let pending = 0, running = false;
async function update(change) {
  pending = Math.max(pending, change);
  if (running) return;
  running = true;
  while (pending) {
    change = pending;
    pending = 0;
    await show(change);
  }
  running = false;
}

function choose(chosen) {
  image = chosen;
  byId("chosen").hidden = !image;
  byId("chosen").firstChild.textContent = image ? image.name : "";
  if (!image) file.value = "";
  update(PREDICTION);
}

async function download() {
  const response = await requestResult(`/annotations/${byId("format").value}`);
  const link = make("a", { href: URL.createObjectURL(await response.blob()) });
  link.download = response.headers.get("Content-Disposition").match(/filename="(.*)"/)[1];
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

for (const id of ["top_k", "refine"]) byId(id).addEventListener("input", () => update(PREDICTION));
byId("objects").addEventListener("input", () => update(BOXES));
slider.addEventListener("input", () => {
  setThreshold(Number(slider.value));
  update(BOXES);
});
byId("reset").addEventListener("click", () => {
  setThreshold(null);
  slider.focus();
  update(BOXES);
});
byId("model").addEventListener("input", () => {
  setThreshold(null);
  update(PREDICTION);
});
byId("download").addEventListener("click", () => download().catch(showError));
byId("clear").addEventListener("click", () => choose(null));
file.addEventListener("change", () => file.files.length && choose(file.files[0]));
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", type === "dragover");
    if (type === "drop" && event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
  });
}
setThreshold(null);
update(PREDICTION);
