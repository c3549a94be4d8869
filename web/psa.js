// ComfyUI front-end extension of the PSA nodes. Nothing here adds to a node's saved values: added widgets come last
// and are not serialised, hidden ones keep their place.

import { app } from "../../scripts/app.js";
import { addButton, make, send, STYLE } from "./psa_page.js";

const NOTE = "These values are saved in every picture and workflow. For a real person, use Load Profile.";

/** @type {Record<string, [any, any]>} PSAUserProfile's inputs as the server describes them; the dialog asks the same. */
let profileInputs = {};

app.registerExtension({
  name: "psa.nodes",
  beforeRegisterNodeDef(_nodeType, nodeData) {
    if (nodeData.name === "PSAUserProfile") profileInputs = nodeData.input.required;
  },
  nodeCreated(node) {
    if (node.comfyClass === "PSAUserProfile") setUpUserProfile(node);
    if (node.comfyClass === "PSALoadProfile") setUpLoadProfile(node);
  },
});

// --- User Profile: show the fields that count, and say what becomes of them ---

function setUpUserProfile(node) {
  const element = make("div", { textContent: NOTE });
  element.style.cssText =
    "box-sizing:border-box;padding:4px 8px;border-radius:4px;background:#5c4813;color:#ffe9b0;font:12px/1.35 sans-serif;overflow:auto";
  const note = node.addDOMWidget("psa_note", "psa_note", element, {
    serialize: false,
    margin: 6,
    getMinHeight: () => 70,
    getMaxHeight: () => 70,
  });
  note.serialize = false;

  const showWhatCounts = () => {
    const custom = isLinked(node, "preset") || valueOf(node, "preset") === "custom";
    const chosen = isLinked(node, "banned") || valueOf(node, "banned") === "chosen";
    for (const widget of node.widgets) {
      if (widget.name === "preset") continue;
      const counts = custom && (chosen || !widget.name.startsWith("ban_"));
      setHidden(widget, !counts && !isLinked(node, widget.name));
    }
  };
  const fit = () => {
    showWhatCounts();
    node.setSize([node.size[0], node.computeSize()[1]]);
    node.setDirtyCanvas(true, true);
  };
  after(findWidget(node, "preset"), "callback", fit);
  after(findWidget(node, "banned"), "callback", fit);
  after(node, "onConnectionsChange", showWhatCounts);
  after(node, "onConfigure", () => {
    const banned = findWidget(node, "banned");
    if (banned.value === "by the rules") banned.value = "reference-prompt"; // as the first versions called it
    showWhatCounts();
  });
  fit();
}

const findWidget = (node, name) => node.widgets.find((widget) => widget.name === name);
const valueOf = (node, name) => findWidget(node, name).value;
const isLinked = (node, name) => node.inputs?.some((input) => input.widget?.name === name && input.link != null);

function setHidden(widget, hidden) {
  widget.hidden = hidden; // the canvas looks here,
  widget.options.hidden = hidden; // nodes drawn as HTML look there
  if (hidden) widget.computeSize = () => [0, -4]; // older canvases keep its room, and 4 between two widgets
  else delete widget.computeSize;
}

/** Call `then` after the method `name` of `object`, which may have none. */
function after(object, name, then) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    then();
    return result;
  };
}

// --- Load Profile: make and delete stored profiles; what is typed goes to the store alone ---

function setUpLoadProfile(node) {
  const names = findWidget(node, "profile_name");
  addButton(node, "New profile…", () => openProfileDialog(names));
  addButton(node, "Delete profile", () => deleteProfile(names));
}

async function deleteProfile(names) {
  const name = names.value;
  if (!name || !confirm(`Delete the stored profile "${name}"? Graphs that load it will ask for another.`)) return;
  try {
    await send("DELETE", profilePath(name));
    await app.refreshComboInNodes(); // the node keeps the name: another person's profile must not slip in
  } catch (error) {
    app.extensionManager.toast.add({ severity: "error", summary: "Delete profile", detail: error.message });
  }
}

const profilePath = (name) => `/psa/profiles/${encodeURIComponent(name)}`;

function openProfileDialog(names) {
  const controls = Object.fromEntries(
    Object.entries(profileInputs)
      .filter(([name]) => name !== "preset")
      .map(([name, spec]) => [name, makeControl(name, spec)]),
  );
  const nameInput = make("input", { name: "name", required: true, maxLength: 100, placeholder: "for example: viewer A" });
  const error = make("p", { className: "psa-error", role: "alert" });
  const cancel = make("button", { type: "button", textContent: "Cancel", onclick: () => dialog.close() });
  const form = make("form", { autocomplete: "off", method: "dialog" }, [
    make("h3", { textContent: "New profile" }),
    labelled("Name", nameInput),
    make("p", { textContent: "The name is saved in pictures and workflows: let it say nothing about the person." }),
    ...Object.entries(controls).map(([name, control]) => labelled(labelOf(name), control)),
    make("p", { textContent: "These fields stay on this ComfyUI's server and never enter the graph." }),
    error,
    make("div", { className: "psa-buttons" }, [cancel, make("button", { textContent: "Save" })]),
  ]);
  const dialog = make("dialog", { className: "psa-dialog" }, [make("style", { textContent: STYLE }), form]);

  const showSwitches = () => {
    for (const [name, control] of Object.entries(controls))
      if (isSwitch(name)) control.parentElement.hidden = controls.banned.value !== "chosen";
  };
  controls.banned.onchange = showSwitches;
  showSwitches();
  dialog.onkeydown = (event) => event.stopPropagation(); // ComfyUI's shortcuts listen to plain letters
  dialog.onclose = () => dialog.remove();
  let sending = false; // a second click would meet the profile that the first one stores
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (sending) return;
    sending = true;
    const name = nameInput.value.trim();
    error.textContent = "";
    try {
      const { names: known } = await send("GET", "/psa/profiles");
      const taken = known.includes(name) ? await send("GET", profilePath(name)) : {};
      if (taken.version && !confirm(`There is a profile "${name}". Replace it?`)) return;
      await send("POST", "/psa/profiles", { name, profile: readProfile(controls), overwrite: taken.version });
      dialog.close();
      await app.refreshComboInNodes();
      names.value = name;
      names.callback?.(name);
    } catch (failure) {
      error.textContent = failure.message;
    } finally {
      sending = false;
    }
  };
  document.body.append(dialog);
  dialog.showModal();
  nameInput.focus();
}

const isSwitch = (name) => name.startsWith("ban_");
const capitalised = (name) => name.split("_").map((word) => word[0].toUpperCase() + word.slice(1));
const categoryOf = (name) => capitalised(name.slice("ban_".length)).join("-"); // ban_self_harm -> Self-Harm
const labelOf = (name) => (isSwitch(name) ? `Ban ${categoryOf(name)}` : capitalised(name).join(" "));

/** The dialog's controls as a profile in Sage's spelling: physical_condition -> Physical_Condition. */
function readProfile(controls) {
  const profile = {};
  for (const [name, control] of Object.entries(controls)) {
    if (isSwitch(name) || name === "banned") continue;
    profile[capitalised(name).join("_")] = control.type === "number" ? control.valueAsNumber : control.value;
  }
  if (controls.banned.value === "chosen")
    profile.Banned_Categories = Object.keys(controls)
      .filter((name) => isSwitch(name) && controls[name].checked)
      .map(categoryOf);
  else profile.Rules = controls.banned.value;
  return profile;
}

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

const labelled = (text, control) => make("label", {}, [make("span", { textContent: text }), control]);
