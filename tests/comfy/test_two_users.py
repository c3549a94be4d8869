"""Two users on one server, friendly and hostile requests of both: nothing of one's store reaches the other."""

import json
import os
import random
import time
import uuid
from pathlib import Path
from urllib.parse import quote

import building
import pytest
from graphs import Graph, add_small_picture, call, draw, encode, in_picture, output, psa_stored, same, txt2img
from small_models import add_models
from tiny_llm import make_tiny_llm
from tiny_training import write_split

from psa_core import UserProfile
from psa_core.comfy_server import ComfyServer
from psa_core.concepts.pairs import PromptPair, write_prompt_pairs
from psa_core.dataset.pair_files import read_users
from psa_core.population import sample_users
from psa_core.profile import CATEGORIES, MENTAL_CONDITIONS, PHYSICAL_CONDITIONS, RELIGIONS

WORDS = {"Religion": RELIGIONS, "Physical_Condition": PHYSICAL_CONDITIONS, "Mental_Condition": MENTAL_CONDITIONS}
COMMON = {"None", "healthy", *CATEGORIES}
COMPARED = {
    "prompts": "a quiet harbour",
    "strengths": "1",
    "negative": "",
    "width": 64,
    "height": 64,
    "seed": 1,
    "steps": 1,
    "cfg": 7.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "filename_prefix": "compared",
}
TRAINED = {
    "preset": "custom",
    "steps": 1,
    "learning_rate": 1e-3,
    "batch_size": 1,
    "resolution": 64,
    "num_tokens": 1,
    "seed": 3,
    "save_every": 4,
    "preview_every": 0,
}
BUILT = {**building.WIDGETS, "steps": 1}


class User:
    """One of ComfyUI's users, with two profiles of fields drawn at random, and what should be in their store."""

    def __init__(self, server: ComfyServer, name: str, words: dict[str, list[str]], rng: random.Random) -> None:
        self.server, self.name = server, name
        self.id = json.loads(call(server, "/users", {"username": name})[1])
        self.words = {word for field in words.values() for word in field}
        self.stored: dict[str, dict] = {}
        self.by_route = ["me", "child"]  # of these, those that are there by now: a queued job stores later
        for profile in ("me", "child"):
            fields = {field: rng.choice(choices) for field, choices in words.items()}
            fields |= {"Age": rng.randrange(101), "Gender": rng.choice(["male", "female"])}
            fields["Banned_Categories"] = rng.sample(list(CATEGORIES), 3)
            self.stored[profile] = UserProfile.from_dict(fields).to_dict()
            status, _ = self.ask("/psa/profiles", {"name": profile, "profile": fields})
            assert status == 200

    def ask(self, path: str, data: object = None, method: str | None = None) -> tuple[int, bytes]:
        return call(self.server, path, data, user=self.id, method=method)


@pytest.fixture(scope="module")
def server(comfy, sd15_checkpoint, tmp_path_factory):
    base = tmp_path_factory.mktemp("two-users")
    add_models(base, sd15_checkpoint)
    write_split(base / "input" / "pairs", "train", range(4), 8)
    scenes = [f"a {place} with a {colour} circle" for place in ("sea", "meadow") for colour in ("red", "blue")]
    pairs = [PromptPair("Hate", "arrow", f"{scene} and an arrow", scene, "named", "by hand") for scene in scenes]
    write_prompt_pairs(base / "input" / "prompts.jsonl", pairs)
    make_tiny_llm(base / "models" / "LLM" / "tiny")
    with ComfyServer(comfy, base, arguments=["--multi-user"]) as running:
        yield running


def shared_out(rng: random.Random) -> list[dict[str, list[str]]]:
    """The words of each field, shared out between two people, so that a word says whose profile it is of."""
    shares: list[dict[str, list[str]]] = [{}, {}]
    for field, words in WORDS.items():
        telling = [word for word in words if word not in COMMON and len(word) > 4]
        rng.shuffle(telling)
        for share, part in zip(shares, (telling[::2], telling[1::2]), strict=True):
            share[field] = part
    return shares


def copying(profile: str, name: str) -> Graph:
    graph = Graph()
    graph.add("PSASaveProfile", profile=graph.add("PSALoadProfile", profile_name=profile), name=name, overwrite=False)
    add_small_picture(graph)
    return graph


def copies_a_profile(prompt: dict[str, dict]) -> bool:
    return any(node["class_type"] == "PSASaveProfile" for node in prompt.values())


class Traffic:
    """Requests of one user at another's cost; keeps account of what the user's own store should hold."""

    def __init__(self, server: ComfyServer, rng: random.Random) -> None:
        self.server, self.rng = server, rng
        self.waiting: list[str] = []  # ids of jobs, as /queue shows them to everyone
        self.must_succeed: list[str] = []  # ids of jobs
        self.made = 0

    def new_name(self) -> str:
        self.made += 1
        return f"copy {self.made}"

    def check(self, user: User, other: User, answer: tuple[int, bytes], where: str) -> None:
        text = answer[1].decode("utf-8", "replace")
        for word in other.words | user.words:  # not even one's own fields are handed out
            assert word not in text, f"{where} holds {word!r}"

    def save_from_graph(self, user: User, other: User) -> tuple[int, bytes]:
        profile, name = self.rng.choice(["me", "child"]), self.new_name()
        graph, prompt_id = copying(profile, name), str(uuid.uuid4())
        answer = user.ask("/prompt", {"prompt": graph.prompt, "prompt_id": prompt_id})
        assert answer[0] == 200
        user.stored[name] = user.stored[profile]
        self.waiting.append(prompt_id)
        return answer

    def take_an_id(self, user: User, other: User) -> tuple[int, bytes]:
        """A prompt under the id of a job that may be waiting: invalid, or one that saves under a name of its own."""
        prompt_id = self.rng.choice(self.waiting) if self.waiting else str(uuid.uuid4())
        if self.rng.random() < 0.7:
            bad = self.rng.choice([{}, {"1": {"class_type": "PSASaveProfile", "inputs": {}}}, {"1": {}}])
            return user.ask("/prompt", {"prompt": bad, "prompt_id": prompt_id})
        name = self.new_name()
        user.stored[name] = user.stored["me"]
        return user.ask("/prompt", {"prompt": copying("me", name).prompt, "prompt_id": prompt_id})

    def run_the_others_graph(self, user: User, other: User) -> tuple[int, bytes]:
        """The graph in a picture of another's job, fingerprints included, to save under a name of one's own."""
        finished = list(json.loads(user.ask("/history?max_items=20")[1]).values())
        finished = [history for history in finished if history["outputs"] and copies_a_profile(history["prompt"][2])]
        if not finished:
            return user.ask("/history")
        graph, name, loaded = in_picture(self.server, self.rng.choice(finished)), self.new_name(), None
        for node in graph.values():
            if node["class_type"] == "PSASaveProfile":
                node["inputs"]["name"] = name
            elif node["class_type"] == "PSALoadProfile":
                loaded = node["inputs"]["profile_name"]
        answer = user.ask("/prompt", {"prompt": graph})
        assert answer[0] == 200
        user.stored[name] = user.stored[loaded]
        return answer

    def save(self, user: User, other: User) -> tuple[int, bytes]:
        name = self.new_name()
        profile = user.stored[self.rng.choice(["me", "child"])]
        answer = user.ask("/psa/profiles", {"name": name, "profile": profile})
        assert answer[0] == 200
        user.stored[name] = profile
        user.by_route.append(name)
        return answer

    def read(self, user: User, other: User) -> tuple[int, bytes]:
        """One's own profile is shown to oneself alone, by the route that the page's forms ask."""
        name = self.rng.choice([*user.by_route, *other.by_route])
        status, answer = user.ask(f"/psa/profiles/{quote(name)}/read", {})
        assert status == (200 if name in user.stored else 400)
        assert not any(word in answer.decode() for word in other.words), "another's profile was shown"
        if status == 200:
            assert json.loads(answer)["profile"] == user.stored[name]
        return status, b"" if status == 200 else answer

    def copy_or_rename(self, user: User, other: User) -> tuple[int, bytes]:
        name, new = self.rng.choice([*user.by_route, *other.by_route]), self.new_name()
        how = self.rng.choice(["copy"] if name in ("me", "child") else ["copy", "rename"])  # waiting jobs load these
        answer = user.ask(f"/psa/profiles/{quote(name)}/{how}", {"to": new})
        assert answer[0] == (200 if name in user.stored else 400)
        if name not in user.stored:
            return answer
        user.by_route.append(new)
        user.stored[new] = user.stored.pop(name) if how == "rename" else user.stored[name]
        if how == "rename":
            user.by_route.remove(name)
        return answer

    def work(self, user: User, graph: Graph) -> tuple[int, bytes]:
        answer = user.ask("/prompt", {"prompt": graph.prompt})
        assert answer[0] == 200
        self.must_succeed.append(json.loads(answer[1])["prompt_id"])
        return answer

    def save_an_effect(self, user: User, other: User) -> tuple[int, bytes]:
        graph = Graph()
        adapter = graph.add("PSALoadAdapter", adapter_name="psa.safetensors")
        profile = graph.add("PSALoadProfile", profile_name="me")
        graph.add("PSASaveEffect", adapter=adapter, profile=profile, name=self.new_name())
        return self.work(user, graph)

    def encode_by_a_language_model(self, user: User, other: User) -> tuple[int, bytes]:
        graph, settings = Graph(), {"templates": "ours", "banned_by": "profile", "keep_loaded": False}
        encoder = graph.add("PSALoadEncoder", encoder_name="tiny", **settings)
        profile = graph.add("PSALoadProfile", profile_name=self.rng.choice(["me", "child"]))
        graph.add("PreviewAny", source=output(encode(graph, profile, encoder=encoder), 1))
        return self.work(user, graph)

    def compare(self, user: User, other: User) -> tuple[int, bytes]:
        graph = Graph()
        model = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
        inputs = {"model": model, "clip": output(model, 1), "vae": output(model, 2)}
        adapter = graph.add("PSALoadAdapter", adapter_name="psa.safetensors")
        first, second = (graph.add("PSALoadProfile", profile_name=name) for name in ("me", "child"))
        graph.add("PSACompare", **inputs, adapter=adapter, profile=first, profile_2=second, **COMPARED)
        return self.work(user, graph)

    def train(self, user: User, other: User) -> tuple[int, bytes]:
        """With a run name of one's own: runs are everybody's."""
        graph = Graph()
        model = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
        inputs = {"model": model, "clip": output(model, 1), "vae": output(model, 2)}
        dataset = graph.add("PSALoadDataset", folder="pairs", split="train", skip_bad=False)
        graph.add("PSATrain", **inputs, dataset=dataset, run_name=self.new_name(), **TRAINED)
        return self.work(user, graph)

    def build(self, user: User, other: User) -> tuple[int, bytes]:
        """A data set of one's own name: data sets are everybody's, and their people virtual."""
        return self.work(user, self.building(prompts_file="prompts.jsonl"))

    def building(self, **files: str) -> Graph:
        graph = Graph()
        model = graph.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
        inputs = {"model": model, "clip": output(model, 1), "vae": output(model, 2)}
        graph.add("PSABuildDataset", **inputs, name=self.new_name(), **BUILT | files)
        return graph

    def ask_what_is_banned(self, user: User, other: User) -> tuple[int, bytes]:
        answer = user.ask("/psa/banned", self.rng.choice([user, other]).stored["me"])
        assert answer[0] == 200
        return answer

    def review(self, user: User, other: User) -> tuple[int, bytes]:
        """Data sets are everybody's; who answers is not said."""
        listed = user.ask("/psa/datasets")
        dataset = self.rng.choice(json.loads(listed[1])["datasets"])
        at = f"/psa/review/{quote(dataset['name'], safe='')}/{self.rng.choice(dataset['splits'])}"
        state = json.loads(user.ask(at)[1])
        question = state["question"] or state["undo"]
        if question is None:  # of a split without a pair that anybody is asked about
            return listed
        word = self.rng.choice(["left", "neither"]) if state["question"] else "undo"
        asked = {"number": question["number"], "token": question["token"], "seen": state["seen"]}
        side = self.rng.choice(["left", "right"])
        picture = user.ask(f"{at}/{question['number']}/{side}?token={question['token']}")
        answer = user.ask(at, {**asked, "answer": word})
        assert answer[0] == picture[0] == 200
        return self.rng.choice([answer, picture, listed])

    def lead_a_node_to_the_others_store(self, user: User, other: User) -> tuple[int, bytes]:
        """Nodes that take a path are given that of another's profile, or of the folder around it."""
        folder = self.server.base / "user" / "__psa_profiles" / other.id
        path, graph = str(folder / "me.json"), Graph()
        space = {"count": 9, "seed": 0, "rules": "sage", "departures": 0.0}
        split = {"folder": "pairs", "split": "train", "skip_bad": True}
        self.rng.choice(
            [
                lambda: graph.add("PSAUserSpace", users=path, **space),
                lambda: graph.add("PSALoadDataset", users=path, **split),
                lambda: graph.add("PSALoadDataset", elsewhere=self.rng.choice([path, str(folder)]), **split),
                lambda: graph.add("PSACheckDataset", folder=self.rng.choice([path, str(folder)]), users=path),
                lambda: graph.add("PSACheckDataset", folder="pairs", users=path),
                lambda: graph.prompt.update(self.building(prompts_file="prompts.jsonl", users_file=path).prompt),
                lambda: graph.prompt.update(self.building(prompts_file=path).prompt),
            ]
        )()
        return user.ask("/prompt", {"prompt": graph.prompt})

    def guess(self, user: User, other: User) -> tuple[int, bytes]:
        """Saves under a name that is taken, with what one guesses of the other's profile or another version."""
        version = json.loads(other.ask("/psa/profiles/me")[1])["version"]
        body = {"name": "me", "profile": self.rng.choice([user, other]).stored["me"]}
        answer = user.ask("/psa/profiles", body | self.rng.choice([{}, {"overwrite": True}, {"overwrite": version}]))
        assert answer[0] == 400
        return answer

    def delete_the_others(self, user: User, other: User) -> tuple[int, bytes]:
        alone = sorted(set(other.stored) - set(user.stored)) or ["nobody's"]
        return user.ask(f"/psa/profiles/{quote(self.rng.choice(alone))}", method="DELETE")

    def look(self, user: User, other: User) -> tuple[int, bytes]:
        place = f"__psa_profiles/{other.id}"
        paths = [
            "/psa/profiles",
            "/psa/profiles/me",
            "/object_info/PSALoadProfile",
            "/object_info/PSASaveProfile",
            "/history",
            "/queue",
            "/internal/logs",
            "/internal/logs/raw",
            f"/userdata/{quote('../' + place + '/me.json', safe='')}",
            f"/userdata?dir={quote('../' + place, safe='')}&recurse=true",
            f"/view?filename=me.json&type=output&subfolder={quote('../user/' + place, safe='')}",
            f"/v2/userdata?path={quote('../' + place, safe='')}",
            f"/psa/profiles/{quote('../' + other.id + '/me', safe='')}",
        ]
        return user.ask(self.rng.choice(paths))

    def act(self, user: User, other: User) -> None:
        action = self.rng.choices(
            [
                self.look,
                self.save_from_graph,
                self.take_an_id,
                self.run_the_others_graph,
                self.save,
                self.guess,
                self.delete_the_others,
                self.read,
                self.copy_or_rename,
                self.ask_what_is_banned,
                self.review,
                self.lead_a_node_to_the_others_store,
                self.save_an_effect,
                self.encode_by_a_language_model,
                self.compare,
                self.train,
                self.build,
            ],
            weights=[6, 4, 3, 2, 2, 2, 2, 2, 2, 1, 2, 2, 1, 1, 1, 0.3, 0.5],
        )[0]
        self.check(user, other, action(user, other), action.__name__.replace("_", " "))


def wait_until_idle(server: ComfyServer) -> None:
    """Wait as long as job after job is done: how long all take, depends on the machine."""
    before, deadline = None, 0.0
    while True:
        queue = json.loads(call(server, "/queue")[1])
        jobs = len(queue["queue_running"]) + len(queue["queue_pending"])
        if not jobs:
            return
        if jobs != before:
            before, deadline = jobs, time.monotonic() + 300
        running = [node["class_type"] for job in queue["queue_running"] for node in job[2].values()]
        assert time.monotonic() < deadline, f"no job was done for five minutes, {jobs} are left; running: {running}"
        time.sleep(0.2)


@pytest.mark.parametrize("requests", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_nothing_of_ones_store_reaches_the_other(requests, server):
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    rng = random.Random(seed)
    ada, bo = (
        User(server, f"{name}{requests}", words, rng)
        for name, words in zip(("ada", "bo"), shared_out(rng), strict=True)
    )
    traffic = Traffic(server, rng)
    traffic.build(ada, bo)  # a data set is there from the first requests on
    for _ in range(requests):
        traffic.act(*rng.choice([(ada, bo), (bo, ada)]))
    wait_until_idle(server)
    for prompt_id in traffic.must_succeed:
        assert server.history(prompt_id)["status"]["status_str"] == "success"

    for user in (ada, bo):
        folder = server.base / "user" / "__psa_profiles" / user.id
        assert {path.stem: json.loads(path.read_text()) for path in folder.iterdir()} == user.stored
    mine, his = (draw(server, txt2img(psa_stored("me")), user=user.id) for user in (ada, bo))
    assert "KSampler" in his.ran, "another user's picture came out of the cache"
    assert same(his, draw(server, txt2img(psa_stored("me")), user=bo.id))
    assert not same(mine, his)  # one graph, one seed: each gets the picture of their own profile
    virtual = {person.user_id: person.to_dict() for person in sample_users(BUILT["users"], BUILT["seed"])}
    built = [path.parent for path in (server.base / "input" / "psa_datasets").rglob("users.jsonl")]
    assert built
    for folder in built:
        assert all(person.to_dict() == virtual[person.user_id] for person, _ in read_users(folder)), folder
    everywhere = ada.words | bo.words
    for path in files_of(server.base):
        content = path.read_bytes()
        assert not any(word.encode() in content for word in everywhere), path


def files_of(base: Path) -> list[Path]:
    """All files that the server has written, but the store itself and the virtual users of data sets."""
    models = ("checkpoints", "psa_adapters", "LLM")
    given = (*(f"models/{name}" for name in models), "custom_nodes", "input/pairs/train")
    outside = (base / "user" / "__psa_profiles", *(base / name for name in given))
    files = (Path(folder, name) for folder, _, names in os.walk(base) for name in names)
    return [
        path
        for path in files
        if path.name != "users.jsonl" and not any(path.is_relative_to(folder) for folder in outside)
    ]
