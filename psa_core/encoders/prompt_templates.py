"""The two texts that a profile is written into for a language model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import PSAError
from ..files import existing_file, printable, some
from ..profile import UserProfile

_STATEMENT, _BAN = "get_embeds.txt", "get_banned.txt"
_PLACEHOLDERS = {
    _STATEMENT: {"AGE", "AGE_GROUP", "GENDER", "RELIGION", "MENTAL", "PHYSICAL", "BANNED", "ALLOWED"},
    _BAN: {"USER_DATA"},
}
_MOST_BYTES = 1 << 16
_PLACEHOLDER = re.compile(r"<<\s*(\w+)\s*>>")
_BAN_FIELDS = ("Age", "Age_Group", "Gender", "Religion", "Physical_Condition", "Mental_Condition")
_OURS = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Templates:
    """The texts by file name, with every placeholder that they need and no other."""

    texts: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path | str | None) -> "Templates":
        """From a folder with `get_embeds.txt` and `get_banned.txt`; `None` takes ours.

        Raises:
            PSAError: naming the file that is missing, no text, lacks a placeholder or has an unknown one.
        """
        texts = {}
        for name, known in _PLACEHOLDERS.items():
            path = existing_file((_OURS if folder is None else Path(folder)) / name, "prompt template")
            try:
                if path.stat().st_size > _MOST_BYTES:
                    raise PSAError(f"The prompt template {printable(path)} is larger than {_MOST_BYTES >> 10} KiB.")
                texts[name] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise PSAError(f"The prompt template {path} is not a text in UTF-8. Save it as one.") from error
            found = set(_PLACEHOLDER.findall(texts[name]))
            for wrong, fault in ((known - found, "lacks"), (found - known, "has the unknown")):
                if wrong:
                    names = some((f"<<{placeholder}>>" for placeholder in sorted(wrong)), 3)
                    raise PSAError(f"The prompt template {printable(path)} {fault} {names}. Correct it.")
        return cls(texts)

    def statement(self, profile: UserProfile) -> str:
        """The request for a personal safety statement."""
        values = {
            "AGE": str(profile.age),
            "AGE_GROUP": profile.age_group,
            "GENDER": profile.gender,
            "RELIGION": profile.religion,
            "MENTAL": profile.mental_condition,
            "PHYSICAL": profile.physical_condition,
            "BANNED": str(list(profile.banned_categories)),
            "ALLOWED": str(list(profile.allowed_categories)),
        }
        return self._fill(_STATEMENT, values)

    def question_of_bans(self, profile: UserProfile) -> str:
        """The question which categories to ban for such a person."""
        fields = profile.to_dict()
        return self._fill(_BAN, {"USER_DATA": json.dumps({field: fields[field] for field in _BAN_FIELDS}, indent=2)})

    def _fill(self, name: str, values: Mapping[str, str]) -> str:
        """A text with each placeholder replaced, once: a value is never searched for placeholders."""
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.texts[name])
