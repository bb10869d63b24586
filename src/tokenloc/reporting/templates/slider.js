// The threshold of each run: its stop, the box of an image at it, and what moves with it.
const stops = data.sliders.map((slider) => (slider === null ? 0 : slider.start));

// Boxes are stored where they change: six numbers, the first is the stop from which the others hold.
function boxAt(steps, stop) {
  let low = 0, high = steps.length / 6 - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (steps[6 * middle] <= stop) low = middle;
    else high = middle - 1;
  }
  return steps.slice(6 * low + 1, 6 * low + 6);
}

function showThreshold(run) {
  const { thresholds, start, gt_known: known } = data.sliders[run];
  const slider = document.querySelector(`.slider[data-run="${run}"]`);
  const value = String(Number(thresholds[stops[run]].toPrecision(3)));
  const accuracy = known[stops[run]] === null ? "" : `GT-known ${known[stops[run]].toFixed(1)} %`;
  slider.querySelector("output").replaceChildren(make("b", {}, value), make("span", {}, accuracy));
  slider.querySelector("input").setAttribute("aria-valuetext", `${value}${accuracy ? `, ${accuracy}` : ""}`);
  slider.querySelector(".reset").disabled = stops[run] === start;
  for (const marker of document.querySelectorAll(`.marker[data-run="${run}"]`)) {
    const moved = (thresholds[stops[run]] - thresholds[start]) * Number(marker.dataset.span);
    marker.setAttribute("transform", `translate(${moved.toFixed(1)} 0)`);
  }
}

let pending = false;
function moveSlider(run, stop) {
  stops[run] = stop;
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    data.sliders.forEach((slider, index) => slider && showThreshold(index));
    updateCards();
  });
}

for (const slider of document.querySelectorAll(".slider")) {
  const run = Number(slider.dataset.run), input = slider.querySelector("input");
  input.addEventListener("input", () => moveSlider(run, Number(input.value)));
  slider.querySelector(".reset").addEventListener("click", () => {
    input.value = data.sliders[run].start;
    input.focus();
    moveSlider(run, data.sliders[run].start);
  });
  showThreshold(run);
}
