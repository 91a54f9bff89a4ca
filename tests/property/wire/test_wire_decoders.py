"""Whatever bytes arrive, a decoder gives a message or its one typed error, however deep they nest."""

import contextlib
import types
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import privfed_dpo
from privfed_dpo.deployment import joining
from privfed_dpo.engine import gossip_messages, masked_messages, messages
from privfed_dpo.engine.messages import MalformedEnvelope, decode, decode_envelope, encode
from privfed_dpo.errors import ConfigError
from privfed_dpo.wire import frames
from privfed_dpo.wire.frames import MARK, BadFrame, FrameReader, encode_frame


def structs(module):
    """What a module defines and others' bytes are decoded into."""
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == module.__name__
    ]
    return [kind for kind in found if kind.__struct_fields__ or kind is frames.Finish]


MESSAGES = [
    kind
    for module in (messages, gossip_messages, masked_messages, joining)
    for kind in structs(module)
]
FRAMES = structs(frames)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
PLAIN = {
    int: INTEGERS,
    bytes: st.binary(max_size=40),
    str: st.text(max_size=10),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}
# Values of every type MessagePack knows, nested: nearly messages, but not quite.
VALUES = st.recursive(
    st.one_of(*PLAIN.values(), st.booleans()),
    lambda inner: st.lists(inner, max_size=11) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)
BOMBS = {
    "lists": b"\x91" * 5000 + b"\xc0",
    "maps": b"\x81\xa1k" * 5000 + b"\xc0",
    "maps as keys": b"\x81" * 5000 + b"\xc0" * 5001,
    "lists that never end": b"\x91" * 100_000,
}


def true_values(hint):
    """Values that a field of this type can hold."""
    if hint in PLAIN:
        return PLAIN[hint]
    if get_origin(hint) is tuple:
        return st.lists(true_values(get_args(hint)[0]), max_size=3).map(tuple)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is types.UnionType:
        return st.one_of(*map(true_values, get_args(hint)))
    return true_messages(hint)


def true_messages(kind):
    hints = get_type_hints(kind)
    return st.builds(kind, **{name: true_values(hints[name]) for name in kind.__struct_fields__})


def read(data, kind):
    """Decode as others' bytes are; what comes out must have exactly these bytes."""
    if kind in FRAMES:
        stream = MARK + len(data).to_bytes(8, "big") + data
        (frame,) = FrameReader().feed(stream)
        assert encode_frame(frame) == stream
        return frame
    message = decode_envelope(data) if kind is messages.Envelope else decode(data, kind)
    assert encode(message) == data
    return message


def error_of(kind):
    return BadFrame if kind in FRAMES else MalformedEnvelope


def parts(kind, data):
    """The encoded fields of a message, its tag included."""
    raw = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
    assert len(raw) <= 15, "the headers below are one byte"
    return [bytes(one) for one in raw]


def listed(fields):
    return bytes([0x90 + len(fields)]) + b"".join(fields)


every_kind = pytest.mark.parametrize("kind", [*MESSAGES, *FRAMES], ids=lambda kind: kind.__name__)
every_bomb = pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)


def test_every_message_of_the_package_is_among_them():
    """A struct that is decoded elsewhere must be tried here too."""
    home = Path(privfed_dpo.__file__).parent
    defining = {
        str(path.relative_to(home))
        for path in home.rglob("*.py")
        if "(msgspec.Struct" in (text := path.read_text()) or "(Message" in text
    }
    assert defining == {
        "deployment/joining.py",
        "engine/checkpoint.py",  # a file of the party itself, in JSON
        "engine/gossip_messages.py",
        "engine/masked_messages.py",
        "engine/messages.py",
        "wire/frames.py",
    }
    assert len(MESSAGES) == 18
    assert len(FRAMES) == 10


@every_kind
def test_no_message_has_room_for_a_field_too_many(kind):
    settings_of = kind.__struct_config__
    assert settings_of.array_like
    assert settings_of.forbid_unknown_fields


@every_kind
@settings(max_examples=30)
@given(data=st.data())
def test_a_true_message_is_read_and_one_with_a_field_too_many_is_not(kind, data):
    message = data.draw(true_messages(kind))
    encoded = msgspec.msgpack.encode(message)
    if kind is not messages.Envelope or message.version == messages.WIRE_VERSION:
        assert read(encoded, kind) == message
    more = msgspec.msgpack.encode(data.draw(VALUES))
    with pytest.raises(error_of(kind)):
        read(listed([*parts(kind, encoded), more]), kind)


@every_kind
@every_bomb
@settings(max_examples=3)
@given(data=st.data())
def test_deep_nesting_anywhere_is_an_error_like_any_other(kind, bomb, data):
    fields = parts(kind, msgspec.msgpack.encode(data.draw(true_messages(kind))))
    behind = [listed([*fields, bomb])]
    instead = [listed([*fields[:i], bomb, *fields[i + 1 :]]) for i in range(len(fields))]
    for bad in (*behind, *instead, bomb):
        with pytest.raises(error_of(kind)):
            read(bad, kind)


@every_kind
@settings(max_examples=60)
@given(data=st.data())
def test_any_bytes_are_a_message_or_refused(kind, data):
    """Noise, values that are no message, and true messages with a piece cut out or put in."""
    encoded = msgspec.msgpack.encode(data.draw(true_messages(kind)))
    start = data.draw(st.integers(0, len(encoded)))
    end = data.draw(st.integers(start, len(encoded)))
    for garbage in (
        data.draw(st.binary(max_size=100)),
        msgspec.msgpack.encode(data.draw(VALUES)),
        encoded[:start] + data.draw(st.binary(max_size=8)) + encoded[end:],
    ):
        with contextlib.suppress(error_of(kind)):
            read(garbage, kind)


@settings(max_examples=60)
@given(config=st.text(max_size=60))
def test_any_text_as_a_run_s_configuration_is_one_or_refused(config):
    document = joining.RunDocument(1, bytes(16), config, "", "", "")
    with contextlib.suppress(ConfigError):
        joining.read_document(encode(document)).settings()


@pytest.mark.parametrize("depth", [300, 50_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"model": ', "}")], ids=["[", "{"])
def test_a_run_s_configuration_may_nest_as_deep_as_it_likes(depth, opened, closed):
    config = f'{{"run": {opened * depth}1{closed * depth}}}'
    document = joining.RunDocument(1, bytes(16), config, "", "", "")
    with pytest.raises(ConfigError):
        joining.read_document(encode(document)).settings()
