// Relations that a visitor edits for himself. props.value: [{name, descriptions}, ...], descriptions one a line.
const rows = element.querySelector("[data-part=rows]");
const count = element.querySelector("[data-part=count]");
let shown = null; // what the page shows now, so that the visitor's own typing does not rebuild it

function read() {
  return [...rows.children].map((row) => ({
    name: row.querySelector("input").value,
    descriptions: row.querySelector("textarea").value,
  }));
}

function changed() {
  shown = JSON.stringify(read());
  props.value = read();
  count.textContent = `${rows.children.length} relations`;
}

// Values are set as properties, never as HTML.
function row({name, descriptions}) {
  const line = document.createElement("div");
  line.className = "roc-relation";
  const title = Object.assign(document.createElement("input"), {value: name, placeholder: "name", maxLength: 80});
  const words = Object.assign(document.createElement("textarea"), {
    value: descriptions,
    placeholder: "what holds between head and tail; one description a line",
    rows: Math.max(2, descriptions.split("\n").length),
  });
  const remove = Object.assign(document.createElement("button"), {type: "button", textContent: "×"});
  title.setAttribute("aria-label", "name of the relation");
  words.setAttribute("aria-label", "descriptions of the relation");
  remove.setAttribute("aria-label", "remove the relation");
  remove.addEventListener("click", () => { line.remove(); changed(); });
  line.append(title, remove, words);
  return line;
}

function show() {
  const given = props.value || [];
  if (JSON.stringify(given) === shown) return;
  rows.replaceChildren(...given.map(row));
  changed();
}

rows.addEventListener("input", changed);
element.querySelector("[data-part=add]").addEventListener("click", () => {
  rows.prepend(row({name: "", descriptions: ""}));
  rows.scrollTop = 0;
  rows.querySelector("input").focus();
  changed();
});
watch("value", show);
show();
