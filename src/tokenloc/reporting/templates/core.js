// What all parts share: the data, the state of the filters, and making elements. Text is only ever set as text.
const data = JSON.parse(document.getElementById("data").textContent);
const several = data.runs.length > 1;
const LETTERS = "ABCDEF";
const PREDICTED = 0, IOU = 1, KIND = 2, TRUST = 3; // places in data.found[run][image]
const state = { gallery: 0, text: "", label: "", kind: "", order: "" }; // kind is RUN:KIND
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function drawn(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const badge = (run) => (several ? make("span", { class: `badge run-${run}` }, LETTERS[run]) : null);
// Cut, not rounded: 0.499 must not read as a hit at 0.50.
const hundredths = (value) => (Math.floor(value * 100 + 1e-6) / 100).toFixed(2);
const shortName = (id) => id.slice(id.lastIndexOf("/") + 1);

// A name that may break where its parts meet.
function breakable(name) {
  return name.split(/(?<=[_./-])/).flatMap((part) => [part, make("wbr")]);
}

const lowered = data.ids.map((id, image) => `${id}\n${data.classes[data.labels[image]]}`.toLowerCase());

function passes(image) {
  if (state.label !== "" && data.labels[image] !== Number(state.label)) return false;
  if (state.kind !== "") {
    const [run, kind] = state.kind.split(":").map(Number);
    if (data.found[run][image][KIND] !== kind) return false;
  }
  return state.text === "" || lowered[image].includes(state.text);
}

// Numbers ascend with what is missing last, whichever way the others go.
function compared(a, b, direction) {
  if (a === b) return 0;
  if (a === null) return 1;
  if (b === null) return -1;
  return (a < b ? -1 : 1) * direction;
}
