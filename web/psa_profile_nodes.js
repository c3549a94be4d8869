// User Profile and Load Profile: the fields that count, what they ban, and what becomes of what is typed.

import { app } from "../../scripts/app.js";
import { addButton, addElement, after, findWidget, fit, grow, growSoon, isLinked, isOpeningPrompt, make, rowsOf, setHidden, valueOf } from "./psa_page.js";
import { CHOSEN, isSwitch, makeChips, openEditor, openNameForm, openProfileForm, profileOf, switchOf } from "./psa_profile_form.js";
import * as store from "./psa_store.js";
import { say } from "./psa_words.js";

/** Chips at the end of a node; their widget's height follows what they hold. */
function addChips(node) {
  const chips = makeChips();
  let height = 34;
  addElement(node, "psa_banned", chips.element, () => height);
  const show = async (banned, note) => {
    await chips.show(banned, note);
    const padded = chips.element.textContent + "     ".repeat(chips.element.childElementCount);
    const rows = rowsOf(padded, Math.max(160, node.size[0] - 24));
    height = 12 + 22 * Math.min(rows, 4);
    grow(node);
  };
  return { show };
}

const fieldsOf = (node) => Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.value]));
const isCustom = (node) => isLinked(node, "preset") || valueOf(node, "preset") === "custom";
const anyLinked = (node) => node.inputs?.some((input) => input.widget && input.link != null);

export function setUpUserProfile(node) {
  const text = make("div", {
    textContent: say(
      "These values are saved in every picture and workflow, and in this browser's storage. Not for a real person.",
    ),
  });
  const button = make("button", {
    type: "button",
    textContent: say("Store it, and load it by name"),
    onclick: () => storeAndSwap(node),
  });
  const stripHeight = () => {
    const width = node.size[0] - 28;
    return 35 + 16.2 * (rowsOf(text.textContent, width) + rowsOf(button.textContent, width - 27));
  };
  const strip = addElement(node, "psa_note", make("div", { className: "psa-strip" }, [text, button]), stripHeight);
  const chips = addChips(node);

  let areAllOn = false; // because what the rules ban could not be told
  const isLinkedWhere = (counts) => node.widgets.some(({ name }) => isLinked(node, name) && counts(name));
  const showBanned = () => {
    const chosen = valueOf(node, "banned") === CHOSEN;
    const counts = (name) => name === "banned" || isSwitch(name) === chosen;
    const note = areAllOn && (chosen || isLinked(node, "banned")) ? say("All are switched on: what the rules ban depends on what is connected.") : "";
    if (isLinked(node, "preset") || (isCustom(node) && isLinkedWhere(counts)))
      return chips.show(say("What is banned depends on what is connected."), note);
    return chips.show(store.bannedBy(isCustom(node) ? profileOf(fieldsOf(node)) : { Level: valueOf(node, "preset") }), note);
  };
  const showWhatCounts = () => {
    const custom = isCustom(node);
    const chosen = isLinked(node, "banned") || valueOf(node, "banned") === CHOSEN;
    for (const widget of node.widgets) {
      if (["preset", "psa_banned"].includes(widget.name)) continue;
      const counts = custom && (chosen || !isSwitch(widget.name));
      setHidden(widget, !counts && !isLinked(node, widget.name));
    }
    strip.element.hidden = !custom;
  };
  const chooseWhatCounts = async () => {
    showWhatCounts();
    fit(node);
    await showBanned(); // which may take less room than before
    fit(node);
  };

  let rules = valueOf(node, "banned");
  let isOpen = false; // whether another node says who bans
  /** A choice starts from what was banned, so that nothing is allowed by it alone: by the rules, or all if they cannot be told. */
  const switchOn = async () => {
    areAllOn = isLinkedWhere((name) => !isSwitch(name));
    const byRules = areAllOn ? [] : await store.bannedBy(profileOf({ ...fieldsOf(node), banned: rules }));
    for (const widget of node.widgets)
      if (isSwitch(widget.name)) widget.value = areAllOn || byRules.map(switchOf).includes(widget.name);
  };
  const takeOver = async () => {
    const banned = findWidget(node, "banned");
    try {
      areAllOn = false;
      if (banned.value === CHOSEN && rules !== CHOSEN && !isOpeningPrompt()) await switchOn();
      rules = banned.value;
    } catch (error) {
      banned.value = rules;
      store.showError(say("Banned categories"), error);
    }
    return chooseWhatCounts();
  };
  const chooseByHand = () => {
    areAllOn = false;
    return showBanned();
  };
  for (const widget of node.widgets) {
    if (widget.name === "banned") after(widget, "callback", takeOver);
    else if (widget.name === "preset") after(widget, "callback", chooseWhatCounts);
    else if (!widget.name.startsWith("psa_")) after(widget, "callback", isSwitch(widget.name) ? chooseByHand : showBanned);
  }
  after(node, "onConnectionsChange", () => {
    const wasOpen = isOpen;
    isOpen = isLinked(node, "banned");
    if (isOpen && !wasOpen && rules !== CHOSEN && !app.configuringGraph) switchOn(); // it may say: chosen
    showWhatCounts();
    growSoon(node);
    showBanned();
  });
  after(node, "onConfigure", () => {
    const banned = findWidget(node, "banned");
    if (banned.value === "by the rules") banned.value = "reference-prompt"; // as the first versions called it
    rules = banned.value;
    isOpen = isLinked(node, "banned");
    areAllOn = false;
    showWhatCounts();
    showBanned();
  });
  showWhatCounts();
  fit(node);
  showBanned();
}

function storeAndSwap(node) {
  if (anyLinked(node)) {
    store.showError(say("User Profile"), new Error(say("Disconnect the inputs first: what is connected cannot be stored.")));
    return;
  }
  openNameForm(say("Store this profile"), say("Store"), "", async (name) => {
    await store.save(name, profileOf(fieldsOf(node)));
    swap(node, name);
  });
}

/** Puts Load Profile with this name where `node` is, wired as it is. */
function swap(node, name) {
  const graph = node.graph ?? app.graph;
  const loader = window.LiteGraph.createNode("PSALoadProfile");
  graph.beforeChange?.();
  loader.pos = [...node.pos];
  graph.add(loader);
  choose(loader, name);
  for (const id of [...(node.outputs[0].links ?? [])]) {
    const link = graph.getLink?.(id) ?? graph.links[id];
    const target = graph.getNodeById(link.target_id);
    if (target) loader.connect(0, target, link.target_slot, link.parentId);
    else graph.outputNode.slots[link.target_slot].connect(loader.outputs[0], loader, link.parentId); // out of a subgraph
  }
  graph.remove(node);
  graph.afterChange?.();
}

export function choose(node, name) {
  const names = findWidget(node, "profile_name");
  names.value = name;
  names.callback?.(name);
}

export function setUpLoadProfile(node) {
  const names = findWidget(node, "profile_name");
  addButton(node, say("New profile…"), () => openProfileForm(undefined, (name) => choose(node, name)));
  const isChosen = () => names.value && !names.value.startsWith("("); // no name begins so
  const withChosen = (then) => () =>
    isChosen() ? then(names.value) : store.showError(say("Viewers"), say("Choose a stored viewer, or store one."));
  addButton(node, say("Edit profile…"), withChosen((name) => openEditor(name)));
  addButton(node, say("Delete profile"), withChosen(deleteProfile));
  const chips = addChips(node);
  const showBanned = async () => {
    if (isLinked(node, "profile_name")) return chips.show(say("What is banned depends on what is connected."));
    if (!isChosen()) return chips.show(say("Choose a stored viewer, or store one."));
    const name = names.value;
    const known = await store.names().catch(() => []);
    if (names.value !== name) return showBanned(); // a workflow's value came after that of a new node
    if (!known.includes(name)) return chips.show(say("No profile is stored under that name."));
    return chips.show(store.read(name).then(({ profile }) => profile.Banned_Categories));
  };
  after(names, "callback", showBanned);
  after(node, "onConfigure", showBanned);
  after(node, "onConnectionsChange", showBanned);
  store.changes.addEventListener("change", showBanned);
  after(node, "onRemoved", () => store.changes.removeEventListener("change", showBanned));
  showBanned();
}

export async function deleteProfile(name) {
  if (!confirm(say('Delete the stored profile "{name}"? Graphs that load it will ask for another.', { name }))) return;
  try {
    await store.remove(name); // nodes keep the name: another person's profile must not slip in
  } catch (error) {
    store.showError(say("Delete profile"), error);
  }
}
