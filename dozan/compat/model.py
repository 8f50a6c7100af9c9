"""The model as notebooks hold it: what was chosen for training, the run that came of it, and what is asked of either.

Weights are read when they are needed: the first answer opens the model, training reads the base itself.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from dozan.compat.arguments import GENERATE, SAVING_CALLS
from dozan.compat.generation import DEFAULT_NEW_TOKENS, Draw, Streamer, generate_ids
from dozan.compat.recipes import ModelSettings
from dozan.compat.say import say, weigh
from dozan.compat.tokenizer import ChatTokenizer, require_device
from dozan.errors import InputError
from dozan.kernels.precision import training_dtype
from dozan.model.adapter import state_shapes
from dozan.model.bundle import Bundle, open_model
from dozan.model.full_format import MODEL
from dozan.model.gemma3 import Gemma3Config
from dozan.model.half import require_float16
from dozan.model.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from dozan.model.weights import empty_model
from dozan.recipe import AdapterRecipe
from dozan.ship.push import TOKEN, Parcel
from dozan.train.prepare import training_device

_QUANTISED: dict[Any, str] = {"fast_quantized": "q8_0", "quantized": "q4_k_m", "not_quantized": "bf16", None: "q8_0"}


class Model:
    """What `FastModel.from_pretrained` gives. `base`: the name that training is told; `trained`: the run, its
    checkpoint or the adapter folder that answers and is saved, None while there is only the base."""

    def __init__(
        self, base: str, folder: Path, config: Gemma3Config, tokenizer: ChatTokenizer, settings: ModelSettings,
        trained: Path | None = None, token: str | None = None,
    ) -> None:  # fmt: skip
        self.base, self.folder, self.config, self.tokenizer = base, folder, config, tokenizer
        self.settings, self.trained, self.token = settings, trained, token
        self.was_opened_trained = trained is not None
        self._bundle: Bundle | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return training_device()

    @property
    def dtype(self) -> torch.dtype:
        """What answers are computed in: on a GPU what was asked for or suits it, on a CPU float32."""
        if self.device.type != "cuda":
            return torch.float32
        named = self.settings.dtype
        return training_dtype(self.device) if named is None else getattr(torch, named)

    @property
    def bundle(self) -> Bundle:
        """The opened model, with its adapter if it was trained."""
        if self._bundle is None:
            if self.trained is None and self.settings.full is False and self.settings.adapter is not None:
                say("nothing is trained yet: the base answers")
            path, quantise = self.trained or self.base, "nf4" if self.settings.quantise == "nf4" else "auto"
            with hub_token(self.token):
                self._bundle = open_model(
                    path, self.dtype, chat=self.tokenizer.chat.name, device=self.device,
                    quantise=quantise,  # type: ignore[arg-type]
                )  # fmt: skip
            require_float16(self._bundle.model, self.folder)
        return self._bundle

    def close(self) -> None:
        """Let go of the weights; they are read again when they are asked for."""
        self._bundle = None

    def has_trained(self, run: Path, checkpoint: Path | None = None) -> None:
        """What answers and is saved from now on: a run, or one of its checkpoints."""
        self.close()
        self.trained = checkpoint or run

    def eval(self) -> Model:
        """Itself: it is ready to answer."""
        return self

    def train(self, mode: bool = True) -> Model:
        """Itself; training is the trainer's."""
        return self

    def to(self, device: object) -> Model:
        """Itself, which is where PyTorch's GPU is, else on the CPU; another place is said to change nothing. Raises
        InputError for a GPU that is not there, and for a dtype."""
        if isinstance(device, torch.dtype):
            raise InputError(f"model.to({device}): the dtype is chosen before: from_pretrained(dtype={device})")
        require_device(device)
        asked, own = torch.device(device if isinstance(device, int) else str(device)), self.device
        if asked.type != own.type or asked.index not in (None, own.index or 0):
            say(f"model.to({str(device)!r}) changes nothing: the model is on {own}, the GPU that PyTorch chose; to "
                "choose another, or none: CUDA_VISIBLE_DEVICES")  # fmt: skip
        return self

    cuda = for_training = for_inference = eval

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Numbers in the weights, or in what is trained."""
        shell = empty_model(self.config)
        whole = sum(parameter.numel() for parameter in shell.parameters())
        if not only_trainable or self.settings.full:
            return whole
        if self.settings.adapter is None:
            return 0
        shapes = state_shapes(shell, AdapterRecipe.model_validate(self.settings.adapter))
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    def print_trainable_parameters(self) -> None:
        """Says how many numbers are trained."""
        trained, whole = self.num_parameters(only_trainable=True), self.num_parameters()
        print(f"trainable params: {trained:,} || all params: {whole:,} || trainable%: {100 * trained / whole:.4f}")

    def generate(
        self, input_ids: Any = None, inputs: Any = None, attention_mask: Any = None, token_type_ids: Any = None,
        max_new_tokens: int | None = None, max_length: int | None = None, do_sample: bool | None = None,
        temperature: float | None = None, top_p: float | None = None, top_k: int | None = None,
        min_p: float | None = None, repetition_penalty: float | None = None,
        eos_token_id: int | Sequence[int] | None = None, pad_token_id: int | None = None,
        streamer: Streamer | None = None, **more: Any,
    ) -> Tensor:  # fmt: skip
        """Prompts [B, T] and their answers as int64 [B, T + N]; each answer ends with its stop token, ended rows are
        filled with padding. Raises InputError for what is not offered or out of range."""
        given = {key: value for key, value in locals().items() if key not in ("self", "more", "__class__")} | more
        weigh("generate", GENERATE, given)
        prompt = input_ids if input_ids is not None else inputs
        if isinstance(prompt, Mapping):  # what the tokenizer gives, as a whole
            attention_mask = prompt.get("attention_mask") if attention_mask is None else attention_mask
            prompt = prompt.get("input_ids")
        ids = _matrix(prompt)
        mask = torch.ones_like(ids) if attention_mask is None else _matrix(attention_mask)
        prompts = [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
        longest = max(map(len, prompts))
        left = DEFAULT_NEW_TOKENS if max_length is None else max_length - longest
        most = left if max_new_tokens is None else max_new_tokens
        if most < 1:
            raise InputError(f"generate: room for {most} new tokens (max_new_tokens={max_new_tokens}, max_length="
                             f"{max_length}, the prompt has {longest}); give max_new_tokens from 1 up")  # fmt: skip
        bundle, tokens = self.bundle, self.tokenizer.tokens
        stops = {tokens.id(token) for token in self.tokenizer.chat.stop_tokens if tokens.has(token)}
        if eos_token_id is not None:
            stops = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id)
        draw = Draw.of(given, _generation_config(self.folder))
        if not draw.sample and do_sample is None and not {temperature, top_p, top_k, min_p} <= {None}:
            say("generate: temperature, top_p, top_k and min_p need do_sample=True: this checkpoint's "
                "generation_config.json does not draw")  # fmt: skip
        found = generate_ids(bundle.model, prompts, most, stops, draw, streamer)
        width = max(map(len, found))
        pad = self.tokenizer.pad_token_id if pad_token_id is None else pad_token_id
        new = torch.tensor([row + [pad] * (width - len(row)) for row in found], dtype=torch.int64)
        return torch.cat((ids, new), dim=1).to(prompt.device if isinstance(prompt, Tensor) else "cpu")

    def save_pretrained(self, save_directory: str | Path, **more: Any) -> None:
        """The adapter in PEFT's format; of a run that trained every weight its folder as transformers reads it.

        Raises InputError while nothing is trained.
        """
        weigh("save_pretrained", SAVING_CALLS["save_pretrained"], more)
        run, out = self._run(), Path(save_directory)
        out.mkdir(parents=True, exist_ok=True)
        if (run / MODEL).is_dir():
            files = [path for path in (run / MODEL).iterdir() if path.is_file()]
        else:
            folder = run if (run / ADAPTER_CONFIG).is_file() else run / "adapter"
            files = [folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS]
        for file in files:
            if file.resolve() != (out / file.name).resolve():
                shutil.copyfile(file, out / file.name)

    def save_pretrained_merged(
        self, save_directory: str | Path, tokenizer: Any = None, save_method: str = "merged_16bit", **more: Any
    ) -> None:
        """The base with the adapter merged in, measured, and the base's tokenizer; or the adapter alone (lora).

        Raises InputError as `dozan.merge`, ExportFailed when the folder does not compute what was trained.
        """
        weigh("save_pretrained_merged", SAVING_CALLS["save_pretrained_merged"], more)
        method = save_method.lower().replace(" ", "_")
        if method == "lora":
            self.save_pretrained(save_directory)
            if tokenizer is not None:
                tokenizer.save_pretrained(save_directory)
            return
        if method != "merged_16bit":
            raise InputError(f"save_pretrained_merged: save_method={save_method!r} is not offered: a merge that is "
                             "quantised again computes what nobody trained; give 'merged_16bit' or 'lora', or write "
                             "a GGUF in 4 bits, which is measured: save_pretrained_gguf(…, 'q4_k_m')")  # fmt: skip
        from dozan.ship.merge import merge

        with hub_token(self.token):
            merge(self._run(), save_directory, say=say)

    def save_pretrained_gguf(
        self, save_directory: str | Path, tokenizer: Any = None,
        quantization_method: str | Sequence[str] | None = "fast_quantized", **more: Any,
    ) -> list[Path]:  # fmt: skip
        """GGUF files, each measured beside the trained model, with their certificate; their paths.

        Raises InputError as `dozan.export`, ExportFailed for a file outside of its gate.
        """
        weigh("save_pretrained_gguf", SAVING_CALLS["save_pretrained_gguf"], more)
        from dozan.ship.export import export

        one = quantization_method is None or isinstance(quantization_method, str)
        named: Sequence[Any] = [quantization_method] if one else list(quantization_method or ())
        kinds = [str(_QUANTISED.get(name, name)) for name in named]
        with hub_token(self.token):
            return [each.path for each in export(self.trained or self.base, kinds, save_directory, say=say)]

    def push_to_hub(self, repo_id: str, token: str | None = None, private: bool | None = False, **more: Any) -> str:
        """Send the adapter with its card; the repository's address."""
        weigh("push_to_hub", SAVING_CALLS["push_to_hub"], more)
        return _push(self._run(), repo_id, token or self.token, private)

    def push_to_hub_merged(
        self, repo_id: str, tokenizer: Any = None, save_method: str = "merged_16bit", token: str | None = None,
        private: bool | None = False, **more: Any,
    ) -> str:  # fmt: skip
        """Send the merged folder with its card (save_method='lora': the adapter); the repository's address."""
        weigh("push_to_hub_merged", SAVING_CALLS["push_to_hub_merged"], more)
        if save_method.lower() == "lora":
            return self.push_to_hub(repo_id, token, private)
        with TemporaryDirectory(prefix="dozan-merged-") as folder:
            self.save_pretrained_merged(Path(folder) / "model", tokenizer, save_method)
            return _push(Path(folder) / "model", repo_id, token or self.token, private)

    def push_to_hub_gguf(
        self, repo_id: str, tokenizer: Any = None, quantization_method: str | Sequence[str] | None = "fast_quantized",
        token: str | None = None, private: bool | None = False, **more: Any,
    ) -> str:  # fmt: skip
        """Send GGUF files and their certificate beside the adapter; the repository's address."""
        weigh("push_to_hub_gguf", SAVING_CALLS["push_to_hub_gguf"], more)
        with TemporaryDirectory(prefix="dozan-gguf-") as folder:
            self.save_pretrained_gguf(folder, tokenizer, quantization_method)
            return _push(self._run(), repo_id, token or self.token, private, Path(folder))

    def _run(self) -> Path:
        """What was trained. Raises InputError while there is nothing."""
        if self.trained is None:
            raise InputError("nothing is trained yet, there is nothing to save; call trainer.train() first")
        return self.trained


def _matrix(ids: Any) -> Tensor:
    """int64 [B, T] on the host."""
    if ids is None:
        raise InputError("generate: no prompt; give **inputs, as the tokenizer makes them")
    found = torch.as_tensor(ids).to("cpu", torch.int64)
    return found[None] if found.dim() == 1 else found


def _generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


@contextmanager
def hub_token(token: str | None) -> Iterator[None]:
    """HF_TOKEN is `token` meanwhile, if one is given."""
    before = os.environ.get(TOKEN)
    if token:
        os.environ[TOKEN] = token
    try:
        yield
    finally:
        if token and before is None:
            del os.environ[TOKEN]
        elif token and before is not None:
            os.environ[TOKEN] = before


def _push(folder: Path, repo: str, token: str | None, private: bool | None, gguf: Path | None = None) -> str:
    from dozan.ship.push import push

    def agreed(parcel: Parcel) -> bool:
        say("\n".join(parcel.lines()))
        return True

    with hub_token(token):
        address = push(folder, repo, bool(private), gguf, agreed)
    assert address is not None
    return address
