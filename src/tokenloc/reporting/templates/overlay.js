// An image with boxes and, optionally, a heatmap over it.

// Returns { frame, svg }: `frame` is the element to show, `svg` takes the boxes, in coordinates 0 … unit on either axis.
// `source` and `heatmap` are URLs or null; `size` is [width, height].
function imageFrame({ size, unit, source = null, heatmap = null, alt = "" }) {
  const [width, height] = size;
  const frame = make("div", { class: width >= height ? "image wide" : "image tall", style: `aspect-ratio:${width}/${height}` });
  frame.append(source ? make("img", { src: source, alt }) : make("span", { class: "no-image" }, "no image"));
  if (heatmap) frame.append(make("img", { class: "heatmap", src: heatmap, alt: "" }));
  const svg = makeSvg("svg", { viewBox: `0 0 ${unit} ${unit}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  frame.append(svg);
  return { frame, svg };
}

// Adds a box [x0, y0, x1, y1] with a dark halo; `name` is its class: "truth", "predicted" or "predicted run-N".
function addBox(svg, name, box) {
  const rectangles = [makeSvg("rect", { class: "halo" }), makeSvg("rect", { class: name })];
  svg.append(...rectangles);
  moveBox(rectangles, box);
  return rectangles;
}

// Moves the rectangles of addBox; an empty box is hidden.
function moveBox(rectangles, [x0, y0, x1, y1]) {
  for (const rectangle of rectangles) {
    const attributes = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    for (const [name, value] of Object.entries(attributes)) rectangle.setAttribute(name, value);
    rectangle.style.display = x1 > x0 ? "" : "none";
  }
}
