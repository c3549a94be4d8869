// What the pack's dialogs share: elements, requests to its routes, and their looks.

import { api } from "../../scripts/api.js";

/** Send to one of the pack's routes; throws an Error with the server's sentence. */
export async function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await api.fetchApi(path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `The server answered ${response.status}. See its log.`);
  return answer;
}

export function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A button below a node's widgets that is no value of it. */
export function addButton(node, label, onClick) {
  const button = node.addWidget("button", label, null, onClick, { serialize: false });
  button.serialize = false;
}

export const STYLE = `
.psa-dialog { width: 26rem; max-width: 95vw; max-height: 90vh; overflow: auto; padding: 1rem 1.25rem; border-radius: 8px;
  border: 1px solid var(--border-color, #555); background: var(--comfy-menu-bg, #2b2b2b); color: var(--fg-color, #eee);
  font: 14px/1.4 sans-serif; }
.psa-dialog::backdrop { background: rgb(0 0 0 / 50%); }
.psa-dialog form { display: flex; flex-direction: column; gap: 0.5rem; }
.psa-dialog h3, .psa-dialog p { margin: 0; }
.psa-dialog p { font-size: 12px; opacity: 0.85; }
.psa-dialog .psa-error:empty { display: none; }
.psa-dialog .psa-error { color: var(--error-text, #ff6b6b); opacity: 1; }
.psa-dialog label { display: flex; align-items: center; justify-content: space-between; gap: 1rem; }
.psa-dialog label[hidden] { display: none; }
.psa-dialog input:not([type="checkbox"]), .psa-dialog select { width: 14rem; padding: 0.25rem 0.4rem; border-radius: 4px;
  border: 1px solid var(--border-color, #555); background: var(--comfy-input-bg, #222); color: var(--input-text, #eee); }
.psa-dialog .psa-buttons { display: flex; justify-content: flex-end; gap: 0.5rem; }
.psa-dialog button { padding: 0.3rem 1rem; border-radius: 4px; border: 1px solid var(--border-color, #555); cursor: pointer;
  background: var(--comfy-input-bg, #222); color: var(--input-text, #eee); }
`;
