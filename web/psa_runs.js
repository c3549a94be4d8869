// Whose a prompt is: the workflow that queued it, and what its nodes are. ComfyUI's messages name a node by its number
// alone, and in another tab the same number is another node.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const runs = new Map(); // prompt id -> { workflow, classes: { node id as the server says it: its class } }
const sending = new Set(); // requests whose answer, with the prompt's id, is on its way

/** The workflow of the open tab: the same object as long as the tab is there. */
export const openWorkflow = () => app.extensionManager?.workflow?.activeWorkflow ?? app;

/**
 * Sends prompts as before.
 * @param {(workflow: object) => void} queued called before a prompt goes to the server
 * @param {(workflow: object, errors: object | undefined) => void} refused called with what the server finds wrong with it
 */
export function watchRuns(queued, refused) {
  const queuePrompt = api.queuePrompt;
  api.queuePrompt = async function (number, prompt, ...rest) {
    const workflow = openWorkflow();
    queued(workflow);
    const sent = queuePrompt.call(this, number, prompt, ...rest);
    sending.add(sent);
    try {
      const answer = await sent;
      const classes = Object.entries(prompt.output).map(([id, node]) => [id, node.class_type]);
      runs.set(answer.prompt_id, { workflow, classes: Object.fromEntries(classes) });
      refused(workflow, answer.node_errors);
      return answer;
    } catch (error) {
      refused(workflow, error.response?.node_errors);
      throw error;
    } finally {
      sending.delete(sent);
    }
  };
  for (const end of ["execution_success", "execution_error", "execution_interrupted"])
    api.addEventListener(end, async ({ detail }) => {
      await runOf(detail.prompt_id);
      setTimeout(() => runs.delete(detail.prompt_id)); // once those who wait for it, too, have read it
    });
}

/** `undefined` where it cannot be told: the page was loaded after the prompt was queued, or another page queued it. */
export async function runOf(prompt) {
  if (!runs.has(prompt)) await Promise.allSettled(sending); // the server's first words may be faster than its answer
  return runs.get(prompt);
}
