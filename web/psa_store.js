// The store of profiles, through the server's routes. What is typed goes there alone, and never into a graph.

import { app } from "../../scripts/app.js";
import { send, sentenceOf } from "./psa_page.js";

/** Tells of every change of the store by a `change` event. */
export const changes = new EventTarget();

const pathOf = (name, action = "") => `/psa/profiles/${encodeURIComponent(name)}${action && `/${action}`}`;

async function change(method, path, body) {
  const answer = await send(method, path, body);
  await refresh();
  return answer;
}

/** Nodes' lists of names, and whoever listens. */
export async function refresh() {
  await app.refreshComboInNodes();
  changes.dispatchEvent(new Event("change"));
}

export const names = async () => (await send("GET", "/psa/profiles")).names;
/** `{ name, version, profile, rules }`: the profile in Sage's spelling, and the rules that ban what it bans, or null. */
export const read = (name) => send("POST", pathOf(name, "read"), {});
export const save = (name, profile, overwrite) => change("POST", "/psa/profiles", { name, profile, overwrite });
export const copy = (name, to) => change("POST", pathOf(name, "copy"), { to });
export const rename = (name, to) => change("POST", pathOf(name, "rename"), { to });
export const remove = (name) => change("DELETE", pathOf(name));
/** What a profile in Sage's spelling bans, or `{ Level: "L3" }`. */
export const bannedBy = async (profile) => (await send("POST", "/psa/banned", profile)).banned;

export function showError(summary, error) {
  app.extensionManager.toast.add({ severity: "error", summary, detail: sentenceOf(error), life: 10000 });
}
