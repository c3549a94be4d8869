// Review by hand: two pictures side by side, what a viewer must not see, and which of the two they should rather see.
// Each answer is on the server's disk before the next question comes, so that the page may be closed at any time.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addButton, isLinked, keepKeys, make, send, STYLE, valueOf } from "./psa_page.js";

const COMMAND = "psa.review";
const OPENED_BY = ["PSACheckDataset", "PSABuildDataset"]; // nodes with a button
const READERS = ["PSALoadDataset", "PSACheckDataset"]; // nodes that read the folder and the users file that they name
const BUILT = "psa_datasets"; // the folder in ComfyUI's input folder that PSA Build Dataset builds in
const CHANGED = 409; // the server's status where the page's question, or the answers that it has seen, are outdated
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
    addButton(node, "Review by hand…", () => openReview(namedBy(node), usersOf(node)));
  },
});

/** What the data set of a node is called in ComfyUI's input folder; null where that shows only when it runs. */
function namedBy(node) {
  const value = (name) => (isLinked(node, name) ? null : valueOf(node, name));
  if (node?.comfyClass === "PSABuildDataset") return value("name") === null ? null : `${BUILT}/${value("name")}`;
  const before = nodeBefore(node);
  if (before !== undefined) return namedBy(before);
  if (!READERS.includes(node?.comfyClass)) return null;
  const elsewhere = value("elsewhere");
  return elsewhere === null ? null : elsewhere.trim() || value("folder");
}

/** The users file that a node's data set is read with, "" for none; null where that shows only when it runs. */
function usersOf(node) {
  if (!READERS.includes(node?.comfyClass)) return "";
  const before = nodeBefore(node);
  const users = isLinked(node, "users") ? null : valueOf(node, "users");
  return users === "" && before ? usersOf(before) : users;
}

/** The node whose pairs name a node's data set; undefined where its own settings do. */
function nodeBefore(node) {
  const wired = node?.inputs?.findIndex((input) => input.name === "dataset" && input.link != null) ?? -1;
  return node?.comfyClass !== "PSACheckDataset" || wired < 0 ? undefined : (node.getInputNode(wired) ?? null);
}

/** A name as the list of data sets has it: with plain slashes, and none around it. */
const asListed = (name) => name.trim().replaceAll("\\", "/").replace(/^(\.\/)+|\/+$/g, "");

/**
 * `wanted` is the data set to open, null where the person is to choose one; without it the first one opens. It alone is
 * read with the file `users`, null where that is not known: a file of that name beside another one says something else.
 */
async function openReview(wanted, users = "") {
  const known = wanted !== null && users !== null;
  const its = known && wanted !== undefined ? asListed(wanted) : null;
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

  const splitsOf = new Map();
  let state = null;
  let working = 0; // nothing is answered before both pictures are seen, nor twice
  /** The address of what is chosen, or of something of it. */
  const chosen = (of = "") => {
    const [name, part] = [dataset.value, split.value].map(encodeURIComponent);
    return `/psa/review/${name}/${part}${of}?users=${dataset.value === its ? encodeURIComponent(users) : ""}`;
  };

  /** Run what talks to the server; what goes wrong is said, and the question stays. */
  async function quietly(work) {
    setWorking(working + 1);
    error.textContent = "";
    try {
      await work();
    } catch (failure) {
      error.textContent = failure.message;
    } finally {
      setWorking(working - 1);
    }
  }

  function setWorking(count) {
    working = count;
    dialog.ariaBusy = String(count > 0);
  }

  async function show(next, place) {
    if (place !== chosen()) return; // the person has chosen another data set or split meanwhile
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
      pictures[number].src = api.apiURL(`${chosen(`/${question.number}/${side}`)}&token=${question.token}`);
    const loaded = await Promise.allSettled(pictures.map((picture) => picture.decode()));
    if (place !== chosen()) return;
    if (loaded.some((each) => each.status === "rejected")) {
      const now = await send("GET", place);
      if (place !== chosen()) return;
      if (now.question?.token !== question.token) {
        await show(now, place);
        error.textContent = "The data set has changed meanwhile: look at the question that comes now.";
        return;
      }
      error.textContent = "A picture of this pair cannot be shown.";
    }
    told(); // last: from here on it can be answered
  }

  function answer(word) {
    const target = word === "undo" ? state?.undo : state?.question;
    if (working || !target) return;
    const place = chosen();
    const body = { number: target.number, token: target.token, answer: word, seen: state.seen };
    quietly(async () => {
      try {
        await show(await send("POST", place, body), place);
      } catch (failure) {
        if (failure.status === CHANGED) await show(await send("GET", place), place);
        throw failure;
      }
    });
  }

  const load = () =>
    quietly(async () => {
      const place = chosen();
      state = null;
      await show(await send("GET", place), place);
    });

  async function open() {
    state = null;
    for (const element of [split, asked, ...buttons]) element.hidden = !dataset.value;
    fill(split, splitsOf.get(dataset.value) ?? []);
    if (dataset.value) await load();
  }

  const fill = (list, values) =>
    list.replaceChildren(...values.map((value) => make("option", { value, textContent: value || "choose a data set" })));

  keepKeys(dialog, (event) => {
    const word = KEYS[event.key?.toLowerCase()];
    if (!word || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); // where a list has the focus, an arrow would choose from it as well
    if (!event.repeat) answer(word);
  });
  dialog.onclose = () => dialog.remove();
  document.body.append(dialog);
  dialog.showModal();
  await quietly(async () => {
    const { datasets } = await send("GET", "/psa/datasets");
    for (const each of datasets) splitsOf.set(each.name, each.splits);
    const names = [...splitsOf.keys()];
    const named = wanted === undefined ? names[0] : names.find((name) => name === its);
    fill(dataset, named === undefined ? ["", ...names] : names);
    dataset.value = named ?? "";
    dataset.onchange = open;
    split.onchange = load;
    await open();
    if (!names.length)
      throw new Error("There is no data set in ComfyUI's input folder. Build one there, upload one on Load PSA Dataset, or copy one into it.");
    if (!known)
      throw new Error(
        "Which data set this node reads, or with which users file, shows only when it runs. Choose one here; it is read " +
          "without a users file.",
      );
    if (named === undefined)
      throw new Error(
        `There is no finished data set "${wanted}" in ComfyUI's input folder. Run the node that builds it to its end, ` +
          "or choose another one here.",
      );
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
