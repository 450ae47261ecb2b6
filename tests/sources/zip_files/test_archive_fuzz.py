"""Zip files damaged at random; `python -m tests.faults.fuzz_archives --minutes 10` goes on for longer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sources.zip_files.zip_mutations import KINDS, SAMPLES, TELLING, Mutation, check, damage

MUTATIONS = st.builds(
    Mutation,
    st.sampled_from(KINDS),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.sampled_from(TELLING), st.integers(0, 2**64 - 1)),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "images.zip"


@pytest.mark.parametrize("sample", range(len(SAMPLES)))
def test_the_samples_are_sound(file, sample):
    assert check(SAMPLES[sample], file)


DAMAGES = {"sample": st.integers(0, len(SAMPLES) - 1), "mutations": st.lists(MUTATIONS, min_size=1, max_size=4)}


@settings(max_examples=1000, deadline=None, database=None, derandomize=True)
@given(**DAMAGES)
def test_whatever_is_damaged_the_input_is_to_blame(file, sample, mutations):
    check(damage(sample, mutations), file)


@pytest.mark.system
@settings(max_examples=2500, deadline=None, database=None, derandomize=True)
@given(**DAMAGES)
def test_more_damages_are_blamed_on_the_input(file, sample, mutations):
    check(damage(sample, mutations), file)


@pytest.mark.parametrize("sample", range(len(SAMPLES)))
def test_every_byte_of_a_header_may_be_wrong(file, sample):
    content = SAMPLES[sample]
    for place in range(len(content)):
        for value in (0xFF, content[place] ^ 1):
            check(content[:place] + bytes([value]) + content[place + 1 :], file)
