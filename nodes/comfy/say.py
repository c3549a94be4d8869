"""Words on a node in the editor, while it runs. Unlike a node's `ui`, they enter no history."""

from comfy_execution.utils import get_executing_context


def this_node() -> str | None:
    """The node that is being executed, if one is."""
    context = get_executing_context()
    return context.node_id if context else None


def say(text: str, node: str | None = None, *, problem: bool = False) -> None:
    """Show `text` on `node`, or on the one that is being executed, in the page that queued the prompt.

    A `problem` stands there until the next run.
    """
    node = node or this_node()
    if node is None:
        return
    from server import PromptServer  # there is one where nodes are executed, and not in every program

    server = PromptServer.instance
    if server.client_id is None:  # nobody's page queued it, and a message to nobody goes to every page
        return
    context = get_executing_context()
    prompt = context.prompt_id if context else getattr(server, "last_prompt_id", None)
    message = {"node": node, "text": text, "prompt_id": prompt, "problem": problem}
    server.send_sync("psa_text", message, server.client_id)
