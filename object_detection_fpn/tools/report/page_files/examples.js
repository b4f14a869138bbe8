
// The images: thumbnails with boxes as SVG and masks on a canvas above them.
const COLORS = {
  true: "#1a7f37", classification: "#8250df", localization: "#bc4c00", both: "#7d4e00", duplicate: "#57606a",
  background: "#cf222e", ignored: "#8c959f", object: "#0969da", missed: "#e85aad", crowd: "#8c959f",
};
const WORDS = {
  true: "right", object: "groundtruth, found", missed: "groundtruth, missed", ignored: "in a crowd, ignored", crowd: "groundtruth, crowd",
};
const IMAGES_AT_ONCE = 24;
const NO_ERRORS = ["true", "ignored", "object", "crowd"];

const enlarged = new Set();  // numbers of images
const checked = (id) => document.getElementById(id).checked;

// What is drawn of an image as the toggles say; chosenClass is null for all.
function visibleBoxes(image, chosenClass) {
  const minScore = Number(document.getElementById("min-score").value);
  const isWanted = (box) => (chosenClass === null || box.class === chosenClass) && !(checked("only-errors") && NO_ERRORS.includes(box.kind));
  const groundtruth = checked("show-groundtruth") ? image.groundtruth.filter(isWanted) : [];
  const detections = checked("show-detections") ? image.detections.filter((box) => isWanted(box) && box.score >= minScore) : [];
  return [...groundtruth, ...detections.reverse()];
}

function drawMasks(canvas, image, boxes) {
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d");
  for (const box of boxes) {
    if (!box.mask) continue;
    const [left, top, width, height] = box.mask.frame;
    const color = COLORS[box.kind].match(/\w\w/g).map((part) => parseInt(part, 16));
    const part = new ImageData(width, height);
    let begin = 0;
    box.mask.runs.forEach((length, run) => {
      if (run % 2) for (let i = begin; i < begin + length; i++) part.data.set([...color, 110], 4 * i);
      begin += length;
    });
    const layer = el("canvas", { width, height });
    layer.getContext("2d").putImageData(part, 0, 0);
    context.drawImage(layer, left, top);
  }
}

function drawBox(box, image, names, isLarge) {
  const [x, y, width, height] = box.box;
  const isGroundtruth = box.score === undefined;
  const unit = image.width / (isLarge ? 900 : 290);
  const shape = svg("rect", {
    x, y, width, height, fill: "none", stroke: COLORS[box.kind], "stroke-width": 2 * unit,
    "stroke-dasharray": isGroundtruth ? `${5 * unit} ${4 * unit}` : null,
  }, svg("title", {}, `${names[box.class]}${isGroundtruth ? "" : " " + fixed(box.score)}: ${WORDS[box.kind] || box.kind}`));
  if (!checked("show-labels") || (isGroundtruth && box.kind !== "missed")) return shape;
  const text = isGroundtruth ? `${names[box.class]} missed` : `${names[box.class]} ${fixed(box.score)}`;
  const size = 11 * unit, long = text.length * 0.6 * size + 4 * unit;
  const left = Math.max(0, Math.min(x, image.width - long));
  // Above the box, those of groundtruth below it; inside the image.
  const top = isGroundtruth ? Math.min(y + height, image.height - 1.3 * size) : Math.max(0, y - 1.3 * size);
  return [shape,
    svg("rect", { x: left, y: top, width: long, height: 1.3 * size, fill: COLORS[box.kind], opacity: 0.85 }),
    svg("text", { x: left + 2 * unit, y: top + size, "font-size": size, style: `font-size:${size}px` }, text)];
}

function figure(image, names, chosenClass) {
  const canvas = el("canvas", {});
  const overlay = svg("svg", { viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: "none" });
  const draw = () => {
    const isLarge = enlarged.has(image.number);
    node.classList.toggle("large", isLarge);
    const boxes = visibleBoxes(image, chosenClass);
    drawMasks(canvas, image, checked("show-masks") ? boxes : []);
    overlay.replaceChildren(...boxes.map((box) => drawBox(box, image, names, isLarge)).flat());
  };
  const errors = image.detections.filter((box) => !NO_ERRORS.includes(box.kind) && box.score >= 0.5).length;
  const objects = image.groundtruth.filter((box) => box.kind !== "crowd").length;
  const missed = image.groundtruth.filter((box) => box.kind === "missed").length;
  const node = el("figure", { "data-number": image.number, onclick: () => { enlarged.delete(image.number) || enlarged.add(image.number); draw(); } },
    el("div", { class: "picture" },
      el("img", { src: `data:image/jpeg;base64,${image.jpeg}`, width: image.width, height: image.height, alt: image.name }), canvas, overlay),
    el("figcaption", {}, image.name || `image ${image.number}`,
      el("small", {}, (objects ? `AP50 ${percent(image.quality)} · ${objects} objects · ${missed} missed` : "no objects") + ` · ${errors} false`)));
  draw();
  return node;
}

function showImages(container, images, names, chosenClass, numShown = IMAGES_AT_ONCE) {
  const role = document.getElementById("role").value;
  const minScore = Number(document.getElementById("min-score").value);
  const isOfClass = (box) => box.class === chosenClass && (box.score === undefined || box.score >= minScore);
  const hasClass = (image) => chosenClass === null || [...image.groundtruth, ...image.detections].some(isOfClass);
  const wanted = images.filter((image) => (role === "" || image.roles.includes(role)) && hasClass(image));
  // The images stand worst first.
  if (role === "best") wanted.sort((a, b) => b.quality - a.quality);
  container.replaceChildren(...wanted.slice(0, numShown).map((image) => figure(image, names, chosenClass)));
  if (!wanted.length) container.append(el("p", { class: "empty" }, "None of the images on this page. Choose all images, or all classes."));
  if (wanted.length > numShown) {
    const more = () => showImages(container, images, names, chosenClass, numShown + IMAGES_AT_ONCE);
    container.append(el("button", { class: "more", type: "button", onclick: more }, `${wanted.length - numShown} more`));
  }
}
