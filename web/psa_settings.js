// Settings that count only where another has a certain value: else they are hidden, unless something is connected to them.

import { after, findWidget, fit, grow, isLinked, setHidden, valueOf } from "./psa_page.js";

const is = (...values) => (value) => values.includes(value);
const isNot = (...values) => (value) => !values.includes(value);

const Q16 = ["Q16 classifier", "Q16 classifier or NudeNet"];
const HEARING = "vision-language model";

/** Node: lines of the setting that decides, for which of its values others count, and which others. */
const COUNT_WHERE = {
  PSAEvaluate: [
    ["judge", is(...Q16, HEARING), ["judge_location"]],
    ["judge", is(HEARING), ["judge_model"]],
  ],
  PSAGuard: [
    ["judge", is(...Q16, HEARING), ["judge_location"]],
    ["judge", is(HEARING), ["judge_model"]],
    ["judge", is("zero-shot CLIP"), ["sensitivity"]],
    ["tries", (tries) => tries > 0, ["more_strength"]],
  ],
  PSALoadEncoder: [
    ["encoder_name", isNot("structured", "structured-inferred", "everyone"), ["templates", "banned_by", "keep_loaded"]],
  ],
  PSATrain: [["preset", is("custom"), ["learning_rate", "resolution", "num_tokens"]]],
};

export function setUpSettings(node) {
  const lines = COUNT_WHERE[node.comfyClass];
  if (!lines) return;
  const counts = (name) =>
    lines.every(([by, where, names]) => !names.includes(name) || isLinked(node, by) || where(valueOf(node, by)));
  /** Whether another set of settings is shown than before. */
  const showWhatCounts = () => {
    let changed = false;
    for (const name of new Set(lines.flatMap(([, , names]) => names))) {
      const widget = findWidget(node, name);
      const hidden = !counts(name) && !isLinked(node, name);
      changed ||= hidden !== Boolean(widget.hidden);
      setHidden(widget, hidden);
    }
    return changed;
  };
  const choose = () => showWhatCounts() && fit(node);
  for (const by of new Set(lines.map(([name]) => name))) after(findWidget(node, by), "callback", choose);
  after(node, "onConnectionsChange", () => {
    showWhatCounts();
    grow(node);
  });
  after(node, "onConfigure", showWhatCounts);
  choose();
}
