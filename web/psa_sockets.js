// Sockets: of a node's inputs for viewers those that are needed are shown; and each kind of socket has a colour of its own.

import { app } from "../../scripts/app.js";
import { after, fit, grow, isOpeningPrompt, make } from "./psa_page.js";

const INPUT = 1; // LiteGraph's number for this side of a link
const FURTHER = /^profile_\d+$/;
const isWired = (input) => input.link != null || input._floatingLinks?.size > 0;

/** Of `profile_2`, `profile_3`, ...: the linked ones and one free one. Saved links may be at any of them. */
export function setUpViewerInputs(node) {
  const further = new Map(node.inputs?.filter(({ name }) => FURTHER.test(name)).map((input) => [input.name, input]));
  if (!further.size) return;
  const order = node.inputs.map(({ name }) => name);
  const placeOf = ({ name }) => (order.includes(name) ? order.indexOf(name) : order.length); // another pack's: at the end
  const inOrder = (inputs) => [...inputs].sort((one, other) => placeOf(one) - placeOf(other));

  const all = () => {
    const present = new Map(node.inputs.map((input) => [input.name, input]));
    return [...further].map(([name, input]) => present.get(name) ?? input);
  };
  const firstFree = () => all().find((input) => !isWired(input));
  const needed = () => {
    const free = firstFree();
    const others = node.inputs.filter(({ name }) => !further.has(name));
    return inOrder([...others, ...all().filter((input) => isWired(input) || input === free)]);
  };
  const arrange = (inputs) => {
    node.inputs.splice(0, node.inputs.length, ...inputs);
    for (const [slot, input] of inputs.entries()) {
      const link = node.graph?.getLink?.(input.link);
      for (const each of [...(link ? [link] : []), ...(input._floatingLinks ?? [])]) each.target_slot = slot;
    }
  };
  const isTidy = () => {
    const inputs = needed();
    return inputs.length === node.inputs.length && inputs.every((input, slot) => input === node.inputs[slot]);
  };
  const tidy = () => {
    if (isTidy()) return;
    arrange(needed());
    grow(node);
  };

  const addFree = () => {
    const free = firstFree();
    if (!free || node.inputs.includes(free)) return;
    arrange(inOrder([...node.inputs, free]));
    grow(node);
  };

  // Nothing is taken away at once: whoever connects, pastes or clones goes on to name inputs by their places.
  let waits = false;
  const tidySoon = () => {
    if (waits || isTidy()) return;
    waits = true;
    const ofOneStep = !app.configuringGraph && !isOpeningPrompt(); // undo takes back the link and the socket together
    if (ofOneStep) app.canvas?.emitBeforeChange?.();
    queueMicrotask(() => {
      waits = false;
      if (node.graph) tidy();
      if (ofOneStep) app.canvas?.emitAfterChange?.();
    });
  };
  after(node, "onConnectionsChange", (side, _slot, isConnected) => {
    if (side !== INPUT) return;
    if (isConnected && !app.configuringGraph) addFree();
    tidySoon();
  });
  after(node, "onConfigure", () => {
    for (const input of node.inputs) // of a workflow: in its language, or in none
      if (further.has(input.name)) input.localized_name = further.get(input.name).localized_name;
    arrange(inOrder(node.inputs)); // a copy has the places of what it was copied from
    tidySoon();
  });
  after(node, "onGraphConfigured", tidy);
  if (isOpeningPrompt()) {
    tidySoon(); // its links are made by name, in any order
    return;
  }
  arrange(needed());
  fit(node);
}

const COLOURS = {
  PSA_PROFILE: "#e08fb3",
  PSA_ENCODER: "#b39ddb",
  PSA_EMBEDDING: "#8e7cc3",
  PSA_ADAPTER: "#f0a35e",
  PSA_DATASET: "#7fb8a4",
  PSA_EFFECT: "#d9c65c",
  PSA_PROMPTS: "#6fb7d6",
  PSA_GUARD_ROUND: "#a8a29a",
};

/** A palette that names no colour for ours leaves them as they are, whenever it is loaded. */
export function colourSockets() {
  const tables = [app.canvas?.default_connection_color_byType, window.LGraphCanvas?.link_type_colors].filter(Boolean);
  for (const [type, ours] of Object.entries(COLOURS)) {
    for (const table of tables) {
      let colour = ours;
      const property = { get: () => colour, set: (next) => (colour = next || ours), enumerable: true, configurable: true };
      Object.defineProperty(table, type, property);
    }
  }
  // Nodes drawn as HTML read variables. A palette's own stand on the element, and win over these.
  const variables = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
  document.head.append(make("style", { textContent: `:root { ${variables.join(" ")} }` }));
}
