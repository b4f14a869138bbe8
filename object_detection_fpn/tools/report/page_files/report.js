
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const names = Object.fromEntries(data.classes.map((entry) => [entry.index, entry.name]));
  const background = Math.max(...data.classes.map((entry) => entry.index)) + 1;
  const state = { region: Object.keys(data.regions)[0], chosen: null };
  const content = (id) => document.querySelector(`#${id} .content`);
  const put = (id, ...children) => content(id).replaceChildren(...children.flat(Infinity).filter(Boolean));
  const region = () => data.regions[state.region];
  const classOf = (index) => region().classes.find((entry) => entry.index === index);
  const chosenOrAll = () => (state.chosen === null ? region() : classOf(state.chosen));
  const chosenName = () => (state.chosen === null ? "all classes" : names[state.chosen]);
  const MAX_MATRIX = 30;

  const AP = "Precision/mAP", AP50 = "Precision/mAP@.50IOU", AP75 = "Precision/mAP@.75IOU";
  const SIZES = ["small", "medium", "large"];
  const apBar = (value, color) => ({ text: percent(value), value, bar: value, color });

  function choose(index) {
    state.chosen = state.chosen === index ? null : index;
    document.getElementById("class").value = state.chosen === null ? "" : String(state.chosen);
    show();
  }

  function classRow(entry, cells) {
    return { cells: [{ text: names[entry.index], value: names[entry.index] }, ...cells], isChosen: entry.index === state.chosen, choose: () => choose(entry.index) };
  }

  function showSummary() {
    const regions = Object.keys(data.regions);
    const first = data.regions[state.region].summary;
    const rows = Object.keys(first).map((name) => ({
      cells: [name.replace("Precision/m", "").replace("Recall/", "").replace("@.", " at IoU 0.").replace("IOU", "").replace("AR@", "AR, at most "),
        ...regions.map((each) => apBar(data.regions[each].summary[name]))],
    }));
    put("summary",
      el("div", { class: "tiles" }, tile(percent(first[AP]), "AP"), tile(percent(first[AP50]), "AP50"), tile(percent(first[AP75]), "AP75"),
        tile(count(data.num_images), "images"), tile(count(data.num_objects), "objects"), tile(count(data.num_detections), "detections")),
      sortedTable(["metric", ...regions], rows));
  }

  function showErrors() {
    const errors = region().errors, chosen = state.chosen;
    const highest = Math.max(1e-9, ...errors.kinds.map((kind) => kind.gain || 0));
    const rows = errors.kinds.map((kind) => ({ cells: [
      { text: kind.kind, value: kind.kind },
      { text: percent(kind.gain, 2), value: kind.gain, bar: kind.gain / highest, color: COLORS[kind.kind] },
      { text: count(kind.num_kept), value: kind.num_kept }, { text: count(kind.num), value: kind.num },
      chosen === null ? null : { text: count(kind.by_class[chosen] || 0), value: kind.by_class[chosen] || 0 },
      { text: data.kinds[kind.kind], value: data.kinds[kind.kind], class: "text" },
    ].filter((each) => each !== null) }));
    const headings = ["kind", "gain of AP50", "kept", "of any score", ...(chosen === null ? [] : [`kept: ${names[chosen]}`]), "what it is"];
    put("errors", sortedTable(headings, rows),
      el("p", {}, `AP50 is ${percent(errors.ap50)}. Without any false detection it gains ${percent(errors.gain_of_false)}, with no object missed ` +
        `${percent(errors.gain_of_missed)}. ${count(errors.num_true_kept)} of ${count(errors.num_true)} true detections are kept; ` +
        `${count(errors.num_ignored)} detections lie in crowds and are ignored.`));
  }

  function showClasses() {
    const rows = region().classes.map((entry) => classRow(entry, [
      apBar(entry.metrics[AP]), apBar(entry.metrics[AP50], "#1a7f37"), apBar(entry.metrics[AP75], "#8250df"),
      { text: percent(entry.metrics["Recall/AR@100"]), value: entry.metrics["Recall/AR@100"] },
      { text: count(entry.num_objects), value: entry.num_objects }, { text: count(entry.num_detections), value: entry.num_detections },
    ]));
    put("classes", sortedTable(["class", "AP", "AP50", "AP75", "AR", "objects", "detections"], rows));
  }

  function showCurves() {
    const precision = chosenOrAll().precision;
    const points = (values) => values.map((value, i) => [i / 100, value]).filter(([, value]) => isNumber(value));
    const lines = [["0.50", COLORS.object, null], ["0.75", COLORS.localization, "5 4"]];
    put("curves", chart("precision over recall", "recall", "precision", unitTicks,
      lines.map(([iou, color, dashes]) => line(points(precision[iou]), color, dashes))),
      el("p", {}, key(COLORS.object, "IoU 0.50"), key(COLORS.localization, "IoU 0.75"), state.chosen === null ? "mean over classes" : names[state.chosen]));
  }

  function showSizes() {
    const cells = (metrics) => SIZES.map((size) => apBar(metrics[`${AP} (${size})`]));
    const all = { cells: [{ text: "all classes", value: "" }, ...cells(region().summary)] };
    put("sizes", sortedTable(["class", ...SIZES], [all, ...region().classes.map((entry) => classRow(entry, cells(entry.metrics)))]));
  }

  function showThresholds() {
    const rows = region().classes.map((entry) => {
      const best = entry.best_f1 || {};
      return classRow(entry, [{ text: fixed(best.threshold), value: best.threshold }, apBar(best.f1), apBar(best.precision, "#1a7f37"), apBar(best.recall, "#8250df")]);
    });
    put("thresholds", sortedTable(["class", "threshold", "F1", "precision", "recall"], rows));
  }

  function showConfusion() {
    const cells = region().confusion, nameOf = (index) => (index === background ? "background" : names[index]);
    const wrong = cells.filter(([row, column]) => row !== column);
    const weight = {};
    for (const [row, column, num] of cells) for (const index of [row, column]) weight[index] = (weight[index] || 0) + (row === column ? 1e-6 : 1) * num;
    let shown = data.classes.map((entry) => entry.index);
    if (shown.length > MAX_MATRIX) shown = shown.sort((a, b) => (weight[b] || 0) - (weight[a] || 0)).slice(0, MAX_MATRIX).sort((a, b) => a - b);
    shown = [...shown, background];
    const table = Object.fromEntries(cells.map(([row, column, num]) => [`${row} ${column}`, num]));
    const sums = {};
    for (const [row, , num] of cells) sums[row] = (sums[row] || 0) + num;
    const square = (row, column) => {
      const num = table[`${row} ${column}`] || 0, share = num / (sums[row] || 1);
      const isRight = row === column;
      const style = num ? `background:rgba(${isRight ? "26,127,55" : "207,34,46"},${0.08 + 0.8 * share});color:${share > 0.55 ? "#fff" : "inherit"}` : "background:#f6f8fa";
      return el("td", { style, title: `${nameOf(row)} detected as ${nameOf(column)}: ${num} (${percent(share)} %)` }, num ? count(num) : "");
    };
    const matrix = el("table", { class: "matrix" + (shown.length > 10 ? " many" : "") },
      el("thead", {}, el("tr", {}, el("th", {}, "object ↓ found as →"), shown.map((column) => el("th", { scope: "col", title: nameOf(column) }, nameOf(column))))),
      el("tbody", {}, shown.map((row) => el("tr", {}, el("th", { scope: "row", title: nameOf(row) }, nameOf(row)), shown.map((column) => square(row, column))))));
    const pairs = wrong.filter(([row, column]) => state.chosen === null || row === state.chosen || column === state.chosen).sort((a, b) => b[2] - a[2]).slice(0, 15);
    put("confusion", el("div", { class: "row" }, el("div", { class: "scroll" }, matrix),
      pairs.length ? sortedTable(["object", "detected as", "times"], pairs.map(([row, column, num]) => ({ cells: [
        { text: nameOf(row), value: nameOf(row) }, { text: nameOf(column), value: nameOf(column) }, { text: count(num), value: num }] }))) : null),
      data.classes.length > MAX_MATRIX ? el("p", {}, `The ${MAX_MATRIX} classes with most confusions of ${data.classes.length}.`) : null);
  }

  function showCalibration() {
    const found = chosenOrAll().calibration, bins = found.num.length;
    put("calibration", chart("calibration", "score", "share that is right", unitTicks,
      found.precision.map((value, i) => isNumber(value) ? bar(i / bins, (i + 1) / bins, 0, value, COLORS.object,
        `score ${fixed(found.score[i])}: ${percent(value)} % of ${count(found.num[i])} are right`) : null),
      line([[0, 0], [1, 1]], COLORS.ignored, "4 4")),
      el("p", {}, `Expected calibration error of ${chosenName()}: ${fixed(found.error, 3)} (0 is perfect).`));
  }

  function showScores() {
    const found = chosenOrAll().histogram, bins = found.true.length;
    const highest = Math.max(1, ...found.true.map((num, i) => num + found.false[i]));
    const title = (i) => `score ${fixed(i / bins)} to ${fixed((i + 1) / bins)}: ${count(found.true[i])} right, ${count(found.false[i])} false`;
    put("scores", chart("scores", "score", "detections", countTicks(highest), found.true.map((num, i) => [
      bar(i / bins, (i + 1) / bins, 0, num / highest, COLORS.true, title(i)),
      bar(i / bins, (i + 1) / bins, num / highest, (num + found.false[i]) / highest, COLORS.background, title(i)),
    ])), el("p", {}, key(COLORS.true, "right"), key(COLORS.background, "false"), chosenName()));
  }

  function redrawImages() {
    showImages(content("images"), data.examples, names, state.chosen);
  }

  function show() {
    for (const each of [showSummary, showErrors, showClasses, showCurves, showSizes, showThresholds, showConfusion, showCalibration, showScores]) each();
    redrawImages();
  }

  function setUp() {
    const about = [data.model, data.data].filter(Boolean).join(" · ");
    document.getElementById("about").textContent = about;
    const regions = document.getElementById("region");
    regions.append(...Object.keys(data.regions).map((name) => el("option", { value: name }, name)));
    document.getElementById("region-label").hidden = Object.keys(data.regions).length < 2;
    regions.addEventListener("change", () => { state.region = regions.value; show(); });
    const classes = document.getElementById("class");
    classes.append(el("option", { value: "" }, "all"), ...data.classes.map((entry) => el("option", { value: entry.index }, entry.name)));
    classes.addEventListener("change", () => { state.chosen = classes.value === "" ? null : Number(classes.value); show(); });
    document.getElementById("masks-label").hidden = !data.regions.masks;
    const slider = document.getElementById("min-score");
    for (const input of document.querySelectorAll("#toggles input, #toggles select"))
      input.addEventListener("input", () => {
        document.getElementById("min-score-value").textContent = fixed(Number(slider.value));
        redrawImages();
      });
    document.getElementById("toggles").addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("legend").append(
      ...["true", "classification", "localization", "both", "duplicate", "background", "object", "missed", "ignored"].map((kind) => key(COLORS[kind], WORDS[kind] || kind)));
  }

  setUp();
  show();
})();
