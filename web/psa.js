// ComfyUI front-end extension of the PSA nodes; its parts are in psa_*.js.

import { app } from "../../scripts/app.js";
import { colourSockets } from "./psa_colours.js";
import { setUpCounts } from "./psa_counts.js";
import { addStyle, after } from "./psa_page.js";
import { learnInputs } from "./psa_profile_form.js";
import { setUpLoadProfile, setUpUserProfile } from "./psa_profile_nodes.js";
import { listen, setUpResults, watchErrors, watchRefusals } from "./psa_results.js";
import { refresh } from "./psa_store.js";
import { addPanel } from "./psa_viewers.js";
import { loadWords } from "./psa_words.js";

app.registerExtension({
  name: "psa.nodes",
  async setup() {
    addStyle();
    listen();
    watchErrors();
    watchRefusals();
    await loadWords();
    addPanel();
  },
  beforeRegisterNodeDef(_nodeType, nodeData) {
    if (nodeData.name === "PSAUserProfile") learnInputs(nodeData.input.required);
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("PSA")) return;
    colourSockets(); // a palette that was loaded meanwhile has none for ours
    setUpResults(node);
    setUpCounts(node);
    if (node.comfyClass === "PSAUserProfile") setUpUserProfile(node);
    if (node.comfyClass === "PSALoadProfile") setUpLoadProfile(node);
    if (["PSASaveProfile", "PSASaveAdapter"].includes(node.comfyClass)) after(node, "onExecuted", refresh);
  },
});
