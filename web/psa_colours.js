// Each kind of socket has a colour of its own.

import { app } from "../../scripts/app.js";

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
