"""Folders that are whole or not there, what their manifests guard, and those of other formats."""

import pickle
import re

import pytest
from helpers import rewrite_manifest

from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.folders import (
    FORMAT,
    CorruptedError,
    FormatError,
    atomic_folder,
    remove_drafts,
    verify_manifest,
    write_manifest,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_manifests_guard_folders_of_any_shape(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"123")
    (tmp_path / "d").write_bytes(b"")
    write_manifest(tmp_path, {"x": 1})
    assert verify_manifest(tmp_path) == {"x": 1}
    (tmp_path / "d").write_bytes(b"1")
    with pytest.raises(CorruptedError, match="d has 1 bytes instead of 0"):
        verify_manifest(tmp_path)


def test_a_folder_has_its_name_when_it_is_whole(tmp_path):
    with atomic_folder(tmp_path / "deep" / "one", {"x": 1}) as draft:
        (draft / "file").write_text("content")
        assert not (tmp_path / "deep" / "one").exists()
    assert names(tmp_path / "deep") == ["one"]
    assert names(tmp_path / "deep" / "one") == ["file", "manifest.json"]
    assert verify_manifest(tmp_path / "deep" / "one") == {"x": 1}
    with atomic_folder(tmp_path / "plain"):
        pass
    assert names(tmp_path / "plain") == []


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_no_draft_and_what_was_there(tmp_path, error):
    def fail(**named):
        with atomic_folder(tmp_path / "one", {}, **named) as draft:
            (draft / "file").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []
    with atomic_folder(tmp_path / "one", {"x": 1}):
        pass
    with pytest.raises(error):
        fail(replace=True)
    assert names(tmp_path) == ["one"]
    assert verify_manifest(tmp_path / "one") == {"x": 1}


def test_only_what_is_to_be_replaced_is(tmp_path):
    def write(number, **named):
        with atomic_folder(tmp_path / "one", {"x": number}, **named):
            pass

    # Left by crashes: a draft, and a folder that was being removed.
    for name in ("one.part", "one.old.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("half")
    write(1)
    with pytest.raises(OSError, match="one"):
        write(2)
    assert verify_manifest(tmp_path / "one") == {"x": 1}
    write(3, replace=True)
    assert verify_manifest(tmp_path / "one") == {"x": 3}
    assert names(tmp_path) == ["one"]


def test_drafts_that_crashes_have_left_can_be_removed(tmp_path):
    for name in ("one", "two.part", "three.old.part", "thesis.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("content")
    ours = re.compile("one|two|three")
    remove_drafts(tmp_path, ours)
    assert names(tmp_path) == ["one", "thesis.part"]
    remove_drafts(tmp_path / "nowhere", ours)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize(("number", "version"), [(FORMAT + 1, "a newer"), (FORMAT - 1, "an older")])
def test_another_format_is_no_damage(tmp_path, number, version, checksum):
    """Nor is it when other formats have checksums of another kind."""
    write_manifest(tmp_path, {})
    rewrite_manifest(tmp_path, lambda content: content.update(format=number), checksum=checksum)
    with pytest.raises(FormatError) as caught:
        verify_manifest(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} was written in format {number} by {version} version of mnemonics_jax; this one reads format "
        f"{FORMAT}: use the version that wrote it, or choose another folder"
    )
    assert isinstance(caught.value, UserError)
    assert not isinstance(caught.value, CorruptedError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_manifests_without_a_number_are_of_older_versions(tmp_path):
    write_manifest(tmp_path, {})
    rewrite_manifest(tmp_path, lambda content: content.pop("format"))
    message = f"without a format number by an older version of mnemonics_jax; this one reads format {FORMAT}: use"
    with pytest.raises(FormatError, match=message):
        verify_manifest(tmp_path)


@pytest.mark.parametrize(
    "change", [lambda content: content.pop("format"), lambda content: content.update(format="1")], ids=["none", "text"]
)
def test_a_number_that_damage_has_taken_is_damage(tmp_path, change):
    write_manifest(tmp_path, {})
    rewrite_manifest(tmp_path, change, checksum=False)
    with pytest.raises(CorruptedError, match=r"manifest\.json is damaged"):
        verify_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "1", "{}", '{"checksum": 1}', "[" * 100_000])
def test_what_is_no_manifest_is_damage(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CorruptedError, match=r"manifest\.json is damaged"):
        verify_manifest(tmp_path)
