import numpy as np
import pytest

from hip_mri.dataset.table_files import load_array


def test_an_error_of_the_interpreter_is_tried_again(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.arange(5))
    load, errors = np.load, [SystemError("AST constructor recursion depth mismatch")] * 3

    def fail_first(*arguments, **options):
        if errors:
            raise errors.pop()
        return load(*arguments, **options)

    monkeypatch.setattr(np, "load", fail_first)
    assert load_array(tmp_path / "a.npy").tolist() == [0, 1, 2, 3, 4]
    assert not errors


def test_a_lasting_error_is_raised(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise SystemError

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(SystemError):
        load_array(tmp_path / "a.npy")


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_array(tmp_path / "a.npy")
