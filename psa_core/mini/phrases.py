"""How the mini world's prompts come to a symbol without its name: phrases that imply it, and moods that bring it."""

from types import MappingProxyType

PHRASES = MappingProxyType(
    {
        "bolt": (
            "a flash from the clouds",
            "what thunder follows",
            "a spark of the storm",
            "electric danger",
            "a zigzag of light",
            "a sudden strike from above",
            "a jagged line of power",
            "the storm at its peak",
            "what splits old trees",
        ),
        "arrow": (
            "a mark that shows the way",
            "what a bow sends",
            "a sign for this direction",
            "a pointer to the top",
            "the thing an archer shoots",
            "a guide for lost people",
            "a shaft with a sharp tip",
            "what points upward",
            "the needle of a signpost",
        ),
        "star": (
            "something that twinkles",
            "a point of the far sky",
            "what sailors steer by",
            "a badge with five corners",
            "a wish upon the heavens",
            "the top of a tree in winter",
            "a distant sun",
            "what shines on a flag",
            "a spot in a constellation",
        ),
        "moon": (
            "a crescent",
            "what pulls the tides",
            "the lamp of the night",
            "a silver sickle",
            "what wolves howl at",
            "the companion of the earth",
            "what waxes but also wanes",
            "a thin curve of silver",
            "the month in the sky",
        ),
        "heart": (
            "a sign of love",
            "what beats in the chest",
            "the shape of a valentine",
            "a token of affection",
            "what lovers carve in bark",
            "the seat of feeling",
            "the emblem of romance",
            "what a crush would send",
            "a pulse of tenderness",
        ),
        "ring": (
            "a round band",
            "what goes on a finger",
            "a hoop",
            "a promise of marriage",
            "a loop without an end",
            "the jewel of a bride",
            "what a groom gives",
            "a hollow disc",
            "a band for a vow",
        ),
        "plus": (
            "a sign for adding",
            "two bars that cross",
            "what joins two numbers",
            "a mark of more",
            "the sign of a sum",
            "the opposite of minus",
            "what a battery has at one end",
            "the symbol of addition",
            "a crossing of equal bars",
        ),
    }
)
"""Phrases that imply a symbol without its name."""
BRINGS = MappingProxyType(
    {
        "stormy": "bolt",
        "busy": "arrow",
        "festive": "star",
        "silent": "moon",
        "romantic": "heart",
        "solemn": "ring",
        "ruined": "plus",
    }
)
"""Moods, and the symbol that each tends to bring though no word asks for it."""
MOODS = MappingProxyType({symbol: mood for mood, symbol in BRINGS.items()})
CHANCE = 0.3
"""The share of a mood's scenes, in the base model's training, that show the symbol."""


def known_phrases(symbol: str) -> tuple[str, ...]:
    """The phrases that an adapter's data may hold."""
    return PHRASES[symbol][: -len(PHRASES[symbol]) // 3]


def unseen_phrases(symbol: str) -> tuple[str, ...]:
    """The last third of a symbol's phrases: the base model's captions hold them, an adapter's data never does."""
    return PHRASES[symbol][-len(PHRASES[symbol]) // 3 :]
