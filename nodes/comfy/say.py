"""Words on a node in the editor, while it runs. Unlike a node's `ui`, they enter no history."""

from comfy_execution.utils import get_executing_context


def this_node() -> str | None:
    """The node that is being executed, if one is."""
    context = get_executing_context()
    return context.node_id if context else None


def say(text: str, node: str | None = None) -> None:
    """Show `text` on `node`, or on the one that is being executed."""
    node = node or this_node()
    if node is None:
        return
    from server import PromptServer  # there is one where nodes are executed, and not in every program

    server = PromptServer.instance
    server.send_sync("psa_text", {"node": node, "text": text}, server.client_id)
