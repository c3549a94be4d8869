// A node shows the settings that count: one that counts only beside certain others is hidden where they are not so.

import { after, findWidget, fit, growSoon, isLinked, setHidden } from "./psa_page.js";

const is = (wanted) => (value) => value === wanted;
const isNot = (other) => (value) => value !== other;
const isEmpty = (value) => !String(value).trim();
const isAddress = (value) => /^https?:\/\//.test(String(value).trim());

const CUSTOM = { preset: is("custom") };
const SERVER = { writer: is("server") };
const NEW_USERS = { users_file: isEmpty };
const VIRTUAL = { users: isEmpty };
const WITHOUT_MODEL = ["structured", "structured-inferred", "everyone"]; // encoders
const ENCODING_MODEL = { encoder_name: (value) => !WITHOUT_MODEL.includes(value) };
const JUDGE_ELSEWHERE = { judge: (value) => /^Q16|^vision-language/.test(value) };
const SERVER_JUDGE = { judge: is("vision-language model"), judge_location: isAddress };

// By node and setting: the settings or sockets that it depends on, each with what its value must be like. The value of
// a socket is whether something is connected.
const COUNTS = {
  PSATrain: { learning_rate: CUSTOM, resolution: CUSTOM, num_tokens: CUSTOM },
  PSAConcepts: { templates: { scenes: isNot("mini") }, server_address: SERVER, server_model: SERVER },
  PSABuildDataset: {
    users: NEW_USERS,
    rules: NEW_USERS,
    departures: NEW_USERS,
    judge_location: { judge: isNot("nobody") },
    judge_model: SERVER_JUDGE,
  },
  PSAUserSpace: { count: VIRTUAL, seed: VIRTUAL, rules: VIRTUAL, departures: VIRTUAL },
  PSALoadDataset: { folder: { elsewhere: isEmpty } },
  PSACheckDataset: { folder: { dataset: is(false), elsewhere: isEmpty } },
  PSALoadEncoder: { templates: ENCODING_MODEL, banned_by: ENCODING_MODEL, keep_loaded: ENCODING_MODEL },
  PSAEvaluate: { judge_location: JUDGE_ELSEWHERE, judge_model: SERVER_JUDGE },
  PSAGuard: {
    judge_location: JUDGE_ELSEWHERE,
    judge_model: SERVER_JUDGE,
    sensitivity: { judge: is("zero-shot CLIP") },
    more_strength: { tries: (value) => value > 0 },
  },
};

export function setUpCounts(node) {
  const counts = COUNTS[node.comfyClass];
  if (!counts) return;
  const holds = ([name, wanted]) => {
    if (isLinked(node, name)) return true; // what comes in shows only when it runs
    const widget = findWidget(node, name);
    return wanted(widget ? widget.value : node.inputs.some((input) => input.name === name && input.link != null));
  };
  /** Whether other settings are shown than before. */
  const show = () => {
    let changed = false;
    for (const [name, others] of Object.entries(counts)) {
      const widget = findWidget(node, name);
      const hidden = !isLinked(node, name) && !Object.entries(others).every(holds);
      changed ||= hidden !== Boolean(widget.hidden);
      setHidden(widget, hidden);
    }
    return changed;
  };
  const update = () => show() && fit(node);
  for (const name of new Set(Object.values(counts).flatMap(Object.keys))) {
    const widget = findWidget(node, name);
    if (widget) after(widget, "callback", update);
  }
  after(node, "onConnectionsChange", () => {
    show();
    growSoon(node);
  });
  after(node, "onConfigure", show);
  update();
}
