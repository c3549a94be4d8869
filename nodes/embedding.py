"""From profiles to embeddings: encoders, encoding, and embeddings kept in files."""

from comfy_api.latest import io

from ..psa_core.encoders.cache import EmbeddingCache
from ..psa_core.encoders.embedding import UserEmbedding, load_embedding
from ..psa_core.encoders.everyone import EveryoneEncoder
from ..psa_core.encoders.language_model import LanguageModelEncoder
from ..psa_core.encoders.structured import BY_NAME, StructuredEncoder
from ..psa_core.language_model import DEFAULT_MODEL
from . import sockets
from .comfy import folders
from .comfy.fingerprints import always_new, fingerprint
from .comfy.graph_labels import viewer_names
from .comfy.language_model_memory import ManagedPlacement
from .comfy.say import say

OUR_TEMPLATES = "ours"
_WITHOUT_MODEL = {**BY_NAME, "everyone": EveryoneEncoder}


class LoadEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        models = folders.folder_names(folders.LANGUAGE_MODELS, holding="config.json")
        return io.Schema(
            node_id="PSALoadEncoder",
            display_name="Load Profile Encoder (PSA)",
            category=sockets.DRAWING,
            description="What turns a profile into an embedding: the encoder that the adapter was trained on.",
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=[*_WITHOUT_MODEL, *dict.fromkeys([DEFAULT_MODEL, *models])],
                    default=next(iter(_WITHOUT_MODEL)),
                    tooltip="structured: the profile's fields as numbers, instant, for adapters trained here. "
                    "structured-inferred: the same without what is banned, which must then follow from the person. "
                    "everyone: nothing, for adapters that draw alike for all (PSA Mini's rival). Or "
                    f"a language model in models/LLM, for published weights: {DEFAULT_MODEL}.",
                ),
                io.Combo.Input(
                    "templates",
                    options=[OUR_TEMPLATES, *folders.folder_names(folders.TEMPLATES, holding="get_embeds.txt")],
                    default=OUR_TEMPLATES,
                    tooltip="Language models only: the texts a profile is put into. Published weights see exactly "
                    "what they were trained on with the published get_banned.txt and get_embeds.txt, put into a "
                    "folder under models/psa_templates.",
                ),
                io.Combo.Input(
                    "banned_by",
                    options=["profile", "language model"],
                    default="profile",
                    tooltip="Language models only: whether the profile itself says which categories are banned, or "
                    "the model is asked first, as the paper did.",
                ),
                io.Boolean.Input(
                    "keep_loaded",
                    default=False,
                    tooltip="Language models only: keep the model in memory between runs. Off, it is released after "
                    "encoding; results are cached on disk either way.",
                ),
            ],
            outputs=[
                sockets.Encoder.Output(display_name="encoder", tooltip="For PSA Encode, PSA Train and PSA Evaluate.")
            ],
            **sockets.aliases("profile encoder", "user encoder", "qwen"),
        )

    @classmethod
    def validate_inputs(cls, encoder_name=None, templates=None) -> bool:
        """Keeps ComfyUI's own check off: a folder that is missing gets a sentence that says where to put it."""
        return True

    @classmethod
    def fingerprint_inputs(cls, encoder_name=None, templates=None, **_) -> str:
        if encoder_name in _WITHOUT_MODEL:
            return fingerprint(encoder_name)
        if None in (encoder_name, templates):  # linked: which folders they name shows when it runs
            return always_new()
        places = (folders.LANGUAGE_MODELS, encoder_name), (folders.TEMPLATES, templates)
        return fingerprint(*(folders.files_in(folders.find_folder(*place)) for place in places))

    @classmethod
    def execute(cls, encoder_name, templates, banned_by, keep_loaded) -> io.NodeOutput:
        if encoder_name in _WITHOUT_MODEL:
            say(f"{encoder_name}: no model, no file")
            return io.NodeOutput(_WITHOUT_MODEL[encoder_name]())
        say(f"{encoder_name}: read when profiles are encoded")
        return io.NodeOutput(
            LanguageModelEncoder(
                folders.find_folder(folders.LANGUAGE_MODELS, encoder_name),
                templates=None if templates == OUR_TEMPLATES else folders.find_folder(folders.TEMPLATES, templates),
                banned_by=banned_by,
                cache=EmbeddingCache(folders.system_folder("psa_cache")),
                placement=ManagedPlacement(),
                keep_loaded=keep_loaded,
            )
        )


class Encode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAEncode",
            display_name="PSA Encode",
            category=sockets.DRAWING,
            description="Profiles to embeddings. With several profiles, picture i of a batch is drawn for profile i.",
            inputs=[
                sockets.Profile.Input("profile", tooltip="The viewer."),
                sockets.Encoder.Input(
                    "encoder", optional=True, tooltip="The adapter's encoder. Unconnected: the structured one."
                ),
                *sockets.more_profiles("One more viewer, for the next picture of a batch."),
            ],
            outputs=[
                sockets.Embedding.Output(display_name="embedding", tooltip="The viewers, for PSA Apply to Model."),
                io.String.Output(
                    display_name="labels", tooltip="Who each picture is drawn for, one a line, for PSA Label Grid."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            **sockets.aliases("encode profile", "viewer embedding", "personalized safety", "several viewers"),
        )

    @classmethod
    def execute(cls, profile, encoder=None, **more) -> io.NodeOutput:
        viewers = sockets.viewers(profile, more)
        embedding = (encoder or StructuredEncoder()).encode(viewers)
        say(_described(embedding))
        names = viewer_names(cls.hidden.prompt or {}, str(cls.hidden.unique_id), len(viewers))
        return io.NodeOutput(embedding, "\n".join(names))


class LoadEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALoadEmbedding",
            display_name="Load Profile Embedding (PSA)",
            category=sockets.DRAWING,
            description="A profile embedding from models/psa_embeddings: a published .npy, or one that `psa encode` "
            "wrote. A file with several rows gives a batch of viewers.",
            inputs=[
                io.Combo.Input(
                    "embedding_name",
                    options=folders.menu(folders.EMBEDDINGS),
                    tooltip="A .npy or .safetensors file in models/psa_embeddings.",
                )
            ],
            outputs=[
                sockets.Embedding.Output(display_name="embedding", tooltip="The viewers, for PSA Apply to Model.")
            ],
            **sockets.aliases("user embedding", "viewer embedding", "npy"),
        )

    @classmethod
    def validate_inputs(cls, embedding_name=None) -> bool | str:
        return embedding_name is None or folders.check_file(folders.EMBEDDINGS, embedding_name)

    @classmethod
    def fingerprint_inputs(cls, embedding_name=None) -> str:
        return folders.file_fingerprint(folders.EMBEDDINGS, embedding_name)

    @classmethod
    def execute(cls, embedding_name) -> io.NodeOutput:
        embedding = load_embedding(folders.find_file(folders.EMBEDDINGS, embedding_name))
        say(_described(embedding))
        return io.NodeOutput(embedding)


def _described(embedding: UserEmbedding) -> str:
    viewers = "1 viewer" if len(embedding) == 1 else f"{len(embedding)} viewers"
    return f"{viewers}, encoded by {embedding.encoder_id or 'an encoder that the file does not name'}"
