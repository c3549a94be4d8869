"""The page from words to an adapter: its run file has the settings that PSA Mini's own adapters have."""

from pathlib import Path

from psa_core.commands.train import RunFile
from psa_core.mini.adapters import CONFIG
from psa_core.training import TrainConfig

PAGE = Path(__file__).parents[3] / "docs" / "words.md"


def test_the_pages_run_file_has_the_minis_settings(tmp_path):
    _, rest = PAGE.read_text(encoding="utf-8").split("```toml\n")
    path = tmp_path / "run.toml"
    path.write_text(rest.split("```")[0])
    told, own = RunFile.read(path).training.to_dict(), TrainConfig.from_dict(CONFIG).to_dict()
    differing = {name for name in own if told[name] != own[name]}
    # plain_share made no difference that could be told from words, and the page says so
    assert differing <= {"steps", "effective_batch_size", "on_winner_rise", "plain_share"}, differing
