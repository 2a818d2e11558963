"""Reading texts: every kind of file, and everything that can be wrong with one."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from armillary.core import texts
from armillary.core.texts import TextErrors, TextFiles, add_to_fingerprint, checked, read_documents
from armillary.core.tokens import Document
from armillary.errors import CorruptFileError, InputError, MissingExtraError, TextError, UnknownNameError


def read(*paths: object, **settings: Any) -> list[Document]:
    return list(read_documents([str(path) for path in paths], **settings))


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("naïve\n", encoding="utf-8")
    (document,) = read(tmp_path / "a.txt")
    assert document == Document("naïve\n", str(tmp_path / "a.txt"))


def test_any_other_ending_is_text(tmp_path: Path) -> None:
    for name in ("a.md", "b.py", "c.rst", "d.weird", "Makefile"):
        (tmp_path / name).write_text(name)
    assert [document.text for document in read(tmp_path)] == ["Makefile", "a.md", "b.py", "c.rst", "d.weird"]


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read(tmp_path / "a.txt")[0].text == "hello"


def test_folders_are_read_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".git/x.txt", "b/.hidden", "__pycache__/y.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = read(f"{tmp_path}/")
    assert [document.text for document in found] == ["a.txt", "b/1.txt", "b/2.txt"]
    assert found[1].name == f"{tmp_path}/b/1.txt"


def test_an_empty_file_in_a_folder_is_counted_not_refused(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "a.py").write_text("x = 1")
    errors = TextErrors()
    assert len(list(read_documents([str(tmp_path)], errors=errors))) == 1
    assert errors.counts() == {"skipped": 1, "replaced": 0}


def test_jsonl_lines_are_documents_with_labels(tmp_path: Path) -> None:
    rows = [{"text": "one", "kind": "a", "n": 3, "deep": {"x": 1}}, {"text": "two\nlines", "ok": True}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read(tmp_path / "a.jsonl")
    assert first.text == "one" and dict(first.labels) == {"kind": "a", "n": "3"} and first.name == f"{tmp_path}/a.jsonl:1"
    assert second.text == "two\nlines" and dict(second.labels) == {"ok": "True"}


def test_the_text_field_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "hi", "text": "no"}')
    (document,) = read(tmp_path / "a.jsonl", text_field="content")
    assert document.text == "hi" and dict(document.labels) == {"text": "no"}


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(600)], "kind": ["a"] * 600}), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert len(found) == 600 and found[599].text == "row 599" and dict(found[0].labels) == {"kind": "a"}
    assert found[599].name.endswith(":599")


PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": lambda data: zstandard.ZstdCompressor().compress(data)}


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_are_unpacked(tmp_path: Path, ending: str) -> None:
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["row"]}), parquet)
    for name, data in {"a.txt": b"text", "b.jsonl": b'{"text": "line"}', "c.parquet": parquet.getvalue()}.items():
        (tmp_path / f"{name}{ending}").write_bytes(PACKERS[ending](data))
    assert [document.text for document in read(tmp_path)] == ["text", "line", "row"]


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: b"junk" + data])
def test_damaged_packed_files_are_named(tmp_path: Path, ending: str, harm: Callable[[bytes], bytes]) -> None:
    data = PACKERS[ending](bytes(range(32, 127)) * 9000)
    (tmp_path / f"a.txt{ending}").write_bytes(harm(data))
    with pytest.raises(CorruptFileError, match=rf"a\.txt{ending}.*fetch it again"):
        read(tmp_path / f"a.txt{ending}")


def test_frames_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(PACKERS[".zst"](b'{"text": "%d"}\n' % i) for i in range(3)))
    assert [document.text for document in read(tmp_path / "a.jsonl.zst")] == ["0", "1", "2"]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(CorruptFileError, match=r"a\.parquet"):
        read(tmp_path / "a.parquet")


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("piped ü".encode())))
    assert read("-") == [Document("piped ü", "stdin")]


def test_remote_paths() -> None:
    with fsspec.open("memory://corpus/a.txt", "wb") as file:
        file.write(b"far away")
    assert read("memory://corpus/a.txt")[0].text == "far away"
    assert read("memory://corpus")[0].text == "far away"


def test_long_files_are_cut_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PIECE_BYTES", 1000)
    whole = "".join(f"line {i} with ü and 🙂\n" for i in range(400)) + "🙂" * 2000
    (tmp_path / "a.txt").write_text(whole, encoding="utf-8")
    found = read(tmp_path / "a.txt")
    assert "".join(document.text for document in found) == whole
    assert max(len(document.data) for document in found) < 2000 and len(found) > 10
    assert all(document.text.endswith("\n") for document in found[:9])
    assert [document.name.rpartition("a.txt")[2] for document in found[:3]] == ["", "#2", "#3"]


# ---------------------------------------------------------------- bad input


BAD = b"good \xff\xfe bad"


def test_invalid_utf8_stops_with_file_and_offset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(BAD)
    with pytest.raises(TextError, match=r"a\.txt' is not UTF-8: byte 0xff at offset 5; use --on-error replace") as caught:
        read(tmp_path / "a.txt")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(("on_error", "expected", "counts"), [
    ("skip", ["fine"], {"skipped": 1, "replaced": 0}),
    ("replace", ["good \ufffd\ufffd bad", "fine"], {"skipped": 0, "replaced": 1}),
])  # fmt: skip
def test_invalid_utf8_can_be_skipped_or_replaced(tmp_path: Path, on_error: Any, expected: list[str], counts: dict[str, int]) -> None:
    (tmp_path / "a.txt").write_bytes(BAD)
    (tmp_path / "b.txt").write_text("fine")
    files = TextFiles([str(tmp_path)], on_error=on_error)
    assert [document.text for document in files] == expected
    assert files.errors.counts() == counts and "offset 5" in files.errors.first


def test_the_offset_counts_from_the_start_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PIECE_BYTES", 100)
    (tmp_path / "a.txt").write_bytes(b"0123456789\n" * 50 + b"\xff")
    with pytest.raises(TextError, match="offset 550;"):
        read(tmp_path / "a.txt")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    with pytest.raises(TextError, match="offset 24;"):
        read(tmp_path / "b.jsonl")


@pytest.mark.parametrize(("name", "data", "complaint"), [
    ("a.txt", b"", "is empty"),
    ("a.txt", b" \n\t\n", "is empty"),
    ("a.jsonl", b"", "is empty"),
    ("a.jsonl", b'{"text": ""}\n', r"a\.jsonl:1' is empty"),
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2' is not JSON"),
    ("a.jsonl", b'{"content": "a", "id": 3}\n', r"no text in field 'text' \(fields: content, id; choose one with --text-field\)"),
    ("a.jsonl", b'{"text": 3}\n', "no text in field 'text'"),
    ("a.jsonl", b'"just a string"\n', "no text in field 'text'"),
    ("a.jsonl", b'{"text": "half a pair \\ud83d"}\n', "character 12 is a lone surrogate"),
])  # fmt: skip
def test_unusable_texts_stop_or_are_skipped(tmp_path: Path, name: str, data: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TextError, match=complaint) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
    errors = TextErrors("skip")
    list(read_documents([str(tmp_path / name)], errors=errors))
    assert errors.skipped == 1


def test_lone_surrogates_can_be_replaced() -> None:
    (document,) = checked(["a\ud83db"], TextErrors("replace"))
    assert document.text == "a?b"


def test_texts_in_memory_are_checked() -> None:
    assert [document.text for document in checked("one text", TextErrors())] == ["one text"]
    assert list(checked(["a", Document("b", "n")], TextErrors())) == [Document("a"), Document("b", "n")]
    with pytest.raises(TextError, match="text 1 is empty"):
        list(checked(["a", ""], TextErrors()))
    with pytest.raises(TextError, match="n is empty"):
        list(checked([Document(" ", "n")], TextErrors()))


def test_a_missing_file_comes_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"no file or folder at '.*/note\.txt'\. Did you mean '.*/notes\.txt'\?"):
        read(tmp_path / "note.txt")
    with pytest.raises(InputError, match="no file or folder"):
        read(tmp_path / "no" / "such" / "folder.txt")


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"'skp'\. Did you mean 'skip'"):
        TextErrors("skp")  # type: ignore[arg-type]


def test_missing_packages_are_named_with_their_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"x")
    (tmp_path / "a.txt.zst").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    for path, extra in ((tmp_path / "a.parquet", "parquet"), (tmp_path / "a.txt.zst", "zst"), ("datasets:x", "datasets")):
        with pytest.raises(MissingExtraError, match=rf"armillary\[{extra}\]"):
            read(path)


def test_data_sets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(*args: object, **settings: object) -> list[dict[str, str]]:
        calls.append((args, settings))
        return [{"text": "a"}, {"text": "b"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert [document.name for document in read("datasets:user/name")] == ["datasets:user/name:0", "datasets:user/name:1"]
    read("datasets:user/name:config:validation")
    assert calls[0] == (("user/name", None), {"split": "train", "streaming": True})
    assert calls[1] == (("user/name", "config"), {"split": "validation", "streaming": True})


# ---------------------------------------------------------------- again and again


def test_text_files_can_be_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(BAD)
    files = TextFiles([str(tmp_path / "a.txt")], on_error="replace")
    assert list(files) == list(files) and files.errors.replaced == 1, "counts are of the latest reading"


def test_the_fingerprint_depends_on_texts_and_their_order() -> None:
    def of(*found: str) -> str:
        fingerprint = ""
        for text in found:
            fingerprint = add_to_fingerprint(fingerprint, Document(text))
        return fingerprint

    assert of("a", "b") == of("a", "b")
    assert len({of("a", "b"), of("b", "a"), of("ab"), of("a"), of("a", "b", "b")}) == 5
