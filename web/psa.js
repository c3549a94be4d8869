// ComfyUI front-end extension of the PSA nodes; its parts are in psa_*.js.

import { app } from "../../scripts/app.js";
import { setUpCounts } from "./psa_counts.js";
import { addStyle, watchPrompts } from "./psa_page.js";
import { learnInputs } from "./psa_profile_form.js";
import { setUpLoadProfile, setUpUserProfile } from "./psa_profile_nodes.js";
import { listen, restore } from "./psa_results.js";
import { colourSockets, setUpViewerInputs } from "./psa_sockets.js";
import { setUpUpload } from "./psa_upload.js";
import { addPanel } from "./psa_viewers.js";
import { loadWords } from "./psa_words.js";

const WIDTH = 210; // pixels: a node without settings is else too narrow for its title

app.registerExtension({
  name: "psa.nodes",
  async setup() {
    addStyle();
    colourSockets();
    listen();
    watchPrompts();
    await loadWords();
    addPanel();
  },
  beforeRegisterNodeDef(_nodeType, nodeData) {
    if (nodeData.name === "PSAUserProfile") learnInputs(nodeData.input.required);
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("PSA")) return;
    node.setSize([Math.max(node.size[0], WIDTH), node.size[1]]);
    node.widgets ??= []; // as older ComfyUI leaves it once read: else undo sees a change, and forgets what to redo
    setUpViewerInputs(node);
    if (["PSALoadDataset", "PSACheckDataset"].includes(node.comfyClass)) setUpUpload(node);
    setUpCounts(node);
    if (node.comfyClass === "PSAUserProfile") setUpUserProfile(node);
    if (node.comfyClass === "PSALoadProfile") setUpLoadProfile(node);
  },
  onNodeOutputsUpdated: restore,
});
