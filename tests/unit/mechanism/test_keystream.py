import numpy as np
import pytest

from privfed_dpo.mechanism.keystream import Keystream, StreamIssuer, StreamReused
from tests.support.entropy import counted_entropy


def test_words_are_aes_256_ctr_of_zero_blocks():
    # FIPS-197 appendix C.3: AES-256 of one block under this key; CTR of zeros from counter zero
    # starts with the encryption of the all-zero block, checked here against a one-block ECB.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(32))
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    blocks = b"".join(encryptor.update(i.to_bytes(16, "big")) for i in range(3))
    assert Keystream(key).words(6).tobytes() == blocks


def test_a_long_request_equals_many_short_ones():
    key = bytes(32)
    whole = Keystream(key).words(50_001)
    stream = Keystream(key)
    parts = np.concatenate([stream.words(n) for n in (1, 7, 20_000, 29_993)])
    assert np.array_equal(whole, parts)


def test_a_label_is_issued_once_and_labels_are_independent():
    issuer = StreamIssuer(counted_entropy("a"))
    first = issuer.issue("round-1/noise").words(4)
    second = issuer.issue("round-2/noise").words(4)
    assert not np.array_equal(first, second)
    with pytest.raises(StreamReused) as caught:
        issuer.issue("round-1/noise")
    assert caught.value.label == "round-1/noise"


def test_two_processes_draw_two_roots():
    source = counted_entropy("os")
    a, b = StreamIssuer(source), StreamIssuer(source)
    assert not np.array_equal(a.issue("x").words(8), b.issue("x").words(8))


def test_reprs_hold_no_key():
    key = b"\x41" * 32
    assert "41" not in repr(Keystream(key))
    assert "secret" in repr(StreamIssuer(counted_entropy("a")))


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Keystream(b"short")
