// PSA Train shows the settings that count; and each kind of socket has a colour of its own.

import { app } from "../../scripts/app.js";
import { after, findWidget, fit, isLinked, setHidden, valueOf } from "./psa_page.js";

const OF_CUSTOM = ["learning_rate", "resolution", "num_tokens"];

export function setUpTrain(node) {
  const showWhatCounts = () => {
    const custom = isLinked(node, "preset") || valueOf(node, "preset") === "custom";
    for (const name of OF_CUSTOM) setHidden(findWidget(node, name), !custom && !isLinked(node, name));
  };
  const update = () => {
    showWhatCounts();
    fit(node);
  };
  after(findWidget(node, "preset"), "callback", update);
  after(node, "onConnectionsChange", showWhatCounts);
  after(node, "onConfigure", showWhatCounts);
  update();
}

const COLOURS = {
  PSA_PROFILE: "#e08fb3",
  PSA_ENCODER: "#b39ddb",
  PSA_EMBEDDING: "#8e7cc3",
  PSA_ADAPTER: "#f0a35e",
  PSA_DATASET: "#7fb8a4",
  PSA_EFFECT: "#d9c65c",
};

export function colourSockets() {
  const lines = window.LGraphCanvas?.link_type_colors;
  for (const [type, colour] of Object.entries(COLOURS)) {
    if (app.canvas?.default_connection_color_byType) app.canvas.default_connection_color_byType[type] = colour;
    if (lines) lines[type] = colour;
    document.documentElement.style.setProperty(`--color-datatype-${type}`, colour); // nodes drawn as HTML
  }
}
