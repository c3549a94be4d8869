// What a node says while it runs and when it is done, on the node itself, however nodes are drawn; of nodes inside a
// subgraph, on the outermost subgraph node, too.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addElement, findWidget, grow, make, rootGraph, setHidden } from "./psa_page.js";
import { openWorkflow, runOf, watchRuns } from "./psa_runs.js";
import { refresh } from "./psa_store.js";
import { say } from "./psa_words.js";

const LINE = 17; // pixels
const MOST_LINES = 12; // then it scrolls
const heightOf = (lines) => Math.ceil(lines * LINE) + 20;
const SAVING = ["PSASaveProfile", "PSASaveAdapter", "PSASaveEffect", "PSABuildDataset"]; // other nodes list what they write
// What is wrong stands over what a node says, until a new run is queued or begins; a refusal, until one is queued.
const REFUSED = "refused";
const FAILED = "failed";

/** Workflow -> Map(node id as the server says it -> { kind: the node's class, said, problem, isOf }). */
const texts = new WeakMap();
const isOurs = (kind) => kind?.startsWith("PSA");

export function listen() {
  watchRuns((workflow) => clearProblems(workflow, [REFUSED, FAILED]), sayRefusals);
  api.addEventListener("execution_start", async ({ detail }) => {
    const run = await runOf(detail.prompt_id);
    clearProblems(run?.workflow ?? openWorkflow(), [FAILED]);
  });
  api.addEventListener("psa_text", ({ detail: { prompt_id, node, text, problem } }) =>
    tell(prompt_id, node, problem ? { problem: text, isOf: FAILED } : { said: text }),
  );
  api.addEventListener("execution_error", ({ detail }) =>
    // of a node that another made while it ran, "5.0.0.2", its maker says it
    tell(detail.prompt_id, String(detail.node_id).split(".")[0], { problem: detail.exception_message.trim(), isOf: FAILED }),
  );
  api.addEventListener("executed", async ({ detail }) => {
    const id = detail.display_node ?? detail.node;
    if (isOurs(nodeAt(id)?.comfyClass)) clearPreview(id);
    const said = wordsOf(detail.output);
    if (!said) return;
    const kind = await tell(detail.prompt_id, id, { said });
    if (SAVING.includes(kind)) refresh();
  });
  const load = app.loadGraphData;
  app.loadGraphData = async function (...args) {
    const loaded = await load.apply(this, args);
    showAll(); // undo and another tab make all nodes anew
    return loaded;
  };
}

/** Outputs that ComfyUI brings back with a workflow: from its history, or from a tab of before. */
export function restore(outputs) {
  for (const [id, output] of Object.entries(outputs ?? {})) {
    const kind = nodeAt(id)?.comfyClass;
    const said = wordsOf(output);
    if (said && isOurs(kind) && !textsOf(openWorkflow()).has(id)) note(openWorkflow(), id, kind, { said });
  }
}

const wordsOf = (output) => [output?.text ?? []].flat().join("\n");

/** Says it on the node, if it is one of ours; returns the node's class. */
async function tell(prompt, id, text) {
  const run = await runOf(prompt);
  const kind = run ? run.classes[id] : nodeAt(id)?.comfyClass;
  if (!isOurs(kind)) return undefined;
  note(run?.workflow ?? openWorkflow(), String(id), kind, text);
  return kind;
}

/** To say on a node what is of no run; also once another workflow is open, or undo has made the node anew. */
export function placeOf(node) {
  const [workflow, kind] = [openWorkflow(), node.comfyClass];
  const id = node.graph === rootGraph() ? String(node.id) : `${node.graph.id}:${node.id}`;
  return {
    tell: (said) => note(workflow, id, kind, { said, problem: undefined, isOf: undefined }),
    fail: (problem) => note(workflow, id, kind, { said: undefined, problem, isOf: FAILED }),
    node: () => (workflow === openWorkflow() ? nodeAt(id) : undefined),
  };
}

function sayRefusals(workflow, errors) {
  for (const [id, { class_type: kind, errors: list }] of Object.entries(errors ?? {})) {
    if (!isOurs(kind)) continue;
    note(workflow, id, kind, { problem: [...new Set(list.map(sentenceOf))].join("\n"), isOf: REFUSED });
  }
}

/** Ours stand behind the input's name; ComfyUI's own are a message with details. */
function sentenceOf({ type, message, details, extra_info: extra }) {
  const name = `${extra?.input_name} - `;
  const isWhole = type === "custom_validation_failed" && details?.startsWith(name);
  return isWhole ? details.slice(name.length) : `${message}: ${details}`;
}

function textsOf(workflow) {
  if (!texts.has(workflow)) texts.set(workflow, new Map());
  return texts.get(workflow);
}

function note(workflow, id, kind, text) {
  const all = textsOf(workflow);
  all.set(id, { ...all.get(id), kind, ...text });
  if (workflow === openWorkflow()) show(id);
}

function clearProblems(workflow, kinds) {
  for (const [id, text] of textsOf(workflow)) {
    if (!kinds.includes(text.isOf)) continue;
    Object.assign(text, { problem: undefined, isOf: undefined });
    if (workflow === openWorkflow()) show(id);
  }
}

function showAll() {
  for (const id of textsOf(openWorkflow()).keys()) show(id);
}

function show(id) {
  const all = textsOf(openWorkflow());
  const wordsAt = (each) => all.get(each).problem ?? all.get(each).said;
  const node = nodeAt(id);
  if (node?.comfyClass !== all.get(id).kind) return;
  showText(node, wordsAt(id));
  const outermost = /^\d+:/.exec(id)?.[0]; // "7:" of "7:5"
  if (!outermost) return;
  const within = [...all.keys()].filter((each) => each.startsWith(outermost)).map(wordsAt);
  showText(nodeAt(parseInt(outermost)), [...new Set(within.filter(Boolean))].join("\n"));
}

/** The node of an id as the server says it, "5", or "7:5" inside the subgraph of node 7; or "<a subgraph's id>:5". */
function nodeAt(id) {
  let graph = rootGraph();
  const path = String(id).split(":");
  for (const outer of path.slice(0, -1))
    graph = graph?.getNodeById(Number(outer))?.subgraph ?? graph?.subgraphs?.get(outer);
  return graph?.getNodeById(Number(path.at(-1)));
}

/** The last live preview of a node, and of those around it, which else is shown beside its pictures or in their place. */
function clearPreview(id) {
  const path = String(id).split(":");
  for (const [depth] of path.entries()) {
    const node = nodeAt(path.slice(0, depth + 1).join(":"));
    if (!node) continue;
    const within = node.graph === rootGraph() ? "" : `${node.graph.id}:`;
    const store = storeOfPreviews();
    if (store) store.revokePreviewsByLocatorId(within + node.id);
    else delete app.nodePreviewImages[within + node.id];
  }
}

/** ComfyUI's own, which nodes drawn as HTML follow; older ComfyUI has none, and scripts are given no way to it. */
function storeOfPreviews() {
  const page = document.getElementById("vue-app")?.__vue_app__;
  const store = page?.config.globalProperties.$pinia?._s.get("nodeOutput");
  return store?.revokePreviewsByLocatorId ? store : undefined;
}

function showText(node, text) {
  if (!node || (!text && !node.widgets)) return;
  let widget = findWidget(node, "psa_result");
  if (!text) {
    if (widget) setHidden(widget, true);
    node.setDirtyCanvas?.(true, true);
    return;
  }
  if (!widget) {
    widget = addElement(node, "psa_result", make("div", { className: "psa-result" }), () => widget.psaHeight);
    widget.psaHeight = 2 * LINE;
    widget.element.style.maxHeight = `${heightOf(MOST_LINES)}px`; // a node drawn as HTML is else as high as all the words
  }
  if (widget.hidden) setHidden(widget, false);
  widget.element.replaceChildren(...render(text));
  const letters = Math.max(20, (node.size[0] - 40) / 6.5);
  const lines = text.split("\n").reduce((sum, line) => sum + (line.startsWith("|") ? 1.3 : Math.ceil((line.length || 1) / letters)), 0);
  widget.psaHeight = heightOf(Math.min(lines, MOST_LINES));
  grow(node);
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
