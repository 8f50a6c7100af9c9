"""Reading GGUF files: what the gguf package reads, bounds checked; a sample of the damaged files of bench.gguf_fuzz."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from ship_models import make_folder

from bench.gguf_fuzz import fuzz
from dozan.errors import InputError
from dozan.model.bundle import open_model
from dozan.ship.gguf import gguf_weight, tensor_names, write_gguf
from dozan.ship.gguf_read import GgufWeights, open_gguf
from dozan.ship.served import read_gguf
from dozan.ship.source import open_source

SAMPLE = 40
"""Of the 10,000 files of `python -m bench.gguf_fuzz`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "plain")


@pytest.mark.parametrize("kind", ["f32", "bf16", "q4_k_m"])
def test_it_reads_what_the_package_reads(kind: str, folder: Path, tmp_path: Path) -> None:
    path = write_gguf(open_model(folder), tmp_path / "m.gguf", kind)
    ours, theirs = open_gguf(path), GGUFReader(path)
    known = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.keys.keys() == known.keys()
    for name, field in known.items():
        value, expected = ours.keys[name], field.contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected, name
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        held = ours.tensors[tensor.name]
        stored = held.stored(0, held.count)
        assert (held.kind, held.columns, stored.size) == (tensor.tensor_type, tensor.shape[0], tensor.n_bytes)
        assert np.array_equal(stored.reshape(-1), tensor.data.reshape(-1).view(np.uint8)), tensor.name


def test_the_weights_of_a_file_are_the_models(folder: Path, tmp_path: Path) -> None:
    bundle = open_model(folder)
    names = tensor_names(bundle.config)
    held = GgufWeights(open_gguf(write_gguf(bundle, tmp_path / "m.gguf", "f32")), names)
    for name, parameter in bundle.model.named_parameters():
        if name != "model.embed_tokens.weight":
            torch.testing.assert_close(held.weight(name), parameter.detach(), atol=1e-6, rtol=0)
    words = gguf_weight(bundle.model.get_submodule("model.embed_tokens"))
    assert held.embedding.shape == tuple(words.shape)
    assert torch.equal(held.embedding.rows([5, 3]), words[[5, 3]])
    assert torch.equal(held.embedding.row_range(7, 9), words[7:9])


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def header(keys: list[bytes], tensors: list[bytes], data: bytes = b"", version: int = 3) -> bytes:
    made = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return made + bytes(-len(made) % 32) + data


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


KEY = string("general.name") + struct.pack("<I", 8) + string("x")
LIST = string("general.list") + struct.pack("<I", 9)
ROW = bytes(128)
DAMAGED = {
    "no GGUF": (b"PK\x03\x04" + bytes(60), "does not start with GGUF"),
    "empty": (b"", "cannot mmap an empty file"),
    "version": (header([], [], version=77), "version 77"),
    "cut in a key": (header([KEY], [])[:40], "ends within its header"),
    "a key twice": (header([KEY, KEY], []), "general.name' twice"),
    "no text": (header([string("a") + struct.pack("<I", 8) + struct.pack("<Q", 2) + b"\xff\xfe"], []), "damaged"),
    "a huge text": (header([string("a") + struct.pack("<IQ", 8, 2**62)], []), "header"),
    "a huge list": (header([LIST + struct.pack("<IQ", 4, 2**60)], []), "a list of 1,152,921,504,606,846,976 items"),
    "a list of lists": (header([LIST + struct.pack("<IQ", 9, 1)], []), "of type 9"),
    "an unknown type": (header([string("a") + struct.pack("<I", 99)], []), "unknown type 99"),
    "an odd alignment": (header([string("general.alignment") + struct.pack("<II", 4, 48)], []), "alignment of 48"),
    "many keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(64), "twice|unknown type|header"),
    "many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0) + bytes(64), "dimensions"),
    "dimensions": (header([], [tensor("w", (1, 1, 1, 1, 1))]), "w has 5 dimensions"),
    "no rows": (header([], [tensor("w", (32, 0))], ROW), r"shape \[32, 0\]"),
    "a type": (header([], [tensor("w", (32,), kind=250)], ROW), "type 250"),
    "a block": (header([], [tensor("w", (33,), kind=8)], ROW), r"shape \[33\]"),
    "an offset": (header([], [tensor("w", (32,), offset=7)], ROW), "offset 7"),
    "beyond the end": (header([], [tensor("w", (32, 2))], ROW), "ends at byte .*, its tensors at"),
    "a tensor twice": (header([], [tensor("w", (32,)), tensor("w", (32,))], ROW), "'w' twice"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_header_is_named(name: str, tmp_path: Path) -> None:
    content, words = DAMAGED[name]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"damaged.gguf: not a readable GGUF file .*({words})"):
        open_gguf(path)


def test_a_whole_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    path.write_bytes(header([KEY, LIST + struct.pack("<IQII", 4, 2, 7, 8)], [tensor("w", (32,))], ROW))
    file = open_gguf(path)
    assert file.keys["general.name"] == "x" and file.keys["general.list"].tolist() == [7, 8]
    assert file.tensors["w"].values(0, 1).shape == (1, 32)
    with pytest.raises(InputError, match="carries no vocabulary"):
        read_gguf(path)


def test_no_damaged_file_takes_dozan_down(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    path = write_gguf(source.bundle, tmp_path / "whole.gguf", "q8_0", pieces=source.pieces)
    found = fuzz(path, tensor_names(source.bundle.config), source.pieces, range(SAMPLE))
    assert found["broken"] == []
    assert found["here"]["refused"] > SAMPLE / 4 and found["child"]["exit 1"] > SAMPLE / 4, "damage that is none"
