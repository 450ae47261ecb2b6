"""Sound images of every kind are read, broken ones of every kind refused, and nothing stops. Longer: the programs
`tests.faults.clean_images` and `tests.faults.fuzz_images`."""

import random
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.images.sandbox import Sandbox
from tests.faults.clean_images import KINDS, find_refused
from tests.faults.fuzz_images import SEEDS, mutate, see_native_death, try_image


@pytest.fixture(scope="module")
def reader():
    with Sandbox() as reader:
        yield reader


def test_no_sound_image_is_set_aside():
    assert find_refused(500) == []


@pytest.mark.parametrize("kind", KINDS)
def test_fault_51_no_broken_image_stops_anything(kind, reader):
    """A fixed sequence, so that a failure repeats; the decoder itself neither dies nor hangs over one of these."""
    chance = random.Random(kind)
    files = SEEDS[list(KINDS).index(kind) :: len(KINDS)]
    counts = Counter(try_image(reader, mutate(chance.choice(files), chance)) for _ in range(700))
    assert not {"decoder_crashed", "decoder_hung"} & set(counts)
    assert len(counts) > 3


@settings(max_examples=250, deadline=None, database=None, derandomize=True)
@given(seed=st.sampled_from(SEEDS), cut=st.floats(0, 1), noise=st.binary(max_size=60), number=st.integers(0, 2**32))
def test_fault_51_spliced_noise_stops_nothing(reader, seed, cut, noise, number):
    place = int(cut * len(seed))
    try_image(reader, mutate(seed[:place] + noise + seed[place:], random.Random(number)))


def test_an_exception_that_no_reader_catches_is_not_taken_for_a_broken_image():
    with pytest.raises(AssertionError, match=r"not of native code: (.|\n)*IndexError: list index"):
        see_native_death(SEEDS[0], "[][0]")
    see_native_death(SEEDS[0], "import os; os.kill(os.getpid(), 9)")
    dying = (sys.executable, "-c", "import socket; socket.socket(fileno=0).sendall(b'+')")
    with Sandbox(command=dying) as reader, pytest.raises(AssertionError, match="alone, the file is read"):
        try_image(reader, SEEDS[0])
