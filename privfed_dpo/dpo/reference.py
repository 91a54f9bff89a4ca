"""Log-probabilities under the reference: computed once per pair, kept on disk."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as encode_tensors

from privfed_dpo.data.tokenize import TokenizedPair
from privfed_dpo.dpo.dealing import ALONE, Deal
from privfed_dpo.durable import drafted
from privfed_dpo.exclusive import one_at_a_time
from privfed_dpo.model.adapters import Adapter, Float32Vector
from privfed_dpo.model.pair_batch import length_ordered_batches
from privfed_dpo.model.scorer import PairScorer, RequestedForm

# Changes whenever scores of the same model and pair could change.
_SCORING_VERSION = "1"
_KEY_BYTES = 32

ScorePairs = Callable[[Sequence[TokenizedPair]], npt.NDArray[np.float32]]


@torch.no_grad()
def reference_scores(
    scorer: PairScorer,
    pairs: Sequence[TokenizedPair],
    *,
    micro_batch_pairs: int,
    deal: Deal = ALONE,
) -> npt.NDArray[np.float32]:
    """Scores pairs under the base model, with the adapter switched off.

    Args:
        scorer: the adapter's.
        pairs: any number.
        micro_batch_pairs: most pairs scored at once.
        deal: which of the micro-batches this process takes.

    Returns:
        float32 [n, 2]: log pi_ref of chosen and rejected, of all processes together.

    Raises:
        ModelError: a pair does not fit the model.
    """
    scores = np.zeros((len(pairs), 2), dtype=np.float32)
    with scorer.adapter.disabled():
        for chosen, counts in deal.turns(length_ordered_batches(pairs, micro_batch_pairs)):
            found = scorer.logprobs(scorer.batch([pairs[i] for i in chosen]))
            if counts:
                scores[chosen] = found.cpu().numpy()
    return deal.together(scores)


class ReferenceLogprobs:
    """log pi_ref(chosen | prompt) and log pi_ref(rejected | prompt) of every pair, once.

    The reference is the base model: the adapter is switched off while scoring. Results are
    remembered under a hash of model fingerprint, scoring version and pair key, so a changed
    model, tokenizer or pair can never meet an old value; nor does a value that was computed beside
    other pairs, and owes its last bits to them, meet `micro_batch_pairs` 1. On disk each call that
    computed something adds one file; a file is written whole or not at all, carries a checksum over
    keys and values, and is ignored (its pairs scored again) if the checksum, the fingerprint or a
    shape is wrong. Values that are not finite are returned but never cached.

    The cache holds facts about private pairs: keep `cache_dir` where the pairs themselves are.

    Attributes:
        computed_count: pairs scored by the model so far.
        refused_files: names of cache files that were found broken or foreign.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        fingerprint: str,
        cache_dir: Path | None = None,
        form: RequestedForm = "auto",
        micro_batch_pairs: int = 16,
        scorer: PairScorer | None = None,
        score: ScorePairs | None = None,
    ) -> None:
        """Opens the cache.

        Args:
            adapter: the policy whose base is the reference.
            fingerprint: of the base model and tokenizer (`LoadedModel.fingerprint`).
            cache_dir: folder, made when first needed; None keeps results in memory only.
            form: layout of pairs, see `PairScorer`.
            micro_batch_pairs: most pairs scored at once, by `score` too.
            scorer: this adapter's scorer, if there is one already; takes the place of `form`.
            score: what gives the scores of new pairs, as `reference_scores` does; takes the place
                of `adapter`, `form` and `scorer`.

        Raises:
            ModelError: no exact form for this model.
        """
        if score is None:
            own = scorer or PairScorer(adapter, form)
            score = functools.partial(reference_scores, own, micro_batch_pairs=micro_batch_pairs)
        self._score = score
        alone = "/alone" if micro_batch_pairs == 1 else ""
        self._fingerprint = f"{fingerprint}/{_SCORING_VERSION}{alone}"
        self._folder = None if cache_dir is None else cache_dir / fingerprint[:16]
        self._known: dict[bytes, tuple[float, float]] = {}
        self.computed_count = 0
        self.refused_files: tuple[str, ...] = ()
        self._load()

    def __call__(self, pairs: Sequence[TokenizedPair]) -> npt.NDArray[np.float32]:
        """Scores pairs, from the cache where it can.

        Args:
            pairs: any number.

        Returns:
            float32 [n, 2], row i for pair i.

        Raises:
            ModelError: a pair does not fit the model.
        """
        keys = [self._key(pair) for pair in pairs]
        computed: dict[bytes, Float32Vector] = {}
        if any(key not in self._known for key in keys):
            lock = None if self._folder is None else self._folder / "scoring.lock"
            with one_at_a_time(lock):
                self._load()  # another process may have scored them meanwhile
                computed = self._compute(
                    {k: p for k, p in zip(keys, pairs, strict=True) if k not in self._known}
                )
        rows = [self._known.get(k) or computed[k] for k in keys]
        return np.array(rows, dtype=np.float32).reshape(-1, 2)

    def _compute(self, missing: dict[bytes, TokenizedPair]) -> dict[bytes, Float32Vector]:
        """Score pairs and remember what lasts."""
        fresh = self._score(list(missing.values()))
        self.computed_count += len(missing)
        computed = dict(zip(missing, fresh, strict=True))
        lasting = {k: v for k, v in computed.items() if np.isfinite(v).all()}
        self._known.update({k: (float(v[0]), float(v[1])) for k, v in lasting.items()})
        if lasting and self._folder is not None:
            self._store(self._folder, lasting)
        return computed

    def _key(self, pair: TokenizedPair) -> bytes:
        return hashlib.sha256(f"{self._fingerprint}/{pair.key}".encode()).digest()

    def _checksum(self, keys: bytes, values: bytes) -> str:
        return hashlib.sha256(self._fingerprint.encode() + b"\0" + keys + values).hexdigest()

    def _store(self, folder: Path, entries: dict[bytes, Float32Vector]) -> None:
        keys = np.frombuffer(b"".join(entries), dtype=np.uint8).reshape(-1, _KEY_BYTES)
        values = np.stack(list(entries.values())).astype(np.float32)
        checksum = self._checksum(keys.tobytes(), values.tobytes())
        content = encode_tensors(
            {"keys": keys.copy(), "values": values},
            metadata={"fingerprint": self._fingerprint, "sha256": checksum},
        )
        folder.mkdir(parents=True, exist_ok=True)
        with drafted(folder / f"{checksum[:32]}.safetensors") as draft:
            draft.write_bytes(content)

    def _load(self) -> None:
        if self._folder is None or not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.safetensors")):
            if not self._load_file(path) and path.name not in self.refused_files:
                self.refused_files += (path.name,)

    def _load_file(self, path: Path) -> bool:
        try:
            with safe_open(path, framework="numpy") as file:
                found = file.metadata() or {}
                keys, values = file.get_tensor("keys"), file.get_tensor("values")
        except (SafetensorError, OSError, ValueError):
            return False
        fits = (
            keys.dtype == np.uint8
            and values.dtype == np.float32
            and keys.shape == (len(values), _KEY_BYTES)
            and values.shape == (len(keys), 2)
            and found.get("fingerprint") == self._fingerprint
            and found.get("sha256") == self._checksum(keys.tobytes(), values.tobytes())
        )
        if fits:
            self._known.update(
                (key.tobytes(), (float(pair[0]), float(pair[1])))
                for key, pair in zip(keys, values, strict=True)
            )
        return fits
