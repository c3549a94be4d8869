// The fields of a profile as a form, and what it bans as chips. It asks what the node User Profile asks.

import { labelled, make, openForm, sentenceOf } from "./psa_page.js";
import * as store from "./psa_store.js";
import { say } from "./psa_words.js";

/** @type {Record<string, [any, any]>} PSAUserProfile's inputs as the server describes them. */
let inputs = {};
export const learnInputs = (required) => (inputs = required);

export const CHOSEN = "chosen";
export const isSwitch = (name) => name.startsWith("ban_");
const capitalised = (name) => name.split("_").map((word) => word[0].toUpperCase() + word.slice(1));
const categoryOf = (name) => capitalised(name.slice("ban_".length)).join("-"); // ban_self_harm -> Self-Harm
const fieldOf = (name) => capitalised(name).join("_"); // physical_condition -> Physical_Condition
const labelOf = (name) =>
  isSwitch(name) ? say("Ban {category}", { category: say(categoryOf(name)) }) : say(capitalised(name).join(" "));
export const switchOf = (category) => `ban_${category.toLowerCase().replace("-", "_")}`;

/** The inputs' values as a profile in Sage's spelling. */
export function profileOf(values) {
  const names = Object.keys(values).filter((name) => name in inputs);
  const profile = {};
  for (const name of names)
    if (!isSwitch(name) && !["preset", "banned"].includes(name)) profile[fieldOf(name)] = values[name];
  if (values.banned === CHOSEN)
    profile.Banned_Categories = names.filter((name) => isSwitch(name) && values[name]).map(categoryOf);
  else profile.Rules = values.banned;
  return profile;
}

/** Chips that follow what `show` is given: a list of categories, a sentence, or a promise of a list; and a note. */
export function makeChips() {
  const element = make("div", { className: "psa-chips", ariaLive: "polite" });
  let latest = 0;
  const word = (textContent) => make("i", { textContent });
  const write = (banned, note) => {
    const notes = note ? [word(note)] : [];
    if (typeof banned === "string") return element.replaceChildren(word(banned), ...notes);
    const chips = banned.map((category) => make("span", { textContent: say(category) }));
    return element.replaceChildren(word(say(banned.length ? "Banned:" : "Nothing is banned.")), ...chips, ...notes);
  };
  const show = async (banned, note) => {
    const mine = ++latest; // an answer that comes late must not replace a later one
    try {
      const found = await banned;
      if (mine === latest) write(found, note);
    } catch (error) {
      if (mine === latest) write(sentenceOf(error), note);
    }
  };
  return { element, show };
}

/** @param stored what `store.read` gives, or undefined for a new profile. */
function makeFields(stored) {
  const controls = Object.fromEntries(
    Object.entries(inputs)
      .filter(([name]) => name !== "preset")
      .map(([name, spec]) => [name, makeControl(name, spec)]),
  );
  const chips = makeChips();
  const read = () => Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, valueOf(control)]));
  const tick = (banned) => {
    for (const [name, control] of Object.entries(controls))
      if (isSwitch(name)) control.checked = banned.includes(categoryOf(name));
  };
  if (stored) {
    for (const name of Object.keys(controls))
      if (fieldOf(name) in stored.profile) controls[name].value = stored.profile[fieldOf(name)];
    controls.banned.value = stored.rules ?? CHOSEN;
    tick(stored.profile.Banned_Categories);
  }
  let rules = controls.banned.value;
  const update = () => {
    for (const [name, control] of Object.entries(controls))
      if (isSwitch(name)) control.parentElement.hidden = controls.banned.value !== CHOSEN;
    chips.show(store.bannedBy(profileOf(read())));
  };
  controls.banned.onchange = async () => {
    try {
      // A choice starts from what was banned, so that nothing is allowed by a change of the menu alone.
      if (controls.banned.value === CHOSEN && rules !== CHOSEN)
        tick(await store.bannedBy(profileOf({ ...read(), banned: rules })));
      rules = controls.banned.value;
    } catch (error) {
      controls.banned.value = rules;
      store.showError(say("Banned categories"), error);
    }
    update();
  };
  const rows = Object.entries(controls).map(([name, control]) => labelled(labelOf(name), control));
  for (const [name, control] of Object.entries(controls)) if (name !== "banned") control.oninput = update;
  update();
  return { rows, chips: chips.element, read: () => profileOf(read()) };
}

const valueOf = (control) =>
  control.type === "checkbox" ? control.checked : control.type === "number" ? control.valueAsNumber : control.value;

function makeControl(name, [type, options = {}]) {
  if (type === "INT")
    return make("input", { name, type: "number", required: true, min: options.min, max: options.max, value: options.default });
  if (type === "BOOLEAN") return make("input", { name, type: "checkbox" });
  const words = Array.isArray(type) ? type : options.options;
  const choices = words.map((word) => make("option", { value: word, textContent: word }));
  const select = make("select", { name }, choices);
  if (options.default !== undefined) select.value = options.default;
  return select;
}

export const nameInput = (value = "") =>
  make("input", { name: "name", required: true, maxLength: 100, value, placeholder: say("for example: viewer A") });

export const nameNote = () =>
  make("p", { textContent: say("The name is saved in pictures and workflows: let it say nothing about the person.") });

/** Opens the form of a new profile, or of what is stored; calls `done` with the name once it is saved. */
export function openProfileForm(stored, done) {
  const name = nameInput();
  const fields = makeFields(stored);
  openForm({
    title: stored ? say("Edit {name}", { name: stored.name }) : say("New profile"),
    fields: [
      ...(stored ? [] : [labelled(say("Name"), name), nameNote()]),
      ...fields.rows,
      fields.chips,
      make("p", { textContent: say("These fields stay on this ComfyUI's server and never enter the graph.") }),
    ],
    action: say("Save"),
    cancel: say("Cancel"),
    save: async () => {
      const target = stored?.name ?? name.value.trim();
      await store.save(target, fields.read(), stored?.version);
      done?.(target);
    },
  });
}

export async function openEditor(name, done) {
  try {
    openProfileForm(await store.read(name), done);
  } catch (error) {
    store.showError(say("Edit {name}", { name }), error);
  }
}

/** Asks for one name; `save(name)` may throw an Error with a sentence. */
export function openNameForm(title, action, value, save) {
  const name = nameInput(value);
  openForm({
    title,
    fields: [labelled(say("Name"), name), nameNote()],
    action,
    cancel: say("Cancel"),
    save: () => save(name.value.trim()),
  });
}
