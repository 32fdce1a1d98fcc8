// The viewer of a page: NiiVue draws, this script says what. Volumes are uint8, x fastest.
const root = document.getElementById("viewer");
const part = (name) => root.querySelector(".viewer-" + name);
const config = JSON.parse(part("config").textContent);
const held = [...root.querySelectorAll(".viewer-case")];
const LAYERS = [
  { key: "truth", name: "truth", letter: "t", on: true, opacity: 1 },
  { key: "prediction", name: "prediction", letter: "p", on: true, opacity: 0.45 },
  { key: "errors", name: "errors", letter: "e", on: false, opacity: 0.7 },
  { key: "uncertainty", name: "uncertainty", letter: "u", on: false, opacity: 0.7 },
];
const LETTERS = { m: 3, a: 0, c: 1, s: 2, d: 4 };
const CROSSHAIR_MM = 1;
const NORMAL = { 0: 2, 1: 1, 2: 0, 3: 2, 4: 2 }; // the axis that the arrows up and down move along
const ERRORS = ["", "agreed", "other class", "missed", "false"];
const VIRIDIS = "linear-gradient(90deg, #440154, #3b528b, #21918c, #5ec962, #fde725)";
const state = { place: -1, current: null, modality: "", layout: 3, region: "", outline: true,
  crosshair: true };
const panes = [];
let Niivue = null;
let turn = Promise.resolve();
let waiting = 0;

function element(tag, fields = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...inside);
  return made;
}

async function decoded(place) {
  const { about, data } = JSON.parse(held[place].textContent);
  const open = (blob) => (blob === null ? null : inflate(data[blob]));
  const opened = {
    ...about,
    images: await Promise.all(
      about.images.map(async (i) => ({ ...i, bytes: whole(await open(i.blob), i, about.shape) })),
    ),
    truth: await open(about.truth),
    uncertainty: await open(about.uncertainty),
    predictions: await Promise.all(
      about.predictions.map(async (p) => ({ ...p, bytes: await open(p.blob) })),
    ),
  };
  if (!opened.images.length)
    opened.images = [
      { name: "no image", step: 1, levels: 256, low: 0, high: 255, bytes: new Uint8Array(about.shape[0] * about.shape[1] * about.shape[2]) },
    ];
  return opened;
}

function bytesOf(layer, pane) {
  const { current } = state;
  const prediction = current.predictions[pane.prediction]?.bytes;
  const nothing = () => new Uint8Array(current.shape[0] * current.shape[1] * current.shape[2]);
  if (layer === "truth") {
    if (!current.truth) return nothing();
    return state.outline ? outlined(current.truth, current.shape) : current.truth;
  }
  if (layer === "prediction") return prediction ?? nothing();
  if (layer === "errors")
    return current.truth && prediction
      ? errorsOf(current.truth, prediction, current.regions[state.region])
      : nothing();
  return current.uncertainty ?? nothing();
}

function isThere(layer) {
  const { current } = state;
  const predicted = current.predictions.length > 0;
  return { truth: !!current.truth, prediction: predicted, errors: !!current.truth && predicted,
    uncertainty: !!current.uncertainty }[layer];
}

async function addPane() {
  const canvas = element("canvas", { tabIndex: 0 });
  const header = element("header");
  part("panes").append(
    element("div", { className: "viewer-pane" }, header,
      element("div", { className: "viewer-canvas" }, canvas)),
  );
  const nv = new Niivue({
    backColor: [0, 0, 0, 1], crosshairColor: [0.34, 0.71, 0.91, 0.8], crosshairWidth: state.crosshair ? CROSSHAIR_MM : 0,
    crosshairWidthUnit: "mm", crosshairGap: 6, fontColor: [1, 1, 1, 1], show3Dcrosshair: true,
    isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: 1,
    multiplanarLayout: 2, isNearestInterpolation: true, showAllOrientationMarkers: true,
    multiplanarPadPixels: 18, isRuler: false, logLevel: "error", loadingText: "", fontMinPx: 15, fontSizeScaling: 0.5,
    dragAndDropEnabled: false,
  });
  // On paper the canvas has no size, and the space between the planes would make theirs negative.
  const drawScene = () => (canvas.clientWidth ? Niivue.prototype.drawScene.call(nv) : undefined);
  nv.drawScene = drawScene;
  const pane = { nv, canvas, header, drawScene, prediction: panes.length };
  await nv.attachToCanvas(canvas);
  nv.onLocationChange = () => {
    showValues(pane, crosshairMm(pane));
    for (const other of othersOf(pane)) {
      other.nv.scene.crosshairPos = [...nv.scene.crosshairPos];
      other.nv.drawScene();
    }
  };
  nv.onAzimuthElevationChange = (azimuth, elevation) => {
    for (const { nv: other } of othersOf(pane)) {
      if (other.scene.renderAzimuth === azimuth && other.scene.renderElevation === elevation) continue;
      other.setRenderAzimuthElevation(azimuth, elevation);
    }
  };
  canvas.addEventListener("mousemove", (event) => showValues(pane, pointedMm(pane, event)));
  canvas.addEventListener("mouseleave", () => showValues(pane, crosshairMm(pane)));
  panes.push(pane);
}

function shownPanes() {
  return panes.filter((pane) => pane.shown);
}

// The panes beside one, which show the same place from the same side.
function othersOf(pane) {
  return shownPanes().filter((one) => one !== pane && one.nv.volumes.length);
}

async function fill(pane) {
  const { current } = state;
  const { nv } = pane;
  const image = current.images.find((i) => i.name === state.modality) ?? current.images[0];
  // Drawing in between would show half a case, and take seconds where no GPU draws.
  nv.drawScene = nv.updateGLVolume = () => undefined;
  while (nv.volumes.length) nv.removeVolumeByIndex(nv.volumes.length - 1);
  const slope = (image.high - image.low) / Math.max(1, image.levels - 2);
  await nv.addVolumeFromUrl({
    url: "image.nii", name: "image.nii", colormap: "gray",
    buffer: nifti(current.shape, current.affine, image.bytes, slope, image.low - slope, image.low,
      image.high),
  });
  pane.classes = labelled(current.colours, [...current.classes]);
  pane.white = labelled(current.colours.map(() => "#ffffff"), [...current.classes]);
  for (const layer of LAYERS) {
    const scale = layer.key === "uncertainty" ? [1 / 255, 0, 0.02, 1] : [];
    await nv.addVolumeFromUrl({
      url: layer.key + ".nii", name: layer.key + ".nii", opacity: 0,
      colormap: layer.key === "uncertainty" ? "viridis" : "gray",
      buffer: nifti(current.shape, current.affine, bytesOf(layer.key, pane), ...scale),
    });
    const volume = nv.volumes.at(-1);
    if (layer.key === "truth" || layer.key === "prediction") volume.setColormapLabel(pane.classes);
    if (layer.key === "errors")
      volume.setColormapLabel(
        labelled(["#000000", ...ERRORS.slice(1).map((name) => config.errors[name])], [...ERRORS]),
      );
  }
  nv.setSliceType(state.layout);
  delete nv.updateGLVolume;
  applyOpacity(pane);
  nv.drawScene = pane.drawScene;
}

// Below errors and uncertainty, an outline in the classes' colours would change what theirs mean.
function outlineIsWhite() {
  return state.outline && LAYERS.some(({ key, on }) => on && ["errors", "uncertainty"].includes(key) && isThere(key));
}

function applyOpacity({ nv, classes, white }) {
  nv.volumes[1]?.setColormapLabel(outlineIsWhite() ? white : classes);
  LAYERS.forEach((layer, n) => {
    const volume = nv.volumes[n + 1];
    if (volume) volume.opacity = layer.on && isThere(layer.key) ? layer.opacity : 0;
  });
  nv.updateGLVolume();
}

function refresh(layer) {
  const n = LAYERS.findIndex((one) => one.key === layer) + 1;
  for (const pane of shownPanes()) {
    pane.nv.volumes[n].img = bytesOf(layer, pane).slice();
    pane.nv.updateGLVolume();
  }
}

function crosshairMm({ nv }) {
  return nv.volumes.length ? [...nv.frac2mm(nv.scene.crosshairPos)].slice(0, 3) : null;
}

function pointedMm(pane, event) {
  const { nv, canvas } = pane;
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const at = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  const frac = nv.volumes.length ? nv.canvasPos2frac(at) : [-1];
  return frac[0] < 0 ? crosshairMm(pane) : [...nv.frac2mm(frac)].slice(0, 3);
}

function showValues(pane, mm) {
  const { current } = state;
  if (!current || !mm) return;
  const words = [["x", "y", "z"].map((name, i) => `${name} ${mm[i].toFixed(1)}`).join(", ") + " mm"];
  const n = voxelAt(current, mm);
  for (const image of current.images) {
    const grey = n < 0 ? 0 : image.bytes[n];
    const slope = (image.high - image.low) / Math.max(1, image.levels - 2);
    const value = image.low + (grey - 1) * slope;
    words.push(`${image.name} ${grey ? Number(value.toPrecision(3)) : "outside"}`);
  }
  const truth = n < 0 || !current.truth ? 0 : current.truth[n];
  if (current.truth) words.push(`truth ${current.classes[truth]}`);
  for (const one of current.predictions) {
    const found = n < 0 ? 0 : one.bytes[n];
    words.push(`${one.name} ${current.classes[found]}`);
    if (current.truth && (truth || found))
      words.push(truth === found ? "agreed" : truth && found ? "other class" : truth ? "missed" : "false");
  }
  if (current.uncertainty)
    words.push(`uncertainty ${(n < 0 ? 0 : current.uncertainty[n] / 255).toFixed(2)}`);
  part("values").textContent = words.join(" \u00b7 ");
}

function press(buttons, chosen) {
  for (const button of buttons) button.setAttribute("aria-pressed", String(chosen(button)));
}

function drawControls() {
  const { current } = state;
  part("modalities").replaceChildren(
    ...current.images.map((image, n) =>
      element("button", { type: "button", title: String(n + 1), textContent: image.name,
        onclick: () => setModality(image.name) })),
  );
  press(part("modalities").children, (b) => b.textContent === state.modality);
  press(part("layouts").children, (b) => Number(b.dataset.layout) === state.layout);
  press([part("crosshair")], () => state.crosshair);
  part("layers").replaceChildren(...LAYERS.filter((layer) => isThere(layer.key)).map(layerControl));
  const swatch = (colour, name) => {
    const patch = element("i");
    patch.style.background = colour;
    return element("span", {}, patch, name);
  };
  const shown = (key) => isThere(key) && LAYERS.find((layer) => layer.key === key).on;
  const white = outlineIsWhite();
  part("legend").replaceChildren(
    ...(shown("prediction") || (shown("truth") && !white)
      ? current.classes.slice(1).map((name, n) => swatch(current.colours[n + 1], name)) : []),
    ...(shown("truth") && white ? [swatch("#ffffff", "outline of the truth")] : []),
    ...(shown("errors") ? ERRORS.slice(1).map((name) => swatch(config.errors[name], name)) : []),
    ...(shown("uncertainty") ? [swatch(VIRIDIS, "uncertainty from 0 to 1")] : []),
  );
  const coarse = current.images.filter((image) => image.step > 1);
  part("note").textContent =
    `Images in ${current.images[0].levels} grey levels` +
    coarse.map((image) => `, ${image.name} averaged over ${image.step} voxels a side`).join("") +
    "; segmentations as they are. The patient\u2019s right is on the left.";
  for (const pane of shownPanes()) drawHeader(pane);
}

function layerControl(layer) {
  const box = element("input", { type: "checkbox", checked: layer.on });
  box.dataset.layer = layer.key;
  box.onchange = () => setLayer(layer, box.checked);
  const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: layer.opacity });
  slider.setAttribute("aria-label", `opacity of ${layer.name}`);
  slider.oninput = () => {
    layer.opacity = Number(slider.value);
    shownPanes().forEach(applyOpacity);
  };
  const row = element("label", {}, box, layer.name, slider);
  if (layer.key === "truth") {
    const outline = element("input", { type: "checkbox", checked: state.outline });
    outline.onchange = () => {
      state.outline = outline.checked;
      refresh("truth");
      shownPanes().forEach(applyOpacity);
      drawControls();
    };
    return element("div", {}, row, element("label", {}, outline, "as outline"));
  }
  if (layer.key === "errors") {
    const choice = element("select", { ariaLabel: "errors of" }, element("option", { value: "", textContent: "all classes" }),
      ...Object.keys(state.current.regions).map((name) => element("option", { value: name, textContent: name })));
    choice.value = state.region;
    choice.onchange = () => {
      state.region = choice.value;
      refresh("errors");
    };
    return element("div", {}, row, choice);
  }
  return row;
}

function drawHeader(pane) {
  const { predictions, group, id } = state.current;
  const named = (one) => one.name + (one.dice === null ? "" : `, Dice ${(100 * one.dice).toFixed(1)}`);
  if (predictions.length < 2) {
    const title = [group, id].filter(Boolean).join(" ");
    pane.header.replaceChildren([title, ...predictions.map(named)].join(" \u00b7 "));
    return;
  }
  const choice = element("select", { ariaLabel: "prediction" },
    ...predictions.map((one, n) => element("option", { value: n, textContent: named(one) })));
  choice.value = pane.prediction;
  choice.onchange = () => {
    pane.prediction = Number(choice.value);
    refresh("prediction");
    refresh("errors");
  };
  pane.header.replaceChildren(id + " \u00b7 ", choice);
}

// Two layers that fill would mix their colours, and none would be that of the legend.
function setLayer(layer, on) {
  layer.on = on;
  if (on && layer.key !== "truth")
    for (const other of LAYERS) if (other !== layer && other.key !== "truth") other.on = false;
  shownPanes().forEach(applyOpacity);
  drawControls();
}

function setLayout(layout) {
  state.layout = layout;
  for (const { nv } of shownPanes()) nv.setSliceType(layout);
  press(part("layouts").children, (b) => Number(b.dataset.layout) === layout);
}

function setCrosshair(on) {
  state.crosshair = on;
  for (const { nv } of panes) nv.setCrosshairWidth(on ? CROSSHAIR_MM : 0);
  press([part("crosshair")], () => on);
}

function setModality(name) {
  inTurn(async () => {
    state.modality = name;
    const mm = crosshairMm(panes[0]);
    for (const pane of shownPanes()) await fill(pane);
    lookAt(mm);
    drawControls();
  });
}

function lookAt(mm) {
  for (const pane of shownPanes()) {
    pane.nv.scene.crosshairPos = pane.nv.mm2frac(mm);
    pane.nv.drawScene();
  }
  showValues(panes[0], mm);
}

function move(axis, steps) {
  const { affine, shape } = state.current;
  const voxel = inverse(affine)(crosshairMm(panes[0])).map(Math.round);
  voxel[axis] = Math.min(Math.max(voxel[axis] + steps, 0), shape[axis] - 1);
  lookAt(mmOf(voxel));
}

function mmOf(voxel) {
  return state.current.affine.slice(0, 3).map((r) => r[0] * voxel[0] + r[1] * voxel[1] + r[2] * voxel[2] + r[3]);
}

// What takes time happens one after another, however fast the user clicks.
function inTurn(work) {
  root.dataset.state = "loading";
  waiting += 1;
  turn = turn.then(work).then(
    () => {
      waiting -= 1;
      if (!waiting) root.dataset.state = "ready";
    },
    (error) => {
      root.dataset.state = "failed";
      part("values").textContent = `The viewer failed: ${error.message}`;
      throw error;
    },
  );
  return turn;
}

function open(place) {
  return inTurn(async () => {
    if (place < 0 || place >= held.length || place === state.place) return;
    state.current = await decoded(place);
    state.place = place;
    const names = state.current.images.map((image) => image.name);
    if (!names.includes(state.modality)) state.modality = names[0];
    if (!(state.region in state.current.regions)) state.region = "";
    const wanted = state.current.predictions.length > 1 ? 2 : 1;
    while (panes.length < wanted) await addPane();
    for (const [n, pane] of panes.entries()) {
      pane.prediction = Math.min(n, Math.max(0, state.current.predictions.length - 1));
      pane.shown = n < wanted;
      pane.canvas.closest(".viewer-pane").style.display = pane.shown ? "" : "none";
      if (pane.shown) await fill(pane);
    }
    lookAt(mmOf(state.current.centre));
    drawControls();
    for (const button of part("list").querySelectorAll("button"))
      button.setAttribute("aria-current", String(Number(button.dataset.case) === place));
  });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !state.current) return;
  if (["SELECT", "INPUT"].includes(event.target.tagName) && event.key.startsWith("Arrow")) return;
  const layer = LAYERS.find((one) => one.letter === event.key);
  const image = state.current.images[Number(event.key) - 1];
  const along = { ArrowUp: [NORMAL[state.layout], 1], ArrowDown: [NORMAL[state.layout], -1],
    ArrowLeft: [0, 1], ArrowRight: [0, -1], PageUp: [1, 1], PageDown: [1, -1] }[event.key];
  if (along) move(...along);
  else if (layer) isThere(layer.key) && setLayer(layer, !layer.on);
  else if (event.key === "x") setCrosshair(!state.crosshair);
  else if (event.key in LETTERS) setLayout(LETTERS[event.key]);
  else if (image) setModality(image.name);
  else if (event.key === "n") open(state.place + 1);
  else if (event.key === "b") open(state.place - 1);
  else return;
  event.preventDefault();
  event.stopPropagation(); // NiiVue has keys of its own on the canvas
}

async function start() {
  if (!document.createElement("canvas").getContext("webgl2"))
    throw new Error("this browser has no WebGL 2");
  const module = new Blob([await inflate(part("niivue").textContent)], { type: "text/javascript" });
  ({ Niivue } = await import(URL.createObjectURL(module)));
  root.addEventListener("keydown", onKey, true);
  for (const button of part("layouts").children)
    button.onclick = () => setLayout(Number(button.dataset.layout));
  part("crosshair").onclick = () => setCrosshair(!state.crosshair);
  for (const button of part("list").querySelectorAll("button"))
    button.onclick = () => open(Number(button.dataset.case));
  document.addEventListener("click", (event) => {
    const wanted = event.target.closest?.("[data-view]");
    const place = wanted ? held.findIndex((one) => one.dataset.id === wanted.dataset.view) : -1;
    if (place >= 0) {
      open(place);
      root.scrollIntoView({ behavior: "smooth" });
    }
  });
}

// "#case=NAME" in the page's address opens that case.
function addressed() {
  const [, name] = location.hash.match(/^#case=(.*)$/) ?? [];
  return name === undefined ? -1 : held.findIndex((one) => one.dataset.id === decodeURIComponent(name));
}

inTurn(start);
open(Math.max(0, addressed()));
addEventListener("hashchange", () => open(addressed()));
