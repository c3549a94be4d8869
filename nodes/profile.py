"""Profiles: typed into a node, or kept by name in the store."""

from comfy_api.latest import io

from ..psa_core import profile as profiles
from ..psa_core import schema
from ..psa_core.errors import PSAError
from ..psa_core.rules import PROTECTIVE, REFERENCE_PROMPT, RULES
from . import sockets
from .comfy.fingerprints import always_new
from .comfy.users import profile_fingerprint, profile_names, profile_store

CUSTOM = "custom"
CHOSEN = "chosen"
NONE_STORED = "(no profile is stored yet)"  # no name begins so
_BEFORE = {"by the rules": REFERENCE_PROMPT}  # what workflows of the first versions hold
_BAN_INPUTS = {f"ban_{category.lower().replace('-', '_')}": category for category in schema.CATEGORIES}


def _harmless_first(words: tuple[str, ...], default: str) -> list[str]:
    """A menu that starts with its default: search cards show the first word as if it were chosen."""
    return [default, *(word for word in words if word != default)]


class UserProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAUserProfile",
            display_name="User Profile",
            category=sockets.VIEWERS,
            description="Describes a viewer: age, faith, health, and what they must not be shown. Custom values are "
            "saved in every picture and workflow that this graph makes, as ComfyUI does with all widgets; to keep a "
            "real person's profile out of them, store it and use Load Profile.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[CUSTOM, *profiles.LEVELS],
                    default=CUSTOM,
                    tooltip="One of the paper's six viewers, L0 (no restriction) to L5 (all categories banned), "
                    "or custom: the values below.",
                ),
                io.Int.Input("age", default=30, min=0, max=schema.MAX_AGE, tooltip="Whole years, 0 to 100."),
                io.Combo.Input("gender", options=list(schema.GENDERS), tooltip="In the words of the Sage dataset."),
                io.Combo.Input(
                    "religion", options=_harmless_first(schema.RELIGIONS, "None"), default="None", tooltip="Or None."
                ),
                io.Combo.Input(
                    "physical_condition",
                    options=_harmless_first(schema.PHYSICAL_CONDITIONS, "healthy"),
                    default="healthy",
                    tooltip="In the words of the Sage dataset. What it bans, if anything, is up to 'banned'.",
                ),
                io.Combo.Input(
                    "mental_condition",
                    options=_harmless_first(schema.MENTAL_CONDITIONS, "healthy"),
                    default="healthy",
                    tooltip="In the words of the Sage dataset. What it bans, if anything, is up to 'banned'.",
                ),
                io.Combo.Input(
                    "banned",
                    options=[*RULES, CHOSEN],
                    default=PROTECTIVE,
                    tooltip="Who says what this viewer must not see. sage: the rules that the published data follows. "
                    "protective: the same, and nobody under 18 sees Violence, Sexuality, Self-Harm or Shocking. "
                    "reference-prompt: the rules in the paper's prompt, which its data does not follow. chosen: the "
                    "switches below.",
                ),
                *(
                    io.Boolean.Input(
                        name,
                        default=False,
                        label_on="banned",
                        label_off="allowed",
                        tooltip=f"Keep {category} from this viewer. Counts only where 'banned' is 'chosen'.",
                    )
                    for name, category in _BAN_INPUTS.items()
                ),
            ],
            outputs=[sockets.Profile.Output(display_name="profile", tooltip="The viewer, for PSA Encode.")],
            **sockets.aliases(
                "viewer", "audience", "age", "child", "safety", "nsfw", "filter", "parental control", "content filter"
            ),
        )

    @classmethod
    def validate_inputs(
        cls,
        preset=None,
        age=None,
        gender=None,
        religion=None,
        physical_condition=None,
        mental_condition=None,
        banned=None,
    ) -> bool:
        """Keeps ComfyUI's own checks off: they repeat the value into the server's log. `execute` checks instead."""
        return True

    @classmethod
    def execute(
        cls, preset, age, gender, religion, physical_condition, mental_condition, banned, **switches
    ) -> io.NodeOutput:
        chosen = [category for name, category in _BAN_INPUTS.items() if switches[name]]
        return io.NodeOutput(
            _build(preset, age, gender, religion, physical_condition, mental_condition, banned, chosen)
        )


def _build(preset, age, gender, religion, physical_condition, mental_condition, banned, chosen) -> profiles.UserProfile:
    if preset in profiles.LEVELS:
        return profiles.LEVELS[preset]
    if preset != CUSTOM:
        raise PSAError(f"A User Profile's preset must be one of: {', '.join((CUSTOM, *profiles.LEVELS))}.")
    banned = _BEFORE.get(banned, banned)
    if banned not in (*RULES, CHOSEN):
        raise PSAError(f"A User Profile's 'banned' must be one of: {', '.join((*RULES, CHOSEN))}.")
    profile = profiles.UserProfile(
        age, gender, religion, physical_condition, mental_condition, banned_categories=tuple(chosen)
    )
    return profile if banned == CHOSEN else profile.with_rules(banned)


class LoadProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSALoadProfile",
            display_name="Load Profile (PSA viewer, child, age)",
            category=sockets.VIEWERS,
            description="A viewer's profile from your store, by name. Nothing but the name enters the graph, "
            "the pictures or the history.",
            inputs=[
                io.Combo.Input(
                    "profile_name",
                    options=profile_names() or [NONE_STORED],
                    tooltip="A profile that you stored: with this node's New profile button, in the Viewers panel, or "
                    "with Save Profile.",
                )
            ],
            outputs=[sockets.Profile.Output(display_name="profile", tooltip="The viewer, for PSA Encode.")],
            **sockets.aliases("stored profile", "viewer", "audience", "age", "child", "safety", "nsfw", "filter"),
        )

    @classmethod
    def validate_inputs(cls, profile_name=None) -> bool | str:
        try:
            if profile_name is None or profile_name in profile_store().names():
                return True
        except PSAError as error:
            return str(error)
        return "There is no stored profile of that name. Pick one from the list, or store one: press New profile on it."

    @classmethod
    def fingerprint_inputs(cls, profile_name=None) -> str:
        return profile_fingerprint(profile_name)

    @classmethod
    def execute(cls, profile_name) -> io.NodeOutput:
        return io.NodeOutput(profile_store().load(profile_name))


class SaveProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSASaveProfile",
            display_name="Save Profile (PSA viewer)",
            category=sockets.VIEWERS,
            description="Keeps a profile in your store (a private folder of ComfyUI's user directory), so that graphs "
            "can load it by name. Delete the User Profile node from the graph afterwards: its values are in the graph.",
            inputs=[
                sockets.Profile.Input("profile", tooltip="The profile to keep."),
                io.String.Input(
                    "name",
                    default="viewer",
                    tooltip="It appears in graphs and pictures: let it say nothing about the person.",
                ),
                io.Boolean.Input("overwrite", default=False, tooltip="Replace another profile of the same name."),
            ],
            outputs=[sockets.Profile.Output(display_name="profile", tooltip="The same profile.")],
            is_output_node=True,
            **sockets.aliases("store profile", "viewer"),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs) -> str:
        return always_new()  # what was saved may have been deleted since, and another user has a store of their own

    @classmethod
    def execute(cls, profile, name, overwrite) -> io.NodeOutput:
        profile_store().save(name, profile, overwrite=overwrite)
        return io.NodeOutput(profile, ui={"text": (f"Stored as {name}. Load Profile has it in its list.",)})
