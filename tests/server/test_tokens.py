from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.errors import InvalidSetting
from seqserve_server.security.tokens import InvalidToken, Token, TokenSealer, random_key, read_key

KEY = bytes(range(32))
TOKENS = st.builds(
    Token,
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    version=st.integers(1, 2**63),
    steps=st.integers(1, 2**63),
    state=st.binary(max_size=200),
)


def _sealer(key: bytes = KEY, now: float = 1000.0) -> TokenSealer:
    return TokenSealer(key, lifetime_s=60, now=lambda: now)


@given(TOKENS)
def test_a_token_opens_as_it_was_sealed(token: Token) -> None:
    assert _sealer().open(_sealer().seal(token)) == token


@given(TOKENS, st.data())
def test_a_token_with_any_bit_changed_is_refused(token: Token, data: st.DataObject) -> None:
    sealed = bytearray(_sealer().seal(token))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(InvalidToken, match="altered"):
        _sealer().open(bytes(sealed))


@given(TOKENS, st.integers(1, 300))
def test_a_token_cut_short_is_refused(token: Token, missing: int) -> None:
    with pytest.raises(InvalidToken, match="altered"):
        _sealer().open(_sealer().seal(token)[:-missing])


@given(st.binary(max_size=300))
def test_bytes_that_nobody_sealed_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidToken, match="altered"):
        _sealer().open(data)


@given(TOKENS)
def test_a_token_of_another_key_is_refused(token: Token) -> None:
    with pytest.raises(InvalidToken, match="another key"):
        _sealer().open(_sealer(random_key()).seal(token))


@pytest.mark.parametrize(("now", "good"), [(1059.0, True), (1060.0, False)])
def test_a_token_expires(now: float, good: bool) -> None:
    token = Token("ab" * 32, version=1, steps=3, state=b"state")
    sealed = _sealer(now=1000.0).seal(token)

    if good:
        assert _sealer(now=now).open(sealed) == token
    else:
        with pytest.raises(InvalidToken, match="expired"):
            _sealer(now=now).open(sealed)


def test_a_key_file_is_read_without_the_white_space_around_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"k" * 32 + b"\n")

    assert read_key(file) == b"k" * 32


def test_a_key_file_too_short_or_missing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"k" * 31 + b"\n")

    with pytest.raises(InvalidSetting, match="holds 31 bytes; at least 32 are needed"):
        read_key(file)
    with pytest.raises(InvalidSetting, match="No such file"):
        read_key(tmp_path / "none")
