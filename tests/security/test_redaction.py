"""Masking: no secret is left, whatever secrets and answers look like, and it always ends."""

from __future__ import annotations

import json
import time

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.security.redaction import MASK, MIN_SECRET, encoded_forms, redact, url_secrets

HOSTILE = (
    "",
    "*",
    "x",
    MASK,
    MASK + "*",
    f"a{MASK}b",
    f"{MASK}abcdefgh",
    "a*******b",
    "abcdefgh" * 3,
    "defghijkl",
    "hijklmnopq",
    "abababab",
    "aaaaaaaaa",
    "(a+)+[b]{2}.*$|^",
    r"\\d+\\w*\\1",
    '"quoted" and \\back',
    "nabcdefgh",
    "line\nbreak-and-more",
    "häßlich-und-länger",
    "a/b/c/d/e/f?g=h&i=j",
    "%2Fa%2Fb%2Fc",
)
secrets = st.one_of(st.sampled_from(HOSTILE), st.text(alphabet='ab*\\\\"%/n', max_size=14), st.text(max_size=12))


def escaped(text: str) -> str:
    """Return a text as JSON may write it, too: each letter as an escape."""
    return "".join(f"\\\\u{unit:04x}" for unit in memoryview(text.encode("utf-16-le", "replace")).cast("H"))


@st.composite
def answers(draw: st.DrawFn) -> tuple[tuple[str, ...], bytes]:
    """Secrets, and a text that repeats some of them: as they are, encoded, in part, overlapping, in JSON."""
    chosen = tuple(draw(st.lists(secrets, min_size=1, max_size=5)))
    forms = [form.decode() for form in encoded_forms(chosen)] or ["nothing"]
    piece = st.one_of(
        st.sampled_from((*chosen, *forms)),
        st.sampled_from(forms).map(lambda form: form[: len(form) // 2]),
        st.sampled_from(forms).map(lambda form: form[len(form) // 2 :]),
        st.text(alphabet='ab*\\\\"%/n', max_size=9),
    )
    text = "".join(draw(st.lists(piece, max_size=8)))
    written = draw(st.sampled_from(["raw", "json", "escaped"]))
    if written == "json":
        text = json.dumps({"a": "\n" + text, text: [text]})
    elif written == "escaped":
        text = f'{{"a": "{escaped(text)}"}}'
    return chosen, text.encode(errors="replace")


def leaked(text: bytes, forms: tuple[bytes, ...]) -> list[bytes]:
    """The secrets that can be read in a text, also by who parses it."""
    try:
        parsed = orjson.dumps(orjson.loads(text))
    except ValueError:
        parsed = b""
    return [form for form in forms if form in text or form in parsed]


@example((("abcdefghij", "ghijklmnop"), b"abcdefghijklmnop"))
@example((("SECRETXX", f"a{MASK}b"), b"aSECRETXXb"))
@example((("nabcdefgh", "0123456789"), rb'{"a":"\nabcdefgh","b":"\u0030123456789"}'))
@given(answers())
def test_no_secret_is_left_and_a_second_time_changes_nothing(case: tuple[tuple[str, ...], bytes]) -> None:
    chosen, text = case
    forms = encoded_forms(chosen)
    shown = redact(text, forms)
    assert leaked(shown, forms) == []
    assert redact(shown, forms) == shown
    for secret in chosen:
        if len(secret) >= MIN_SECRET and secret != MASK:
            assert secret.encode(errors="replace") not in shown


@given(st.lists(secrets, max_size=5), st.binary(max_size=200))
def test_what_repeats_no_secret_stays_as_it_is(chosen: list[str], text: bytes) -> None:
    forms = encoded_forms(chosen)
    if not leaked(text, forms):
        assert redact(text, forms) == text


@pytest.mark.parametrize(
    ("given", "text", "shown"),
    [
        (["SECRETXX"], b"my SECRETXX.", b"my ********."),
        (["SECRETXX"], b"SECRETXXSECRETXX", b"********"),
        (["abcdefghij", "ghijklmnop"], b"<abcdefghijklmnop>", b"<********>"),
        (["abcdefghij", "cdefghij"], b"<abcdefghij> <cdefghij>", b"<********> <********>"),
        ([MASK], b'{"a":"\\n ********"}', b'{"a":"\\n ********"}'),
        ([f"a{MASK}b", "SECRETXX"], b"aSECRETXXb", MASK.encode()),
        (["SECRETXX"], rb'{"a": "\u0053ECRETXX"}', b'{"a":"********"}'),
        (["short", ""], b"short", b"short"),
    ],
)
def test_examples(given: list[str], text: bytes, shown: bytes) -> None:
    assert redact(text, encoded_forms(given)) == shown


def test_an_answer_too_deep_to_be_written_anew_is_masked_whole() -> None:
    deep = b"[" * 300 + rb'"\u0053ECRETXX"' + b"]" * 300
    assert redact(deep, encoded_forms(["SECRETXX"])) == MASK.encode()


def test_the_time_grows_with_the_answer_and_not_with_what_is_chosen_to_be_slow() -> None:
    """Compared with one pass of `replace` per form over the same text, so that a busy machine does not matter."""
    text = b"a" * 65536
    forms = encoded_forms(["a" * 2000 + chr(98 + number) + "a" * 2000 for number in range(10)])

    def seconds(work: object) -> float:
        spent = []
        for _ in range(5):
            started = time.thread_time()
            work()  # type: ignore[operator]
            spent.append(time.thread_time() - started)
        return min(spent)

    def replaced() -> bytes:
        shown = text
        for form in forms:
            shown = shown.replace(form, MASK.encode())
        return shown

    assert seconds(lambda: redact(text, forms)) < 10 * seconds(replaced)


def test_the_secrets_of_a_url_are_its_long_parts() -> None:
    url = "https://app.example/hooks/T0123456789abcdef?sig=0123456789abcdef"
    assert set(url_secrets(url)) >= {url, "T0123456789abcdef", "0123456789abcdef"}
