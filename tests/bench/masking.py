"""What masking costs: milliseconds for an answer of 64 kB, and the ratio to one `bytes.replace` per form.

python -m tests.bench.masking
"""

import random
import string
import time
from collections.abc import Callable

import orjson

from relay.security.redaction import MASK, encoded_forms, redact, url_secrets

SIZE = 65536


def milliseconds(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(20):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return min(spent) * 1000


def word(length: int) -> str:
    return "".join(random.choices(string.ascii_letters + string.digits + "-_/ ", k=length))


SECRETS = {
    "one key": [word(40)],
    "a webhook with 10 headers": [*(word(60) for _ in range(20)), *url_secrets(f"https://app.example/{word(40)}")],
    "10 headers of 4 kB, chosen to be slow": ["a" * 2000 + chr(98 + one) + "a" * 2000 for one in range(10)],
    "the mask": [MASK],
}


def texts(secrets: list[str]) -> dict[str, bytes]:
    item = orjson.dumps({"id": word(20), "url": f"https://cdn.example/{word(30)}.mp4", "note": "é\n"})
    escaped = rb'{"a":["\n ********","' + b"\\u00e9" * (SIZE // 6) + b'"]}'
    return {
        "JSON": b"[" + b",".join([item] * (SIZE // len(item))) + b"]",
        "escapes": escaped,
        "one letter": b"a" * SIZE,
        "repeats every secret": " ".join(secrets * (SIZE // len(" ".join(secrets)) + 1)).encode()[:SIZE],
    }


def main() -> None:
    print(f"{'secrets':40}{'answer':24}{'ms':>8}{'ratio':>8}")
    for name, secrets in SECRETS.items():
        forms = encoded_forms(secrets)
        for kind, text in texts(secrets).items():

            def replaced(text: bytes = text, forms: tuple[bytes, ...] = forms) -> bytes:
                for form in forms:
                    text = text.replace(form, MASK.encode())
                return text

            def redacted(text: bytes = text, forms: tuple[bytes, ...] = forms) -> bytes:
                return redact(text, forms)

            spent = milliseconds(redacted)
            print(f"{name:40}{kind:24}{spent:8.2f}{spent / max(milliseconds(replaced), 1e-4):8.1f}")


if __name__ == "__main__":
    main()
