"""Protocol bugs that somebody could write, as single edits of the package.

Each one must make the tests fail: `python -m tests.mutants.secure_agg` plants them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    name: str
    file: str
    old: str
    new: str


BUGS = (
    # Masks
    Bug("both ends of a pair add", "client.py", "if mine > peer]", "if mine < peer]"),
    Bug("no self mask", "client.py", "add = [self_mask_seed(", "add = []\n    _ = [self_mask_seed("),
    Bug("recovery with the wrong sign", "unmasking.py", "if peer < lost else", "if peer > lost else"),
    Bug("pair mask not bound to the round", "mask.py", "shared, params_digest, u32(low)", "shared, u32(low)"),
    Bug("self mask not bound to the client", "mask.py", "secret, params_digest, u32(client)", "secret, params_digest"),
    Bug("threads restart the keystream", "mask.py", "(offset_bytes // _BLOCK_BYTES)", "(0)"),
    Bug("one key for masking and sealing", "client.py",
        "AgreementKey.generate(entropy), AgreementKey.generate(entropy), draw",
        "*(AgreementKey.generate(entropy),) * 2, draw"),
    Bug("constant self-mask secret", "client.py", "draw(entropy, SECRET_BYTES)", "bytes(SECRET_BYTES)"),
    # Shares
    Bug("threshold of shares off by one", "client.py",
        "threshold=member.params.share_threshold,", "threshold=member.params.share_threshold - 1,"),
    Bug("constant polynomial", "shamir.py", "drawn = draw(entropy, COEFFICIENT_BYTES * (threshold - 1))",
        "drawn = bytes(COEFFICIENT_BYTES * (threshold - 1))"),
    Bug("box not bound to the view", "seal.py", "shared, view_digest, u32(owner), u32(holder)", "shared, u32(owner), u32(holder)"),
    Bug("box not bound to its direction", "seal.py", "view_digest, u32(owner), u32(holder))", "view_digest, *sorted((u32(owner), u32(holder))))"),
    Bug("box may hold anything", "seal.py", "if not (is_share(pair.self_mask) and is_share(pair.mask_key)):", "if False:"),
    Bug("revealed share may be out of range", "server.py", "if not all(is_share(reveal.share)", "if not all(True"),
    Bug("field elements beyond the prime", "shamir.py", 'int.from_bytes(data, "big") < PRIME', 'int.from_bytes(data, "big") <= PRIME'),
    Bug("restored secrets go unchecked", "unmasking.py", "    published = state.keys[owner].advertisement", "    return True\n    published = state.keys[owner].advertisement"),
    Bug("doubted holders are asked first all the same", "unmasking.py", "(doubts[holder], holder)", "holder"),
    Bug("doubted holders are never asked", "unmasking.py", "trusted = sorted(points, ", "trusted = sorted((h for h in points if not doubts[h]), "),
    Bug("a holder is blamed for its dealer", "unmasking.py", "Dispute(owner, lying, len(lying))", "Dispute(lying[0], lying, len(lying))"),
    Bug("reveals follow no survivor set", "client.py", "pair.self_mask if owner in alive else", "pair.self_mask if owner not in alive else"),
    # What a client believes
    Bug("neighbours' signatures unchecked", "client_checks.py", "        verify_frame(\n            member.params,", "        _ = lambda: verify_frame(\n            member.params,"),
    Bug("own key may be missing from the roster", "client_checks.py", "if digests.get(member.client_id) != own:", "if False:"),
    Bug("a roster of any size", "client_checks.py", "if len(participants) < params.quorum:", "if False:"),
    Bug("keys may differ from their digest", "client_checks.py", "if digests.get(client) != advertisement_digest(params, client, body):", "if False:"),
    Bug("neighbours chosen by the server", "client_checks.py", "if tuple(entry.client for entry in roster.neighbours) != expected:", "if False:"),
    Bug("a key may be used twice", "client_checks.py", "if keys.mask_public == keys.seal_public or owners:", "if False:"),
    Bug("announced set without this client", "client_checks.py", "if mine not in clients or not set(clients) <= set(allowed):", "if not set(clients) <= set(allowed):"),
    Bug("announced set with strangers", "client_checks.py", "if mine not in clients or not set(clients) <= set(allowed):", "if mine not in clients:"),
    Bug("announced set below the threshold", "client_checks.py", "if len(clients) < params.quorum:", "if len(clients) < params.quorum - 1:"),
    Bug("a lonely client goes on", "client_checks.py", "if present < params.share_threshold:", "if False:"),
    Bug("boxes need not match the sharers", "client.py", "if tuple(box.client for box in delivery.boxes) != owners:", "if False:"),
    Bug("one signature too few", "client.py", "if len(signers) < params.quorum:", "if len(signers) < params.quorum - 1:"),
    Bug("a signature counts twice", "client.py", "if signers != sorted(set(signers)) or not set", "if not set"),
    Bug("a dropped client's signature counts", "client.py", "or not set(signers) <= set(state.survivors):", "or False:"),
    Bug("signatures on the survivors unchecked", "client.py", "for place in sample_indices(len(signers), checks, entropy):", "for place in ():"),
    Bug("samples always look at the same place", "sampling.py", "other = place + uniform_below(count - place, entropy)", "other = place"),
    Bug("a second reveal is possible", "client.py", "return Done(member, state.survivors), member.sign(Kind.UNMASK", "return state, member.sign(Kind.UNMASK"),
    Bug("statement leaves out the survivors", "views.py", "sharing, to_bitmap(params, survivors))", "sharing)"),
    Bug("statement leaves out the roster", "views.py", "view.digest, to_bitmap(params, sharers))", "to_bitmap(params, sharers))"),
    # What the server believes
    Bug("replies need no signature", "inbound.py", "    verify_signature(\n        params.identity_of(sender),", "    _ = lambda: verify_signature(\n        params.identity_of(sender),"),
    Bug("the kind is not signed", "codec.py", "round_digest, bytes([kind]), u32(sender), hashed", "round_digest, u32(sender), hashed"),
    Bug("a client is counted twice", "server_session.py", "if sender in self._admitted:", "if False:"),
    Bug("a client that left comes back", "server_session.py", "if sender not in state.awaited:", "if False:"),
    Bug("inputs masked for another set are added", "server.py", "if sharing != state.sharing:", "if False:"),
    Bug("another survivor set is confirmed", "server.py", "if message.statement != state.statement:", "if False:"),
    Bug("degenerate keys are admitted", "server.py", "is_degenerate(key) or not is_canonical(key)", "not is_canonical(key)"),
    Bug("keys may have two spellings", "server.py", "is_degenerate(key) or not is_canonical(key)", "is_degenerate(key)"),
    Bug("forwarded keys may have two spellings", "client_checks.py", "if not all(map(is_canonical, offered)):", "if False:"),
    Bug("a dead session keeps its secrets", "client_session.py", "self._state = without_trace(error)", "self._state = error"),
    Bug("the server's frames may be signed", "codec.py", "(SIGNATURE_BYTES if frame.kind % 2 else 0)", "len(frame.signature)"),
    Bug("the slower of two with one key is blamed", "server.py", "tuple(sorted({sender, *owners}))", "(sender,)"),
    Bug("the later of two with one key is blamed", "client_checks.py", "tuple(sorted({client, *owners} - {mine}))", "(client,)"),
    Bug("copied keys are admitted", "server.py", "if offered[0] == offered[1] or owners:", "if offered[0] == offered[1]:"),
    Bug("shares for another roster are admitted", "server.py", "if message.view_digest != state.view.digest:", "if False:"),
    Bug("too few survivors go on", "server.py", "if len(present) < needed:", "if len(present) < needed - 1:"),
    Bug("an aborted round goes on", "server_session.py", "self._dropped, self._state, self._admitted = dropped, error, {}", "self._dropped, self._admitted = dropped, {}"),
    # Frames, sessions, parameters
    Bug("another round's messages are read", "inbound.py", '        ("round", frame.round_digest.hex(), params.digest.hex()),\n', ""),
    Bug("another client's messages are read", "inbound.py", '        ("party", str(frame.party), str(party)),\n', ""),
    Bug("any version is read", "codec.py", "if frame.version != VERSION:", "if False:"),
    Bug("frames need not be canonical", "codec.py", "if data[: len(prefix)] != prefix or", "if False and"),
    Bug("bodies need not be canonical", "codec.py", "if encode_body(parsed) != body:", "if False:"),
    Bug("messages of any size", "codec.py", "if len(data) > limit_bytes:", "if False:"),
    Bug("a failed client goes on", "client_session.py", "            self._state = without_trace(error)\n", "            _ = error\n"),
    Bug("two survivor sets can be signed", "params.py", "if 2 * threshold <= count + colluders:", "if 2 * threshold < count + colluders:"),
    Bug("no room for the digest in front of a vector", "params.py", "(1 << 32) - 1 - DIGEST_BYTES", "(1 << 32) - 1"),
    Bug("the graph ignores the roster", "graph.py", "digest(Label.GRAPH, seed, u32(client))", "digest(Label.GRAPH, u32(client))"),
    Bug("packed sums may spill over", "packing.py", "(self.high - self.low) >= 1 << self.field_bits", "(self.high - self.low) > 1 << self.field_bits"),
)  # fmt: skip
