"""Sealing: opens for its owner with its key, and for nobody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ConfigError
from relay.security.vault import Vault

OLD, NEW = "an-old-key-of-some-length", "a-new-key-of-some-length!"
OWNER = "tgt_01K6X15VHRFF09DKKQJRZWHM60"
PLAIN = b"sk-hunter2"


@given(st.binary(), st.text(st.characters(codec="utf-8")))
def test_what_is_sealed_opens_again(plain: bytes, owner: str) -> None:
    vault = Vault([NEW])
    assert vault.open(vault.seal(plain, owner), owner) == plain


def test_nothing_of_it_shows() -> None:
    vault = Vault([NEW])
    one, two = vault.seal(PLAIN, OWNER), vault.seal(PLAIN, OWNER)
    assert one != two
    assert PLAIN not in one
    assert NEW not in repr(vault)
    assert NEW not in repr(vars(vault))


@pytest.mark.parametrize("owner", ["tgt_01K6X15VHRFF09DKKQJRZWHM61", "", OWNER.lower(), OWNER + "\0"])
def test_it_does_not_open_for_another_owner(owner: str) -> None:
    vault = Vault([NEW])
    with pytest.raises(ConfigError, match="altered or belongs to another row"):
        vault.open(vault.seal(PLAIN, OWNER), owner)


def test_no_altered_byte_passes() -> None:
    vault = Vault([NEW])
    sealed = vault.seal(PLAIN, OWNER)
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(ConfigError, match="altered" if place >= 4 else "another RELAY_SECRET_KEY") as caught:
            vault.open(bytes(altered), OWNER)
        assert "hunter2" not in str(caught.value)


def test_no_cut_or_lengthened_value_passes() -> None:
    vault = Vault([NEW])
    sealed = vault.seal(PLAIN, OWNER)
    for altered in [*(sealed[:length] for length in range(len(sealed))), sealed + b"\0"]:
        with pytest.raises(ConfigError):
            vault.open(altered, OWNER)


def test_a_rotation_of_keys() -> None:
    before = Vault([OLD]).seal(PLAIN, OWNER)
    rotating = Vault([NEW, OLD])
    assert rotating.open(before, OWNER) == PLAIN
    after = rotating.seal(PLAIN, OWNER)
    assert Vault([NEW]).open(after, OWNER) == PLAIN
    for vault, sealed in ((Vault([NEW]), before), (Vault([OLD]), after)):
        with pytest.raises(ConfigError, match="sealed with another RELAY_SECRET_KEY: add that key"):
            vault.open(sealed, OWNER)


def test_sealed_values_of_earlier_versions_still_open() -> None:
    """What version 1 has written to databases; if this fails, stored secrets are lost."""
    sealed = bytes.fromhex("53d337b15a058ba2e4d87a4dfb3eb1703008e7d096b46547f0c1323c1809e6b09aa57f0751071ed90865")
    assert Vault([NEW, OLD]).open(sealed, OWNER) == PLAIN
