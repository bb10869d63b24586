// The threshold of each run: its stop, the box of an image there, and what moves with it.
const stops = data.runs.map((run) => (run.slider === null ? 0 : run.slider.start));

// Boxes are listed where they change: six numbers from the stop on at which they hold.
function boxAt(steps, stop) {
  let low = 0, high = steps.length / 6 - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (steps[6 * middle] <= stop) low = middle;
    else high = middle - 1;
  }
  return steps.slice(6 * low + 1, 6 * low + 6);
}

function tell(run) {
  const { thresholds, start, gt_known: known } = data.runs[run].slider;
  const line = document.querySelector(`.slider[data-run="${run}"]`);
  const value = String(Number(thresholds[stops[run]].toPrecision(3)));
  const accuracy = known[stops[run]] === null ? "" : `GT-known ${known[stops[run]].toFixed(1)} %`;
  line.querySelector("output").replaceChildren(make("b", {}, value), make("span", {}, accuracy));
  line.querySelector("input").setAttribute("aria-valuetext", `${value}${accuracy ? `, ${accuracy}` : ""}`);
  line.querySelector(".reset").disabled = stops[run] === start;
  for (const marker of document.querySelectorAll(`.marker[data-run="${run}"]`)) {
    const moved = (thresholds[stops[run]] - thresholds[start]) * 316; // the chart's inner width
    marker.setAttribute("transform", `translate(${moved.toFixed(1)} 0)`);
  }
}

function startSliders(redraw) {
  let asked = false;
  const move = (run, stop) => {
    stops[run] = stop;
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      data.runs.forEach((other, index) => other.slider && tell(index));
      redraw();
    });
  };
  for (const line of document.querySelectorAll(".slider")) {
    const run = Number(line.dataset.run), input = line.querySelector("input");
    input.addEventListener("input", () => move(run, Number(input.value)));
    line.querySelector(".reset").addEventListener("click", () => {
      input.value = data.runs[run].slider.start;
      input.focus();
      move(run, data.runs[run].slider.start);
    });
    tell(run);
  }
}
