"""Whether a text says that the upstream does not know a task: "no such task", "Video with id 'x' not found".

Routers say "not found" of addresses, and gateways of their own channels, so the task itself has to be named beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MAX_TEXT = 1000
"""Characters of a text that are looked at."""

_FILLERS = frozenset(
    """a an any are at be been by could current did do does for from given has have id ids in is it of or provided
    requested specified that the this to under was were will with your""".split()  # noqa: SIM905
)

_NOT = re.compile(r"(?:can|could|do|does|did|is|was|were|has|have)(?:n['’]?|['’])t|cannot|never")

_ID = re.compile(r"""["'`][^"'`]+["'`]\W*""")

_OF_A_TASK = "channel|endpoint|engine|error|event|handler|kind|model|node|param|queue|route|runner|service|stat|type"
_OF_A_TASK_IN_HAN = "渠道|模型|令牌|用户|接口|路由|分组|通道|密钥|服务|资源|账号"
"""What a task has or uses: that this does not exist says nothing about the task."""

_ABSENT = "not (?:found|exist|exists|existed|known)|unknown|no longer exists?"
_ABSENT_BEFORE = (
    "no such|unknown|nonexistent|not (?:find|found|locate|exist|exists|know)|(?:unable|failed) (?:find|locate)"
)
_ABSENT_IN_HAN = "不存在|未找到|找不到|没找到|没有找到|未查询到|未查到|查无|已删除|已被删除|見つかりません|存在しません"
_ABSENT_BEFORE_IN_HAN = "不存在|未找到|找不到|没有找到|查无|无此|没有此|没有该|未查询到|未查到"


class UnknownTask:
    """Finds out whether a text says that a task is unknown.

    Args:
        names: what the upstream calls a task: `task`, `video`, `任务`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(name.lower() for name in names)
        latin = "|".join(re.escape(name) for name in self._names if name.isascii()) or r"\b\B"
        han = "|".join(re.escape(name) for name in self._names if not name.isascii()) or r"\b\B"
        self._said = re.compile(
            rf"\b(?:{latin}|^id)s? (?:{_ABSENT})\b"
            rf"|\b(?:{_ABSENT_BEFORE}) (?:{latin})s?\b(?! (?:\w+ )?(?:{_OF_A_TASK}))"
            rf"|\bno (?:{latin})s? (?:found|exists?)\b"
        )
        self._said_in_han = re.compile(
            rf"(?:{han})(?:(?!{_OF_A_TASK_IN_HAN})[^。！!;；\n]){{0,60}}?(?:{_ABSENT_IN_HAN})"
            rf"|(?:{_ABSENT_BEFORE_IN_HAN})\W*(?:该|此|这个|对应|相关|指定|的)*(?:{han})"
        )

    def __bool__(self) -> bool:
        return bool(self._names)

    def is_said_in(self, text: str) -> bool:
        """Return whether a text says so. Addresses in it do not count: routers repeat what was asked."""
        text = text[:MAX_TEXT].lower()
        return bool(self._said_in_han.search(text) or self._said.search(" ".join(self._words(text))))

    def _words(self, text: str) -> Iterator[str]:
        """Yield the words of a text without ids, addresses and fillers."""
        first = True
        for token in text.split():
            if "/" in token or _ID.fullmatch(token):
                continue
            words = re.findall("[a-z]+", _NOT.sub("not", token))
            if any(letter.isdigit() for letter in token):
                words = [word for word in words if word in self._names]  # `task_01k6x15v`
            for word in words:
                if word not in _FILLERS or (first and word == "id"):
                    yield word
                    first = False
