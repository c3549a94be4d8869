"""What tests do with a node in ComfyUI's page; it is `node` there."""


def add(page, kind: str) -> None:
    """A node of this kind, as `node` in the page."""
    page.evaluate("(kind) => { window.node = LiteGraph.createNode(kind); app.graph.add(node); }", kind)


def shown(page) -> dict[str, object]:
    """The node's widgets that are not hidden."""
    return page.evaluate("() => Object.fromEntries(node.widgets.filter(w => !w.hidden).map(w => [w.name, w.value]))")


def choose(page, widget: str, value: object) -> None:
    find = "const widget = node.widgets.find(w => w.name === name)"
    page.evaluate(f"([name, value]) => {{ {find}; widget.value = value; widget.callback(value); }}", [widget, value])


def press(page, label: str) -> None:
    page.evaluate("(label) => node.widgets.find(w => w.name.startsWith(label)).callback()", label)


def wait_for_words(page, words: str, timeout: float = 180_000) -> None:
    """Until the node shows them."""
    text = "() => node.widgets.map(w => w.element?.textContent ?? '').join(' ')"
    page.wait_for_function(f"(words) => ({text})().includes(words)", arg=words, timeout=timeout)
