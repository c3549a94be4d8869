// A data set's archive goes up into ComfyUI's input folder, from a button or dropped on the node, and is chosen there.

import { api } from "../../scripts/api.js";
import { addButton, answered, findWidget, grow, make, send, sentenceOf } from "./psa_page.js";
import { placeOf } from "./psa_results.js";
import { refresh } from "./psa_store.js";
import { say } from "./psa_words.js";

const isArchive = ({ name }) => name.toLowerCase().endsWith(".zip");

export function setUpUpload(node) {
  let request = null; // while an archive goes up
  const upload = async (file) => {
    const [place, { name }] = [placeOf(node), file];
    const onTheWay = (part) => {
      const percent = Math.floor(100 * part);
      place.tell(part < 1 ? say("Uploading {name}: {percent} %", { name, percent }) : say("Unpacking and checking {name}…", { name }));
    };
    request = new XMLHttpRequest();
    onTheWay(0);
    try {
      await send("GET", `/psa/upload?name=${encodeURIComponent(name)}&size=${file.size}`);
      const made = await sendFile(request, `/psa/upload?name=${encodeURIComponent(name)}`, file, onTheWay);
      await refresh();
      choose(place.node(), made.name);
      place.tell(made.said);
    } catch (error) {
      place.fail(sentenceOf(error));
    } finally {
      request = null;
    }
  };
  /** One at a time: before another one, the person may stop the first. */
  const orStop = (start) => {
    if (!request) start();
    else if (confirm(say("An upload is under way. Stop it?"))) request?.abort();
  };
  const pick = () => {
    const input = make("input", { type: "file", accept: ".zip" });
    input.onchange = () => input.files.length && upload(input.files[0]);
    input.click();
  };
  addButton(node, say("Upload a data set (.zip)"), () => orStop(pick));
  grow(node);
  node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some(({ kind }) => kind === "file");
  node.onDragDrop = (event) => {
    const archive = [...event.dataTransfer.files].find(isArchive);
    if (archive) orStop(() => upload(archive));
    return Boolean(archive); // any other file is ComfyUI's
  };
}

/** As `send`, and tells on the way which part has gone up, which `fetch` does not. */
function sendFile(request, path, file, onTheWay) {
  return new Promise((resolve, reject) => {
    request.open("POST", api.apiURL(path));
    request.responseType = "json";
    request.setRequestHeader("Content-Type", "application/zip");
    request.setRequestHeader("Comfy-User", api.user);
    request.upload.onprogress = ({ loaded, total }) => onTheWay(loaded / total);
    request.onload = () => {
      try {
        resolve(answered(request.status, request.response));
      } catch (error) {
        reject(error);
      }
    };
    request.onerror = () => reject(new Error(say("The upload broke off. Try again, and look into ComfyUI's log if it does so again.")));
    request.onabort = () => reject(new Error(say("The upload was stopped.")));
    request.send(file);
  });
}

function choose(node, name) {
  for (const [each, value] of [
    ["folder", name],
    ["elsewhere", ""],
  ]) {
    const widget = node && findWidget(node, each);
    if (!widget) continue;
    widget.value = value;
    widget.callback?.(value);
  }
}
