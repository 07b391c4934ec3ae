"use strict";
// The dialog shows the answers behind one cell. All it shows follows from `view`; every change ends in `draw()`.
const PAGE = 20;
const SHOWN = 600; // signs of a prompt: what is asked stands at its end
const dialog = document.querySelector("dialog");
const part = (name) => document.getElementById(`dialog-${name}`);
const blocks = new Map();
let view;

function block(id) {
  if (!blocks.has(id)) blocks.set(id, JSON.parse(document.getElementById(id).textContent));
  return blocks.get(id);
}

function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

function cell(label, text, className = "") {
  const td = element("td", text, { className });
  td.dataset.label = label;
  return td;
}

function question(label, id) {
  if (id === null) return cell(label, "", "text question");
  const prompt = block("prompts")[id];
  if (prompt.length <= SHOWN) return cell(label, prompt, "text question");
  const td = cell(label, "", "text question");
  const whole = element("details", "");
  const end = element("span", `…${prompt.slice(-SHOWN)}`);
  whole.append(element("summary", `the whole prompt (${prompt.length} characters)`), element("span", prompt));
  whole.addEventListener("toggle", () => { end.hidden = whole.open; });
  td.append(whole, end);
  return td;
}

function open(button) {
  const row = button.closest("tr");
  const section = button.closest("section");
  const { texts, tasks } = block(section.dataset.answers);
  const own = Number(button.dataset.task) + 1;
  view = { section, row, texts, task: tasks[own - 1], own, round: Number(button.dataset.round), first: 0 };
  draw();
  dialog.showModal();
  focusRound();
}

// The positions of the examples in the order asked for; equals stay as in the data.
function order(now, then) {
  const positions = view.task.index.map((_, position) => position);
  const key = {
    index: () => 0,
    worst: (position) => now.score[position],
    forgotten: (position) => now.score[position] - then.score[position],
  }[part("order").value];
  return positions.sort((a, b) => key(a) - key(b));
}

function draw() {
  const { section, row, texts, task, own, round } = view;
  const now = task.rounds[round];
  const compared = own !== round && own in task.rounds;
  const then = compared ? task.rounds[own] : now;
  const after = (t) => (t === 0 ? "base model" : `after round ${t}`);

  part("title").textContent = `${task.name}, ${after(round)}`;
  part("run").textContent = section.dataset.name;
  part("rounds").replaceChildren(
    ...Array.from(row.querySelectorAll("button"), (button) => {
      const t = Number(button.dataset.round);
      const copy = element("button", "", { type: "button", onclick: () => turnTo(t) });
      copy.append(element("small", t), button.textContent);
      copy.style.cssText = button.parentElement.style.cssText;
      copy.setAttribute("aria-label", `${after(t)}: ${button.textContent}`);
      copy.setAttribute("aria-pressed", t === round);
      return copy;
    }),
  );

  const positions = order(now, then);
  const last = Math.min(view.first + PAGE, positions.length);
  const of = task.total > positions.length ? `the first ${positions.length} of ${task.total}` : positions.length;
  part("range").textContent = `${view.first + 1}–${last} of ${of}`;
  dialog.querySelector("[data-turn='-1']").disabled = view.first === 0;
  dialog.querySelector("[data-turn='1']").disabled = last === positions.length;

  const asked = "prompt" in task;
  const columns = ["#", "reference", after(round), "score"];
  if (compared) columns.push(`just learned (round ${own})`, "score");
  const head = element("tr", "");
  const align = (name) => (name === "score" ? "number" : "");
  const shown = asked ? [columns[0], "question", ...columns.slice(1)] : columns;
  head.append(...shown.map((name) => element("th", name, { scope: "col", className: align(name) })));
  dialog.querySelector("thead").replaceChildren(head);
  dialog.querySelector("tbody").replaceChildren(
    ...positions.slice(view.first, last).map((position) => {
      const line = element("tr", "");
      const text = (label, id, className) => {
        const string = texts[id];
        return string.trim() ? cell(label, string, className) : cell(label, "(nothing)", `${className} nothing`);
      };
      line.append(
        cell(columns[0], task.index[position], "number"),
        ...(asked ? [question("question", task.prompt[position])] : []),
        text(columns[1], task.reference[position], "text"),
        text(columns[2], now.text[position], "text"),
        cell(columns[3], now.score[position], "number"),
      );
      if (compared) {
        line.append(
          text(columns[4], then.text[position], "text"),
          cell(columns[5], then.score[position], "number"),
        );
        line.classList.toggle("forgotten", now.score[position] < then.score[position]);
      }
      return line;
    }),
  );
}

function turnTo(round) {
  view.round = round;
  draw();
  focusRound();
}

function focusRound() {
  part("rounds").querySelector("[aria-pressed=true]").focus();
}

document.querySelector("main").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-round]");
  if (button) open(button);
});
part("order").addEventListener("change", () => {
  view.first = 0;
  draw();
});
for (const button of dialog.querySelectorAll("[data-turn]")) {
  button.addEventListener("click", () => {
    view.first += Number(button.dataset.turn) * PAGE;
    draw();
    dialog.scrollTo(0, 0);
  });
}
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // the backdrop
});
