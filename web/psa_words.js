// What the page says in the language that ComfyUI is set to: locales/<language>/main.json under "psa".

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

let words = {};

export async function loadWords() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  if (language === "en") return;
  const response = await api.fetchApi("/i18n").catch(() => null);
  const all = response?.ok ? await response.json().catch(() => ({})) : {};
  words = all[language]?.psa ?? {};
}

/** A sentence of this page's in the language that is set; `{name}` stands for a value. */
export const say = (sentence, values = {}) =>
  (Object.hasOwn(words, sentence) ? words[sentence] : sentence).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
