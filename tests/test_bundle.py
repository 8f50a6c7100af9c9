"""Opening a run, an adapter, a folder: what belongs together, and tokenizers that do not fit the embedding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from oracles import gemma3 as oracle
from ship_models import VOCAB, make_folder, make_run

from dozan.chat import FUNCTIONGEMMA, GEMMA3
from dozan.errors import InputError
from dozan.model.adapter import adapted
from dozan.model.bundle import Bundle, assert_embeddable, open_model
from dozan.model.weights import load_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", base, dora=True)


def logits(bundle: Bundle) -> torch.Tensor:
    with torch.no_grad():
        return oracle.our_logits(bundle.model, torch.arange(2, 60))


def test_a_folder_opens_in_float32_for_evaluation(base: Path) -> None:
    bundle = open_model(str(base))
    assert (bundle.base_folder, bundle.adapter_folder, bundle.chat) == (base, None, FUNCTIONGEMMA)
    assert bundle.config is bundle.model.config and bundle.config.vocab_size == VOCAB
    assert bundle.model.embedding.dtype == torch.float32 and not bundle.model.training
    assert bundle.tokenizer.decode(bundle.tokenizer.encode("شغل الضوء")) == "شغل الضوء"
    assert open_model(base, dtype="bfloat16").model.embedding.dtype == torch.bfloat16
    assert open_model(base, chat="gemma3").chat is GEMMA3


def test_a_run_opens_with_its_adapter_or_as_its_base(base: Path, run: Path) -> None:
    tuned, plain = open_model(run), open_model(run, with_adapter=False)
    assert (tuned.base_folder, tuned.adapter_folder) == (base, run / "adapter")
    assert adapted(tuned.model) and not any(module.training for module in tuned.model.modules())
    assert plain.adapter_folder is None and not adapted(plain.model)
    assert torch.equal(logits(plain), logits(open_model(base)))
    assert oracle.relative(logits(tuned), logits(plain)) > 1e-2


def test_an_adapter_folder_opens_as_its_run_does(run: Path, tmp_path: Path) -> None:
    tuned = logits(open_model(run))
    assert torch.equal(logits(open_model(run / "adapter")), tuned)
    shutil.copytree(run / "adapter", tmp_path / "alone")
    bundle = open_model(tmp_path / "alone")
    assert torch.equal(logits(bundle), tuned) and bundle.adapter_folder == tmp_path / "alone"
    config = tmp_path / "alone" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(InputError, match="base_model_name_or_path is None"):
        open_model(tmp_path / "alone")


def test_the_chat_format_is_the_one_of_the_run(run: Path, tmp_path: Path) -> None:
    record = run / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "chat": "gemma3"}))
    step = run / "checkpoints" / "step-000010"
    shutil.copytree(run / "adapter", step)
    assert all(open_model(path).chat is GEMMA3 for path in (run, run / "adapter", step))
    assert open_model(run, chat="functiongemma").chat is FUNCTIONGEMMA


def test_a_run_without_a_final_adapter_says_so(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    with pytest.raises(InputError, match="no adapter/ yet"):
        open_model(run)
    assert open_model(run, with_adapter=False).adapter_folder is None


def test_control_tokens_beyond_the_embedding_are_allowed_and_unreachable(tmp_path: Path) -> None:
    bundle = open_model(make_folder(tmp_path, extra=2))
    assert bundle.tokenizer.size == VOCAB + 2
    ids = bundle.tokenizer.encode("<unused900> <unused901> شغل")
    assert max(ids) < VOCAB
    assert_embeddable(ids, bundle.config)
    with pytest.raises(AssertionError, match=f"id {VOCAB} has no row"):
        assert_embeddable([1, VOCAB], bundle.config)


def test_text_tokens_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    small = make_folder(tmp_path / "small", vocab_size=VOCAB - 3)
    load_model(small)
    shutil.copy(folder / "tokenizer.json", small)
    with pytest.raises(InputError, match=f"3 tokens of the tokenizer lie beyond the embedding's {VOCAB - 3} rows"):
        open_model(small)


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_model(tmp_path / "nothing" / "here")
    with pytest.raises(InputError, match=r"config\.json: no such file|tokenizer\.json: no such file"):
        open_model(tmp_path)
