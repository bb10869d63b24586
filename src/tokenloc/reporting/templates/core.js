// Helpers for any page. Text is only ever set as text, never parsed as HTML.
const byId = (id) => document.getElementById(id);

// An HTML element. Attributes that are true are set empty, those that are false or null are left out.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Truncates instead of rounding, so that 0.499 does not read as a hit at 0.50.
const hundredths = (value) => (Math.floor(value * 100 + 1e-6) / 100).toFixed(2);
const fileName = (id) => id.slice(id.lastIndexOf("/") + 1);

// A name that may wrap after a separator.
function breakable(name) {
  return name.split(/(?<=[_./-])/).flatMap((part) => [part, make("wbr")]);
}

// Compares two values for sorting; null comes last in either direction.
function compareValues(a, b, direction) {
  if (a === b) return 0;
  if (a === null) return 1;
  if (b === null) return -1;
  return (a < b ? -1 : 1) * direction;
}
