// A table of attention weights: a row a target piece, a column a source piece.

const SHOWN = (piece) => piece.replaceAll("\u2581", " ").trim() || "\u2423";

export class HeatMap {
  #table; #words; #weights; #rows; #columns;

  constructor(table, words) {
    this.#table = table;
    this.#words = words;
    table.addEventListener("pointerover", (event) => this.#choose(event.target.closest("td")));
    table.addEventListener("focusin", (event) => this.#choose(event.target.closest("td")));
    table.addEventListener("keydown", (event) => this.#move(event));
  }

  // weights[t][s]: how much target piece t looked at source piece s; each row sums to 1.
  draw(targetPieces, sourcePieces, weights) {
    this.#rows = targetPieces.map(SHOWN);
    this.#columns = sourcePieces.map(SHOWN);
    this.#weights = weights;
    const head = document.createElement("thead");
    const corner = document.createElement("td");
    const top = head.insertRow();
    top.append(corner, ...this.#columns.map((piece) => heading(piece, "col")));
    const body = document.createElement("tbody");
    weights.forEach((row, t) => {
      const line = body.insertRow();
      line.append(heading(this.#rows[t], "row"), ...row.map((weight, s) => cell(weight, t, s)));
    });
    this.#table.replaceChildren(head, body);
    this.#words.textContent = "";
  }

  clear(words) {
    this.#table.replaceChildren();
    this.#words.textContent = words;
  }

  #choose(chosen) {
    if (!chosen?.dataset.t) return;
    const t = Number(chosen.dataset.t);
    for (const marked of this.#table.querySelectorAll(".chosen")) marked.classList.remove("chosen");
    chosen.parentElement.classList.add("chosen");
    const headings = this.#table.tHead.rows[0].cells;
    headings[Number(chosen.dataset.s) + 1].classList.add("chosen");
    const parts = this.#columns.map((piece, s) => [piece, this.#weights[t][s]]);
    parts.sort((one, other) => other[1] - one[1]);
    const told = parts.slice(0, 3).map(([piece, weight]) => `${piece} ${percent(weight)}`);
    this.#words.textContent = `${this.#rows[t]} looked at ${told.join(", ")}`;
  }

  #move(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    const from = event.target.closest("td");
    if (!step || !from?.dataset.t) return;
    const t = Number(from.dataset.t) + step[0];
    const s = Number(from.dataset.s) + step[1];
    const next = this.#table.querySelector(`td[data-t="${t}"][data-s="${s}"]`);
    if (!next) return;
    event.preventDefault();
    from.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

function heading(piece, scope) {
  const made = document.createElement("th");
  made.scope = scope;
  made.textContent = piece;
  return made;
}

function cell(weight, t, s) {
  const made = document.createElement("td");
  made.dataset.t = t;
  made.dataset.s = s;
  made.tabIndex = t === 0 && s === 0 ? 0 : -1;
  made.title = percent(weight);
  made.setAttribute("aria-label", percent(weight));
  made.style.backgroundColor = `rgb(var(--heat) / ${Math.min(1, weight).toFixed(3)})`;
  return made;
}

function percent(weight) {
  return `${Math.round(weight * 100)} %`;
}
