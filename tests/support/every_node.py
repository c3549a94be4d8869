"""A graph of every node of the pack, as ComfyUI's page makes it: what workflows hold, and so must be read again."""

MAKE = """async () => {
    const info = await (await fetch("/object_info")).json();
    const known = {};  // what can be linked: a socket's type -> the first node that gives it
    const make = (kind) => {
        const node = LiteGraph.createNode(kind);
        const count = app.graph.nodes.length;
        node.pos = [(count % 6) * 460, Math.floor(count / 6) * 900];
        app.graph.add(node);
        for (const [slot, input] of (node.inputs ?? []).entries()) {
            const from = input.widget ? null : known[input.type];
            from?.connect(from.outputs.findIndex(each => each.type === input.type), node, slot);
        }
        const described = {...info[kind].input.required, ...info[kind].input.optional};
        for (const widget of node.widgets ?? []) {
            if (described[widget.name]) widget.value = other(widget, described[widget.name]);
        }
        for (const output of node.outputs ?? []) known[output.type] ??= node;
        return node;
    };
    // A value that is not the one at first: what stands elsewhere after loading shows.
    const other = (widget, [kind, settings = {}]) => {
        const words = Array.isArray(kind) ? kind : kind === "COMBO" ? settings.options ?? [] : null;
        if (words) return words.length ? words.findLast(word => !word.startsWith?.("(")) ?? words[0] : widget.value;
        if (kind === "BOOLEAN") return !widget.value;
        if (kind === "STRING") return `another ${widget.name}`;
        if (kind !== "INT" && kind !== "FLOAT") return widget.value;
        const step = settings.step ?? (kind === "INT" ? 1 : 0.1);
        return widget.value + (widget.value + step <= settings.max ? step : -step);
    };
    app.graph.clear();
    const sources = ["PSALoadMini", "CLIPTextEncode", "EmptyLatentImage", "EmptyImage", "SolidMask", "PSAUserProfile"];
    sources.forEach(make);
    Object.keys(info).filter(kind => kind.startsWith("PSA") && !sources.includes(kind)).sort().forEach(make);
}"""
"""Fills the open graph."""

PROMPT = "async () => (await app.graphToPrompt()).output"
LOAD = "async (workflow) => { await app.loadGraphData(workflow); }"


def inputs_of(prompt: dict[str, dict]) -> dict[tuple[str, str], dict]:
    """(node number, class) -> its inputs, of what the page sends to be run."""
    return {(number, node["class_type"]): node["inputs"] for number, node in prompt.items()}


def lost(kept: dict[str, dict], now: dict[str, dict]) -> list[tuple]:
    """(node, class, input, what it was, what it is) of the inputs that a workflow held and that are others now."""
    before, after = inputs_of(kept), inputs_of(now)
    return [
        (*node, name, value, after.get(node, {}).get(name))
        for node, inputs in before.items()
        for name, value in inputs.items()
        if node not in after or after[node].get(name) != value
    ]
