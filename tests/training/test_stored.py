"""Checkpoints on disk: how they are found, what they hold, and what of them is missing."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.training import stored

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def save(folder, step=5):
    checkpoint = tf.train.Checkpoint(step=tf.Variable(step), model=tf.Module())
    checkpoint.model.kernel = tf.Variable([1.0, 2.0])
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=None).save(step)


def test_newest_is_found_without_the_file_that_names_it(tmp_path):
    for step in (9, 10, 2):
        save(tmp_path, step)
    (tmp_path / "checkpoint").unlink()
    assert stored.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-10")
    assert stored.latest_checkpoint(str(tmp_path / "none")) is None


def test_what_a_path_may_mean(tmp_path):
    path = save(tmp_path)
    for spelling in (str(tmp_path), path, f"{path}.index", f"{path}.data-00000-of-00001"):
        assert stored.resolve_checkpoint(spelling) == path
    (tmp_path / "empty").mkdir()
    with pytest.raises(stored.CheckpointError, match="empty: no checkpoint in this folder"):
        stored.resolve_checkpoint(str(tmp_path / "empty"))
    with pytest.raises(stored.CheckpointError, match=r"ckpt-6: no such checkpoint .* In that folder: .*/ckpt-5\."):
        stored.resolve_checkpoint(str(tmp_path / "ckpt-6"))


def test_variables_of_the_model_have_their_paths_and_are_read_when_asked_for(tmp_path):
    checkpoint = stored.StoredCheckpoint(save(tmp_path))
    assert checkpoint.keys == {"kernel": f"model/kernel{VALUE}"}
    assert checkpoint.model_shapes == {"kernel": (2,)}
    assert not checkpoint.has_averages
    np.testing.assert_array_equal(checkpoint.weights()["kernel"], [1.0, 2.0])
    assert checkpoint.read(f"step{VALUE}") == 5


def test_other_names_can_be_given_to_them(tmp_path):
    checkpoint = stored.StoredCheckpoint(save(tmp_path))
    checkpoint.keys = {"head/weight": f"model/kernel{VALUE}"}
    assert list(checkpoint.weights()) == ["head/weight"]
    np.testing.assert_array_equal(checkpoint.weights(use_averages=True)["head/weight"], [1.0, 2.0])  # it has no average


@pytest.mark.parametrize(
    "present, words",
    [
        ([], r"ckpt-5: this checkpoint has no data, only its index\. Copy the files ckpt-5\.data-\* beside it\."),
        (
            [1, 3],
            r"ckpt-5: 2 of the 4 data files of this checkpoint are missing: ckpt-5\.data-00000-of-00004, "
            r"ckpt-5\.data-00002-of-00004\. Copy all files ckpt-5\.\* from where it was written\.",
        ),
    ],
)
def test_missing_data_files_are_named(tmp_path, present, words):
    path = save(tmp_path)
    data = (tmp_path / "ckpt-5.data-00000-of-00001").rename(tmp_path / "data").read_bytes()
    for number in present:
        (tmp_path / f"ckpt-5.data-0000{number}-of-00004").write_bytes(data)
    with pytest.raises(stored.CheckpointError, match=words):
        stored.StoredCheckpoint(path)


def test_data_files_of_an_earlier_attempt_do_not_matter(tmp_path):
    path = save(tmp_path)
    (tmp_path / "ckpt-5.data-00000-of-00002").write_bytes(b"")
    assert stored.StoredCheckpoint(path).model_shapes == {"kernel": (2,)}
