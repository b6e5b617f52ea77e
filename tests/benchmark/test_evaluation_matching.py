import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_evaluation import best_total

from luss.benchmark.matching import checked_matching, hungarian, identity, load_matching, save_matching
from luss.errors import LussError


@given(st.integers(1, 5), st.integers(0, 10_000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_matching_reaches_the_largest_total_also_among_ties(size, seed, with_quality):
    generator = np.random.default_rng(seed)
    table = generator.integers(0, 3, (size, size))
    matching = hungarian(table, generator.random((size, size)) if with_quality else None)
    assert sorted(matching) == sorted(matching.values()) == list(range(size + 1))
    assert sum(table[i - 1, j - 1] for i, j in matching.items() if i) == best_total(table)


def test_quality_decides_among_matchings_of_the_same_number_of_images():
    table = np.full((2, 2), 5)
    assert hungarian(table, np.array([[0.1, 0.2], [0.2, 0.1]])) == {0: 0, 1: 2, 2: 1}
    assert hungarian(table, np.array([[0.2, 0.1], [0.1, 0.2]])) == {0: 0, 1: 1, 2: 2}


def test_one_more_image_outweighs_any_quality():
    table = np.array([[1, 0], [0, 0]])
    assert hungarian(table, np.array([[0.0, 1.0], [1.0, 0.0]])) == identity(2)


def test_a_saved_matching_loads_as_it_was(tmp_path):
    matching = {0: 0, 1: 3, 2: 1, 3: 2}
    save_matching(tmp_path / "match.json", matching)
    assert load_matching(tmp_path / "match.json", 3) == matching


def test_a_matching_file_may_leave_out_background(tmp_path):
    (tmp_path / "match.json").write_text(json.dumps({"2": 1, "1": 2}))
    assert load_matching(tmp_path / "match.json", 2) == {0: 0, 1: 2, 2: 1}


@pytest.mark.parametrize(
    ("matching", "fault"),
    [
        ({1: 1}, "cluster 2 is missing"),
        ({1: 2, 2: 2}, "clusters 1 and 2 both have category 2"),
        ({1: 1, 2: 3}, "cluster 2 has category 3"),
        ({1: 1, 2: 2, 3: 3}, "cluster 3 is outside"),
        ({1: 1, 2: "2"}, "category '2'"),
        ({0: 1, 1: 0, 2: 2}, "cluster 0 is background"),
    ],
)
def test_what_is_no_one_to_one_matching_is_refused_with_its_faults(matching, fault):
    with pytest.raises(LussError, match=fault):
        checked_matching(matching, 2)


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"one": 1}'])
def test_a_file_that_holds_no_matching_is_named(tmp_path, text):
    (tmp_path / "match.json").write_text(text)
    with pytest.raises(LussError, match=r"match\.json"):
        load_matching(tmp_path / "match.json", 1)
