import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_dpo.engine.summing import choose_gradient_sums


@pytest.mark.parametrize(
    ("dimension", "micro_batch", "memory", "method"),
    [
        (10**6, 32, None, "rows"),  # 128 MB of rows
        (2**25, 32, None, "rows"),  # 4 GiB to the byte
        (2**25 + 1, 32, None, "two_pass"),
        (2**20, 8, 2**26, "rows"),  # 8 rows of 4 MiB fill half of 64 MiB
        (2**20, 9, 2**26, "two_pass"),
        (2**20, None, 2**26, "rows"),  # as for 8 pairs
        (2**20 + 1, None, 2**26, "two_pass"),
    ],
)
def test_rows_are_kept_while_they_fill_at_most_half_of_the_memory(
    dimension, micro_batch, memory, method
):
    found = choose_gradient_sums(
        dimension=dimension, micro_batch_pairs=micro_batch, memory_bytes=memory
    )
    assert found.method == method


def test_what_is_kept_by_hand():
    rows = choose_gradient_sums(dimension=10, micro_batch_pairs=3, memory_bytes=None)
    assert rows.gradient_bytes == 3 * 10 * 4 + 10 * 8
    two = choose_gradient_sums(
        dimension=10, micro_batch_pairs=3, memory_bytes=None, wanted="two_pass"
    )
    assert (two.method, two.gradient_bytes) == ("two_pass", 80)


@given(st.integers(1, 2**30), st.integers(1, 512), st.integers(1, 2**36))
def test_more_memory_never_asks_for_a_second_pass(dimension, pairs, memory):
    less, more = (
        choose_gradient_sums(dimension=dimension, micro_batch_pairs=pairs, memory_bytes=bytes_)
        for bytes_ in (memory, 2 * memory)
    )
    assert (less.method, more.method) != ("rows", "two_pass")
