// What the pack's parts of the page share: requests to its routes, elements, widgets that hold them, and their looks.
// Nothing here adds to a node's saved values: added widgets are not serialised.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

export const rootGraph = () => app.rootGraph ?? app.graph;

let prompts = 0; // in ComfyUI's API format, that are being opened
export const isOpeningPrompt = () => prompts > 0;

/** Opens prompts as before: node by node, each value by its widget's callback and each link by its input's name. */
export function watchPrompts() {
  const open = app.loadApiJson;
  app.loadApiJson = async function (...args) {
    prompts += 1;
    try {
      return await open.apply(this, args);
    } finally {
      prompts -= 1;
    }
  };
}

/** What went wrong, in words; LiteGraph throws strings. */
export const sentenceOf = (failure) => failure.message ?? String(failure);

/** Send to one of the pack's routes; throws an Error with the server's sentence and its `status`. */
export async function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await api.fetchApi(path, { method, headers, body: body && JSON.stringify(body) });
  return answered(response.status, await response.json().catch(() => null));
}

/** What one of the pack's routes answers; or an Error as `send` throws it. */
export function answered(status, answer) {
  if (status === 200 && answer) return answer;
  const sentence = answer?.error ?? `The server answered ${status}. See its log.`;
  throw Object.assign(new Error(sentence), { status });
}

export function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const labelled = (text, control) => make("label", {}, [make("span", { textContent: text }), control]);

/** An element at the end of a node; `height` says how many pixels it takes now. */
export function addElement(node, name, element, height) {
  const heightNow = () => (findWidget(node, name)?.hidden ? 0 : height()); // older canvases keep a hidden one's room
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // of parameters, where it would be an empty row
    margin: 6,
    getMinHeight: heightNow,
    getMaxHeight: heightNow,
  });
  widget.serialize = false;
  return widget;
}

/** Rows that a text of 12 px takes in so many pixels: East Asia's signs are twice as wide. */
export const rowsOf = (text, width) =>
  Math.ceil([...text].reduce((sum, sign) => sum + (sign > "\u2e7f" ? 12 : 6.2), 0) / width);

/** A button below a node's widgets that is no value of it. */
export function addButton(node, label, onClick) {
  const button = node.addWidget("button", label, null, onClick, { serialize: false });
  button.serialize = false;
  return button;
}

export const findWidget = (node, name) => node.widgets?.find((widget) => widget.name === name);
export const valueOf = (node, name) => findWidget(node, name).value;
export const isLinked = (node, name) => node.inputs?.some((input) => input.widget?.name === name && input.link != null);

export function setHidden(widget, hidden) {
  widget.hidden = hidden; // the canvas looks here,
  widget.options.hidden = hidden; // nodes drawn as HTML look there
  if (widget.element) return; // these are laid out by what they say themselves
  if (hidden) widget.computeSize = () => [0, -4]; // older canvases keep its room, and 4 between two widgets
  else delete widget.computeSize;
}

/** Higher, where what it shows needs it, and never lower: its size is a person's to choose. */
export function grow(node) {
  const height = node.computeSize()[1];
  if (node.size[1] < height) node.setSize([node.size[0], height]);
  node.setDirtyCanvas?.(true, true);
}

/** `grow`, once a node that is being read has its values: its links are told first, beside the values of a new one. */
export const growSoon = (node) => queueMicrotask(() => grow(node));

/** As high as what it shows needs it: after a choice that shows and hides settings. */
export function fit(node) {
  node.setSize([node.size[0], node.computeSize()[1]]);
  node.setDirtyCanvas?.(true, true);
  const selected = app.canvas?.selected_nodes;
  if (selected?.[node.id] === node) app.canvas.onSelectionChange?.(selected); // the panel of parameters is made anew
}

/** Call `then` with the same arguments after the method `name` of `object`, which may have none. */
export function after(object, name, then) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    then(...args);
    return result;
  };
}

/**
 * While a dialog is open, `onKey` hears of each key, and ComfyUI of none: its shortcuts are plain letters. The focus may
 * be nowhere, as after a click on text; then keys go to the page's body.
 */
export function keepKeys(dialog, onKey = () => {}) {
  const listen = (event) => {
    if (!dialog.contains(event.target) && !event.target.contains?.(dialog)) return; // of another dialog above this one
    event.stopImmediatePropagation();
    onKey(event);
  };
  window.addEventListener("keydown", listen, true); // before all that listen further in
  dialog.addEventListener("close", () => window.removeEventListener("keydown", listen, true));
}

/** A dialog around a form; `save` may throw an Error, whose sentence is shown, and answer `false` to stay open. */
export function openForm({ title, fields, action, cancel, save }) {
  const error = make("p", { className: "psa-error", role: "alert" });
  const close = make("button", { type: "button", textContent: cancel, onclick: () => dialog.close() });
  const buttons = make("div", { className: "psa-buttons" }, [close, make("button", { textContent: action })]);
  const form = make("form", { autocomplete: "off", method: "dialog" }, [
    make("h3", { textContent: title }),
    ...fields,
    error,
    buttons,
  ]);
  const dialog = make("dialog", { className: "psa-dialog" }, [form]);
  keepKeys(dialog);
  dialog.onclose = () => dialog.remove();
  let sending = false; // a second click would meet what the first one stores
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (sending) return;
    sending = true;
    error.textContent = "";
    try {
      if ((await save()) !== false) dialog.close();
    } catch (failure) {
      error.textContent = sentenceOf(failure);
    } finally {
      sending = false;
    }
  };
  document.body.append(dialog);
  dialog.showModal();
  form.querySelector("input")?.focus();
  return dialog;
}

export function addStyle() {
  document.head.append(make("style", { textContent: STYLE }));
}

const OURS = new URL(".", import.meta.url).pathname; // where this pack's files are, its help's pictures too

// A help page's wide table moves within itself; else ComfyUI's narrow panel would move, or cut it.
export const STYLE = `
.node-help-content:has(img[src*="${OURS}"]) table { display: block; overflow-x: auto; }
.psa-dialog { width: 28rem; max-width: 95vw; max-height: 90vh; overflow: auto; padding: 1rem 1.25rem; border-radius: 8px;
  border: 1px solid var(--border-color, #555); background: var(--comfy-menu-bg, #2b2b2b); color: var(--fg-color, #eee);
  font: 14px/1.4 sans-serif; }
.psa-dialog::backdrop { background: rgb(0 0 0 / 50%); }
.psa-dialog form { display: flex; flex-direction: column; gap: 0.5rem; }
.psa-dialog h3, .psa-dialog p { margin: 0; }
.psa-dialog p { font-size: 12px; opacity: 0.85; }
.psa-dialog .psa-error:empty { display: none; }
.psa-dialog .psa-error, .psa-viewers .psa-error { color: var(--error-text, #ff6b6b); opacity: 1; }
.psa-dialog label { display: flex; align-items: center; justify-content: space-between; gap: 1rem; }
.psa-dialog label[hidden] { display: none; }
.psa-dialog input:not([type="checkbox"]), .psa-dialog select { width: 14rem; padding: 0.25rem 0.4rem; border-radius: 4px;
  border: 1px solid var(--border-color, #555); background: var(--comfy-input-bg, #222); color: var(--input-text, #eee); }
.psa-buttons { display: flex; flex-wrap: wrap; justify-content: flex-end; gap: 0.5rem; }
.psa-dialog button, .psa-viewers button, .psa-strip button { padding: 0.25rem 0.8rem; border-radius: 4px; cursor: pointer;
  border: 1px solid var(--border-color, #555); background: var(--comfy-input-bg, #222); color: var(--input-text, #eee);
  font: inherit; }
.psa-chips { display: flex; flex-wrap: wrap; align-content: flex-start; gap: 4px; font: 12px/1.35 sans-serif;
  color: var(--fg-color, #eee); overflow: auto; box-sizing: border-box; }
.psa-chips span { padding: 1px 8px; border-radius: 9px; background: #8f2f3c; color: #fff; white-space: nowrap; }
.psa-chips i { opacity: 0.85; }
.psa-strip { box-sizing: border-box; padding: 4px 8px; border-radius: 4px; background: #5c4813; color: #ffe9b0;
  font: 12px/1.35 sans-serif; overflow: auto; }
.psa-strip button { margin-top: 4px; font-size: 12px; width: 100%; }
.psa-result { box-sizing: border-box; padding: 4px 8px; border-radius: 4px; overflow: auto; white-space: pre-wrap;
  font: 12px/1.4 sans-serif; user-select: text; background: var(--comfy-input-bg, #222); color: var(--input-text, #eee); }
.psa-result table { border-collapse: collapse; margin: 2px 0; }
.psa-result td, .psa-result th { padding: 1px 6px; border: 1px solid var(--border-color, #555); text-align: left;
  white-space: nowrap; font-weight: normal; }
.psa-result h4 { margin: 4px 0 2px; font: bold 12px/1.4 sans-serif; }
.psa-viewers { display: flex; flex-direction: column; gap: 0.5rem; padding: 0.75rem; overflow: auto; height: 100%;
  box-sizing: border-box; font: 14px/1.4 sans-serif; color: var(--fg-color, #eee); }
.psa-viewers h3, .psa-viewers p, .psa-viewers dl { margin: 0; }
.psa-viewers p { font-size: 12px; opacity: 0.85; }
.psa-viewers details { border: 1px solid var(--border-color, #555); border-radius: 6px; padding: 0.35rem 0.6rem; }
.psa-viewers summary { cursor: pointer; overflow-wrap: anywhere; }
.psa-viewers dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 10px; font-size: 13px; margin: 0.4rem 0; }
.psa-viewers dd { margin: 0; }
.psa-viewers .psa-buttons { justify-content: flex-start; margin-top: 0.5rem; gap: 0.3rem; }
.psa-viewers .psa-buttons button { font-size: 12px; padding: 0.15rem 0.6rem; }
`;
