"""Cancel in a real page: PSA Train says what is kept and how to go on, and goes on there."""

from in_page import wait_for_words
from tiny_training import write_split

MAKE = """(folder) => {
    const make = (kind, values = {}) => {
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        for (const [name, value] of Object.entries(values)) node.widgets.find(each => each.name === name).value = value;
        return node;
    };
    const mini = make("PSALoadMini");
    window.node = make("PSATrain", { run_name: "stopped", steps: 400, preview_every: 0 });
    ["model", "clip", "vae"].forEach((name, output) =>
        mini.connect(output, node, node.inputs.findIndex(each => each.name === name)));
    const data = make("PSALoadDataset", { elsewhere: folder, split: "train" });
    data.connect(0, node, node.inputs.findIndex(each => each.name === "dataset"));
}"""


def test_what_a_cancelled_run_leaves_is_said_at_its_node(page, server, tmp_path):
    write_split(tmp_path / "pairs", "train", range(4), 6)
    page.evaluate(MAKE, str(tmp_path / "pairs"))
    page.evaluate("() => app.queuePrompt(0, 1)")
    wait_for_words(page, " of 400, loss ")
    page.evaluate("() => app.api.interrupt()")
    wait_for_words(page, "Stopped at step ")
    wait_for_words(page, "of 400: all of it is saved. Run goes on there, as long as run_name and settings stay.")
    reached = int(
        page.evaluate(
            "() => /at step (\\d+)/.exec(node.widgets.find(each => each.name === `psa_result`).element.textContent)[1]"
        )
    )
    page.evaluate("() => app.queuePrompt(0, 1)")
    words = "node.widgets.find(each => each.name === `psa_result`).element.textContent"
    page.wait_for_function(f"(reached) => /^step (\\d+) of 400/.exec({words})?.[1] > reached", arg=reached)
    page.evaluate("() => app.api.interrupt()")
    wait_for_words(page, "Stopped at step ")
