// What a node says while it runs and when it is done, on the node itself, however nodes are drawn.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addElement, after, fit, make } from "./psa_page.js";
import { say } from "./psa_words.js";

const LINE = 17; // pixels
const MOST_LINES = 16; // then it scrolls

export function listen() {
  api.addEventListener("psa_text", ({ detail }) => {
    const node = nodeAt(detail.node);
    if (node) showText(node, detail.text);
  });
}

/** What stopped a run is said on the node that it stopped at, too. */
export function watchErrors() {
  api.addEventListener("execution_error", ({ detail }) => {
    const node = nodeAt(detail.node_id);
    if (node?.comfyClass?.startsWith("PSA")) showText(node, detail.exception_message.trim());
  });
}

/** Sends a prompt as before; what the server refuses is said on the nodes that it names, once each. */
export function watchRefusals() {
  const queuePrompt = api.queuePrompt;
  api.queuePrompt = async function (...args) {
    try {
      const answer = await queuePrompt.apply(this, args);
      sayErrors(answer?.node_errors);
      return answer;
    } catch (error) {
      sayErrors(error.response?.node_errors);
      throw error;
    }
  };
}

function sayErrors(errors) {
  for (const [id, { errors: list }] of Object.entries(errors ?? {})) {
    const node = nodeAt(id);
    if (!node?.comfyClass?.startsWith("PSA")) continue;
    const sentences = list.map(({ message, details }) => / - (.+)$/s.exec(details ?? "")?.[1] ?? `${message}: ${details}`);
    showText(node, [...new Set(sentences)].join("\n"));
  }
}

/** The node of an id as the server says it: "5", or "7:5" inside the subgraph of node 7. */
function nodeAt(id) {
  let graph = app.rootGraph ?? app.graph;
  const path = String(id).split(":");
  for (const outer of path.slice(0, -1)) graph = graph?.getNodeById(Number(outer))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1)));
}

export function setUpResults(node) {
  after(node, "onExecuted", (output) => {
    const text = output?.text;
    if (text?.length) showText(node, Array.isArray(text) ? text.join("\n") : String(text));
  });
}

function showText(node, text) {
  let widget = node.widgets?.find((each) => each.name === "psa_result");
  if (!widget) {
    widget = addElement(node, "psa_result", make("div", { className: "psa-result" }), () => widget.psaHeight);
    widget.psaHeight = 2 * LINE;
  }
  widget.element.replaceChildren(...render(text));
  const letters = Math.max(20, (node.size[0] - 40) / 6.5);
  const lines = text.split("\n").reduce((sum, line) => sum + (line.startsWith("|") ? 1.3 : Math.ceil((line.length || 1) / letters)), 0);
  const height = Math.ceil(Math.min(lines, MOST_LINES) * LINE) + 20;
  if (height === widget.psaHeight) return;
  widget.psaHeight = height;
  if (node.computeSize()[1] > node.size[1]) fit(node);
  node.setDirtyCanvas?.(true, true);
}

/** Lines, in the language that is set where it has them; Markdown's tables and headings, which figures come in, as such. */
function render(text) {
  const parts = [];
  let table = null;
  for (const line of text.split("\n")) {
    if (line.startsWith("|")) {
      if (!table) parts.push((table = make("table")));
      const cells = line.split("|").slice(1, -1).map((cell) => cell.trim());
      if (!cells.every((cell) => /^:?-+:?$/.test(cell)))
        table.append(make("tr", {}, cells.map((cell) => make("td", { textContent: cell }))));
      continue;
    }
    table = null;
    const heading = /^#+ (.*)/.exec(line);
    parts.push(heading ? make("h4", { textContent: heading[1] }) : make("div", { textContent: say(line) || " " }));
  }
  return parts;
}
