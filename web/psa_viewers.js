// The sidebar's Viewers: the stored profiles, to look at, change, copy, rename, delete, and put into the graph.

import { app } from "../../scripts/app.js";
import { findWidget, make, rootGraph, sentenceOf } from "./psa_page.js";
import { makeChips, openEditor, openNameForm, openProfileForm } from "./psa_profile_form.js";
import { choose, deleteProfile } from "./psa_profile_nodes.js";
import * as store from "./psa_store.js";
import { say } from "./psa_words.js";

const SHOWN = ["Age", "Gender", "Religion", "Physical_Condition", "Mental_Condition"];

export function addPanel() {
  let element = null;
  const update = () => element && fill(element);
  store.changes.addEventListener("change", update);
  app.extensionManager.registerSidebarTab({
    id: "psa-viewers",
    icon: "pi pi-users",
    title: say("Viewers"),
    tooltip: say("Viewers: stored profiles for personalized safety (PSA)"),
    type: "custom",
    render: (container) => {
      element = make("div", { className: "psa-viewers" });
      container.replaceChildren(element);
      update();
    },
    destroy: () => {
      element = null;
    },
  });
}

async function fill(element) {
  const open = new Set([...element.querySelectorAll("details[open]")].map((details) => details.dataset.name));
  let names;
  try {
    names = await store.names();
  } catch (error) {
    element.replaceChildren(make("p", { className: "psa-error", textContent: sentenceOf(error) }));
    return;
  }
  const add = make("button", { type: "button", textContent: say("New profile…"), onclick: () => openProfileForm() });
  element.replaceChildren(
    make("h3", { textContent: say("Viewers") }),
    make("p", { textContent: say("Profiles on this ComfyUI's server. Graphs and pictures hold their names alone.") }),
    make("div", { className: "psa-buttons" }, [add]),
    ...names.map((name) => viewer(name, open.has(name))),
  );
  if (!names.length) element.append(make("p", { textContent: say("No profile is stored yet.") }));
}

function viewer(name, isOpen) {
  const body = make("div");
  const details = make("details", {}, [make("summary", { textContent: name }), body]);
  details.dataset.name = name;
  details.ontoggle = () => details.open && show(name, body);
  details.open = isOpen;
  return details;
}

async function show(name, body) {
  const chips = makeChips();
  const button = (label, onclick) => make("button", { type: "button", textContent: label, onclick });
  const buttons = make("div", { className: "psa-buttons" }, [
    button(say("Add to graph"), () => addToGraph(name)),
    button(say("Edit"), () => openEditor(name)),
    button(say("Copy"), () =>
      openNameForm(say("Copy {name}", { name }), say("Copy"), say("{name} copy", { name }), (to) => store.copy(name, to)),
    ),
    button(say("Rename"), () =>
      openNameForm(say("Rename {name}", { name }), say("Rename"), name, async (to) => {
        if (to === name) return;
        await store.rename(name, to);
        followName(name, to);
      }),
    ),
    button(say("Delete"), () => deleteProfile(name)),
  ]);
  try {
    const { profile } = await store.read(name);
    const rows = SHOWN.flatMap((field) => [
      make("dt", { textContent: say(field.replaceAll("_", " ")) }),
      make("dd", { textContent: profile[field] }),
    ]);
    chips.show(profile.Banned_Categories);
    body.replaceChildren(make("dl", {}, rows), chips.element, buttons);
  } catch (error) {
    body.replaceChildren(make("p", { className: "psa-error", textContent: sentenceOf(error) }), buttons);
  }
}

function addToGraph(name) {
  const node = window.LiteGraph.createNode("PSALoadProfile");
  const [x, y, width, height] = app.canvas.visible_area ?? [0, 0, 600, 400];
  node.pos = [x + width / 2 - node.size[0] / 2, y + height / 2 - node.size[1] / 2];
  app.canvas.graph.add(node);
  choose(node, name);
}

/** Nodes of the open graph that load the profile of before load it by its new name, and so do subgraphs with that choice. */
function followName(name, to) {
  const visit = (graph) => {
    for (const node of graph.nodes ?? graph._nodes) {
      if (node.subgraph) {
        visit(node.subgraph);
        for (const input of node.inputs.filter(({ widget }) => widget)) {
          const widget = findWidget(node, input.widget.name);
          if (widget?.value === name && choosesProfile(node.subgraph, input.name)) widget.value = to;
        }
      } else if (node.comfyClass === "PSALoadProfile" && findWidget(node, "profile_name").value === name) choose(node, to);
    }
  };
  visit(rootGraph());
}

/** Whether an input of a subgraph leads to a Load Profile's name. */
function choosesProfile(subgraph, input) {
  const { linkIds = [] } = subgraph.inputNode.slots.find((slot) => slot.name === input) ?? {};
  return linkIds.some((id) => {
    const link = subgraph.getLink(id);
    const node = subgraph.getNodeById(link.target_id);
    const reached = node?.inputs[link.target_slot];
    if (node?.subgraph) return choosesProfile(node.subgraph, reached.name);
    return node?.comfyClass === "PSALoadProfile" && reached.widget?.name === "profile_name";
  });
}
