// Review by hand: two pictures side by side, what a viewer must not see, and which of the two they should rather see.
// Each answer is on the server's disk before the next question comes, so that the page may be closed at any time.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addButton, make, send, STYLE } from "./psa_page.js";

const COMMAND = "psa.review";
const OPENED_BY = ["PSACheckDataset", "PSABuildDataset"]; // nodes with a button
const NAMED_BY = ["folder", "name", "dataset"]; // the widget of such a node that says which data set
const KEYS = { arrowleft: "left", arrowright: "right", n: "neither", b: "bad", u: "undo" };
const BUTTONS = [
  ["left", "← Left"],
  ["neither", "Neither (N)"],
  ["bad", "Bad picture (B)"],
  ["undo", "Undo (U)"],
  ["right", "Right →"],
];

app.registerExtension({
  name: "psa.review",
  commands: [
    {
      id: COMMAND,
      label: "Review picture pairs by hand",
      icon: "pi pi-images",
      function: () => openReview(),
    },
  ],
  menuCommands: [{ path: ["PSA"], commands: [COMMAND] }],
  nodeCreated(node) {
    if (!OPENED_BY.includes(node.comfyClass)) return;
    const named = () => node.widgets.find((widget) => NAMED_BY.includes(widget.name))?.value;
    addButton(node, "Review by hand…", () => openReview(named()));
  },
});

async function openReview(wanted) {
  document.querySelector("dialog.psa-review")?.close();
  const select = (name) => make("select", { name, ariaLabel: name });
  const [dataset, split] = [select("dataset"), select("split")];
  const bar = make("progress", { max: 1, value: 0 });
  const counts = make("span", { className: "psa-counts" });
  const caption = make("p", { className: "psa-caption" });
  const chips = make("div", { className: "psa-bans" });
  const pictures = ["left", "right"].map((side) => make("img", { alt: `${side} picture` }));
  const choices = pictures.map((picture, place) => {
    const choice = make("button", { type: "button", className: "psa-choice" }, [picture]);
    choice.onclick = () => answer(["left", "right"][place]);
    return choice;
  });
  const buttons = BUTTONS.map(([word, text]) =>
    make("button", { type: "button", name: word, textContent: text, onclick: () => answer(word) }),
  );
  const error = make("p", { className: "psa-error", role: "alert" });
  const close = make("button", { type: "button", textContent: "Close", onclick: () => dialog.close() });
  const asked = make("div", { className: "psa-asked" }, [
    caption,
    chips,
    make("div", { className: "psa-pair" }, choices),
  ]);
  const dialog = make("dialog", { className: "psa-dialog psa-review" }, [
    make("style", { textContent: STYLE + REVIEW_STYLE }),
    make("h3", { textContent: "Which of the two should this viewer rather see?" }),
    make("div", { className: "psa-row" }, [dataset, split, bar, counts]),
    asked,
    error,
    make("div", { className: "psa-buttons" }, [...buttons, close]),
  ]);

  let state = null;
  let busy = true; // nothing is answered before both pictures are seen, nor twice
  const place = () => `/psa/review/${encodeURIComponent(dataset.value)}/${encodeURIComponent(split.value)}`;

  /** Run what talks to the server; what goes wrong is said, and the question stays. */
  async function quietly(work) {
    setBusy(true);
    error.textContent = "";
    try {
      await work();
    } catch (failure) {
      error.textContent = failure.message;
    } finally {
      setBusy(false);
    }
  }

  function setBusy(value) {
    busy = value;
    dialog.ariaBusy = String(value);
  }

  async function show(next) {
    state = next;
    const { question, answered, total, taken_out: takenOut } = state;
    const told = () => {
      bar.max = Math.max(total, 1);
      bar.value = answered;
      counts.textContent = `${answered} of ${total} answered${takenOut ? `, ${takenOut} taken out` : ""}`;
    };
    asked.hidden = !question;
    for (const button of buttons) button.disabled = button.name === "undo" ? !state.undo : !question;
    if (!question) {
      told();
      error.textContent = total ? "All questions of this split are answered." : "This split has no question.";
      return;
    }
    caption.textContent = question.caption;
    chips.replaceChildren(
      make("span", { textContent: question.banned.length ? "This viewer must not see" : "This viewer may see everything." }),
      ...question.banned.map((category) => make("span", { className: "psa-chip", textContent: category })),
    );
    for (const [number, side] of ["left", "right"].entries())
      pictures[number].src = api.apiURL(`${place()}/${question.number}/${side}?${question.scene}`);
    const loaded = await Promise.allSettled(pictures.map((picture) => picture.decode()));
    if (loaded.some((each) => each.status === "rejected")) error.textContent = "A picture of this pair cannot be shown.";
    told(); // last: from here on it can be answered
  }

  function answer(word) {
    const target = word === "undo" ? state?.undo : state?.question;
    if (busy || !target) return;
    const body = { number: target.number, scene: target.scene, answer: word };
    quietly(async () => show(await send("POST", place(), body)));
  }

  const load = () => quietly(async () => show(await send("GET", place())));
  const fill = (list, values) =>
    list.replaceChildren(...values.map((value) => make("option", { value, textContent: value })));

  dialog.onkeydown = (event) => {
    event.stopPropagation(); // ComfyUI's shortcuts listen to plain letters
    const word = KEYS[event.key.toLowerCase()];
    if (!word || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.tagName === "SELECT") return;
    event.preventDefault();
    answer(word);
  };
  dialog.onclose = () => dialog.remove();
  document.body.append(dialog);
  dialog.showModal();
  await quietly(async () => {
    const { datasets } = await send("GET", "/psa/datasets");
    const splitsOf = Object.fromEntries(datasets.map((each) => [each.name, each.splits]));
    for (const element of [asked, ...buttons]) element.hidden = !datasets.length;
    if (!datasets.length)
      throw new Error("There is no data set in ComfyUI's input folder. Build one there, or copy one into it.");
    fill(dataset, Object.keys(splitsOf));
    if (wanted in splitsOf) dataset.value = wanted;
    const fillSplits = () => fill(split, splitsOf[dataset.value]);
    fillSplits();
    dataset.onchange = () => (fillSplits(), load());
    split.onchange = load;
    await show(await send("GET", place()));
  });
  buttons[0].focus();
}

const REVIEW_STYLE = `
.psa-review { width: 60rem; }
.psa-review[open] { display: flex; flex-direction: column; gap: 0.6rem; }
.psa-review .psa-row { display: flex; align-items: center; gap: 0.75rem; flex-wrap: wrap; }
.psa-review progress { flex: 1; min-width: 8rem; }
.psa-review p.psa-caption { font-size: 15px; opacity: 1; }
.psa-review .psa-asked { display: flex; flex-direction: column; gap: 0.6rem; }
.psa-review .psa-asked[hidden], .psa-review button[hidden] { display: none; }
.psa-review .psa-bans { display: flex; flex-wrap: wrap; gap: 0.4rem; align-items: center; font-size: 13px; }
.psa-review .psa-chip { padding: 0.1rem 0.6rem; border-radius: 1rem; background: #7a2e2e; color: #fff; }
.psa-review .psa-pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0.75rem; }
.psa-review .psa-choice { padding: 4px; }
.psa-review .psa-choice:hover { outline: 2px solid #4a90d9; }
.psa-review img { width: 100%; height: 50vh; object-fit: contain; display: block; }
.psa-review button:disabled { opacity: 0.4; cursor: default; }
`;
