// A picture from the visitor's device, and boxes drawn on it. It goes along with each question and is stored nowhere.
// props.value: {image: data URI or null, boxes: [[x0, y0, x1, y1], ...]}, shares of width and height.
const LARGEST_SIDE = 1024; // what a model sees is smaller; saves a phone's data
const LARGEST_FILE = 1000000; // bytes; a smaller file of a small picture goes as it is
const find = (name) => element.querySelector(`[data-part="${name}"]`);
const [stage, picture, layer, problem] = ["stage", "picture", "layer", "problem"].map(find);
let drawing = false;
let start = null;

const value = () => ({image: null, boxes: [], ...(props.value || {})});

function set(changes, say = true) {
  props.value = {...value(), ...changes};
  show();
  if (say) trigger("boxes", {count: value().boxes.length});
}

function show() {
  const {image, boxes} = value();
  element.querySelector(".roc-picture").classList.toggle("has-picture", Boolean(image));
  if (image) picture.src = image; else picture.removeAttribute("src");
  layer.replaceChildren(...boxes.map((box, number) => rectangle(box, `box ${number + 1}`)));
}

function rectangle([x0, y0, x1, y1], name) {
  const box = document.createElement("div");
  box.className = "roc-box";
  box.style.cssText = `left:${100 * x0}%;top:${100 * y0}%;width:${100 * (x1 - x0)}%;height:${100 * (y1 - y0)}%`;
  box.append(Object.assign(document.createElement("span"), {textContent: name}));
  return box;
}

function setDrawing(on) {
  drawing = on;
  start = null;
  stage.classList.toggle("is-drawing", on);
  find("draw").textContent = on ? "Drag over the object…" : "Draw a box";
}

async function read(file) {
  problem.textContent = "";
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const small = scale === 1 && file.size <= LARGEST_FILE && /png|jpeg/.test(file.type);
    set({image: small ? await asItIs(file) : scaled(bitmap, scale), boxes: []});
  } catch {
    problem.textContent = "This file is no picture that your browser can read.";
  }
}

const asItIs = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = reject;
  reader.readAsDataURL(file);
});

function scaled(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // behind transparent pixels, as in training
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.9);
}

function place(event) {
  const frame = stage.getBoundingClientRect();
  const share = (at, from, size) => Math.round(1000 * Math.min(1, Math.max(0, (at - from) / size))) / 1000;
  return [share(event.clientX, frame.left, frame.width), share(event.clientY, frame.top, frame.height)];
}

const between = ([x0, y0], [x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];

stage.addEventListener("pointerdown", (event) => {
  if (!drawing) return;
  event.preventDefault();
  stage.setPointerCapture(event.pointerId);
  start = place(event);
});
stage.addEventListener("pointermove", (event) => {
  if (!start) return;
  show();
  layer.append(rectangle(between(start, place(event)), ""));
});
stage.addEventListener("pointerup", (event) => {
  if (!start) return;
  const box = between(start, place(event));
  setDrawing(false);
  if (box[2] - box[0] > 0.01 && box[3] - box[1] > 0.01) set({boxes: [...value().boxes, box]}); else show();
});
stage.addEventListener("pointercancel", () => { setDrawing(false); show(); });

find("file").addEventListener("change", (event) => {
  if (event.target.files.length) read(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});
find("draw").addEventListener("click", () => setDrawing(!drawing));
find("undo").addEventListener("click", () => set({boxes: value().boxes.slice(0, -1)}));
find("remove").addEventListener("click", () => set({image: null, boxes: []}));
watch("value", () => { setDrawing(false); problem.textContent = ""; show(); });
show();
