"""Every argument of the familiar API, what becomes of it and what it means: what is weighed, and the table of the docs.

`python -m dozan.compat.arguments` prints the tables of docs/en/familiar-api.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dozan.compat.say import Argument, Fate

_YES: Fate = "honoured"
_IDLE: Fate = "no effect"
_NO: Fate = "refused"
_INFERENCE = "a setting of another engine; generation here has no such part"
_ONE_DEVICE = "one process trains on one device"
_AFTER = "push the result when it is trained: model.push_to_hub"

FROM_PRETRAINED = (
    Argument("model_name", "dozan:embedded", _YES, "a folder, a run or adapter folder (its base and the adapter), or a "
             "hub id, downloaded once; left out, the base that comes with the package"),
    Argument("max_seq_length", None, _YES, "tokens that a row may have; a longer one is named and refused, never cut "
             "(left out: 4096, or the model's context)"),
    Argument("dtype", None, _YES, "of the frozen weights and of what is computed: float32, bfloat16, float16, or what "
             "suits the device"),
    Argument("load_in_4bit", False, _YES, "the frozen linears in NF4, doubly quantised; a 16-bit checkpoint is "
             "quantised as it is read. Below 1B parameters it costs quality and saves little, which is said"),
    Argument("load_in_8bit", False, _NO, "use load_in_4bit=True, or neither: the linears are held in 16 or 4 bits"),
    Argument("load_in_16bit", False, _YES, "what is done without load_in_4bit; both together are refused"),
    Argument("full_finetuning", False, _YES, "every weight is trained, no adapter (the recipe's train.weights: full)"),
    Argument("use_gradient_checkpointing", "unsloth", _YES, "'unsloth': as many layers are computed again in the "
             "backward pass as must be, none when the run fits; True: all layers; False: none"),
    Argument("token", None, _YES, "the hub's token for this model, in the place of HF_TOKEN"),
    Argument("random_state", 3407, _YES, "the seed of adapter and order of rows, unless SFTConfig gives one"),
    Argument("device_map", "sequential", _IDLE, "the model is on the GPU that PyTorch chose, else on the CPU",
             ("auto", None, "balanced")),
    Argument("trust_remote_code", False, _IDLE, "no code of a checkpoint is ever run", (True,)),
    Argument("attn_implementation", None, _IDLE, "attention is dozan's own, exact for packed rows", ("eager", "sdpa")),
    Argument("rope_scaling", None, _NO, "positions are those of the checkpoint's config.json"),
    Argument("fix_tokenizer", True, _IDLE, "the tokenizer is read as the checkpoint has it"),
    Argument("resize_model_vocab", None, _NO, "the embedding keeps its rows; add no tokens"),
    Argument("revision", None, _NO, "download that revision to a folder, and name the folder"),
    Argument("use_exact_model_name", False, _IDLE, "a model's name is never replaced by another's", (True,)),
    Argument("offload_embedding", False, _YES, "the embedding in host memory (the recipe's model.embedding: cpu)"),
    Argument("float32_mixed_precision", None, _IDLE, "dtypes are explicit; set dtype"),
    Argument("fast_inference", False, _IDLE, "there is one engine for generation"),
    Argument("gpu_memory_utilization", 0.5, _IDLE, _INFERENCE),
    Argument("float8_kv_cache", False, _IDLE, _INFERENCE),
    Argument("max_lora_rank", 64, _IDLE, _INFERENCE),
    Argument("disable_log_stats", True, _IDLE, _INFERENCE, (False,)),
    Argument("qat_scheme", None, _NO, "train in 16 bits or NF4, and quantise on export"),
)  # fmt: skip

GET_PEFT_MODEL = (
    Argument("model", None, _YES, "what from_pretrained gave"),
    Argument("r", 16, _YES, "the rank (adapter.rank)"),
    Argument("target_modules", None, _YES, "some of the seven linears, 'all-linear', or all when left out "
             "(adapter.targets)"),
    Argument("lora_alpha", 16, _YES, "the scale is alpha / r, with rsLoRA alpha / sqrt(r) (adapter.alpha)"),
    Argument("lora_dropout", 0.0, _YES, "drawn for each row; rows then share no prefix (adapter.dropout)"),
    Argument("bias", "none", _NO, "Gemma 3's linears have no bias; leave it 'none'"),
    Argument("use_rslora", False, _YES, "rank-stabilised scale (adapter.rslora)"),
    Argument("use_dora", False, _YES, "magnitude and direction apart (adapter.dora)"),
    Argument("use_gradient_checkpointing", "unsloth", _YES, "as in from_pretrained; a value other than the default "
             "takes that one's place"),
    Argument("random_state", 3407, _YES, "as in from_pretrained"),
    Argument("finetune_vision_layers", True, _YES, "text only: the vision tower is never trained, which is said for a "
             "checkpoint that has one", (False,)),
    Argument("finetune_language_layers", True, _NO, "these are all that is trained; leave it True"),
    Argument("finetune_attention_modules", True, _YES, "False leaves out q_proj, k_proj, v_proj and o_proj"),
    Argument("finetune_mlp_modules", True, _YES, "False leaves out gate_proj, up_proj and down_proj"),
    Argument("init_lora_weights", True, _YES, "True or 'gaussian': A is drawn with deviation 1 / r, B is zero; others "
             "change the base's weights and are refused"),
    Argument("modules_to_save", None, _NO, "an adapter trains no embedding; use full_finetuning=True", ([], ())),
    Argument("loftq_config", None, _NO, "it changes the base's weights; leave it out", ({},)),
    Argument("layers_to_transform", None, _NO, "all layers get the adapter; leave it out"),
    Argument("layers_pattern", None, _NO, "all layers get the adapter; leave it out"),
    Argument("rank_pattern", None, _NO, "one rank for all linears", ({},)),
    Argument("alpha_pattern", None, _NO, "one alpha for all linears", ({},)),
    Argument("target_parameters", None, _NO, "name linears in target_modules", ([],)),
    Argument("task_type", "CAUSAL_LM", _NO, "a causal language model is all that is trained", (None,)),
    Argument("max_seq_length", None, _YES, "as in from_pretrained, in its place"),
    Argument("qat_scheme", None, _NO, "train in 16 bits or NF4, and quantise on export"),
    Argument("temporary_location", "_unsloth_temporary_saved_buffers", _IDLE, "nothing is buffered there"),
    Argument("ensure_weight_tying", False, _IDLE, "the head is always tied to the embedding", (True,)),
)  # fmt: skip

SFT_TRAINER = (
    Argument("model", None, _YES, "what from_pretrained or get_peft_model gave"),
    Argument("args", None, _YES, "an SFTConfig, or an object with such attributes (transformers' TrainingArguments, "
             "TRL's SFTConfig)"),
    Argument("train_dataset", None, _YES, "a Dataset, an IterableDataset, a list of dicts or of rows, a JSONL file; "
             "see below"),
    Argument("eval_dataset", None, _YES, "the same; looked at while training where eval_strategy says so"),
    Argument("processing_class", None, _YES, "the tokenizer: its chat format is the one that is trained"),
    Argument("tokenizer", None, _YES, "the older name of processing_class"),
    Argument("formatting_func", None, _YES, "a row to its text, or a batch of rows to their texts"),
    Argument("dataset_text_field", None, _YES, "as in SFTConfig, in its place"),
    Argument("max_seq_length", None, _YES, "as in SFTConfig, in its place"),
    Argument("packing", None, _YES, "as in SFTConfig"),
    Argument("dataset_num_proc", None, _IDLE, "rows are encoded by threads of their own"),
    Argument("callbacks", None, _YES, "functions that get each event as a dict (plan, note, step, eval, done); "
             "transformers' callback objects are refused"),
    Argument("peft_config", None, _YES, "a LoraConfig, taken as get_peft_model's arguments; target_modules left out is "
             "PEFT's q_proj and v_proj, which is said; what is not offered is refused"),
    Argument("data_collator", None, _YES, "transformers' collators for language models are not needed, which is said; "
             "others are refused"),
    Argument("compute_metrics", None, _NO, "score by generation: dozan.evaluate(run, rows)"),
    Argument("compute_loss_func", None, _NO, "the loss is the weighted mean over a step's trained tokens"),
    Argument("preprocess_logits_for_metrics", None, _NO, "logits of whole rows are never made"),
    Argument("optimizers", (None, None), _NO, "choose by SFTConfig(optim=, lr_scheduler_type=)"),
    Argument("optimizer_cls_and_kwargs", None, _NO, "choose by SFTConfig(optim=)"),
)  # fmt: skip

GENERATE = (
    Argument("input_ids", None, _YES, "[B, T], or what the tokenizer gives, its attention_mask with it"),
    Argument("inputs", None, _YES, "another name of input_ids"),
    Argument("attention_mask", None, _YES, "0 where a prompt is padded"),
    Argument("token_type_ids", None, _YES, "taken and not needed: text only"),
    Argument("max_new_tokens", None, _YES, "tokens that an answer may take, from 1 up (left out: 256)"),
    Argument("max_length", None, _YES, "the same with the prompt's tokens counted; max_new_tokens wins"),
    Argument("do_sample", None, _YES, "left out: what the checkpoint's generation_config.json says, as do the next "
             "four; False takes the likeliest token"),
    Argument("temperature", None, _YES, "divides the logits"),
    Argument("top_p", None, _YES, "the fewest tokens with this probability together"),
    Argument("top_k", None, _YES, "so many likeliest tokens; 0: all"),
    Argument("min_p", None, _YES, "tokens of at least this share of the likeliest one's probability"),
    Argument("repetition_penalty", None, _YES, "divides (or multiplies, below 0) the logits of tokens that are there"),
    Argument("eos_token_id", None, _YES, "what ends an answer (left out: the chat format's stop tokens)"),
    Argument("pad_token_id", None, _YES, "what ended rows are filled with"),
    Argument("streamer", None, _YES, "dozan.TextStreamer, transformers' own, or anything with put and end"),
    Argument("use_cache", True, _IDLE, "keys and values are always kept"),
    Argument("cache_implementation", None, _IDLE, "there is one cache"),
    Argument("return_dict_in_generate", False, _NO, "the ids [B, T + N] come back"),
    Argument("generation_config", None, _NO, "give its settings by name"),
    Argument("num_beams", 1, _NO, "one answer is written, token by token"),
    Argument("num_return_sequences", 1, _NO, "give the prompt as often as answers are wanted"),
    Argument("min_new_tokens", None, _NO, "an answer ends where the model ends it"),
    Argument("logits_processor", None, _NO, "hold answers to the tools' grammar: dozan run --grammar"),
    Argument("stopping_criteria", None, _NO, "give eos_token_id and max_new_tokens"),
)  # fmt: skip

SAVING = (
    Argument("save_directory", None, _YES, "save_pretrained, save_pretrained_merged, save_pretrained_gguf: the folder"),
    Argument("repo_id", None, _YES, "push_to_hub, push_to_hub_merged, push_to_hub_gguf: OWNER/NAME"),
    Argument("tokenizer", None, _YES, "merged folders and GGUF files hold the base's own, byte for byte; a folder of "
             "an adapter gets it from tokenizer.save_pretrained"),
    Argument("save_method", "merged_16bit", _YES, "merged_16bit, or lora (the adapter alone); merged_4bit is refused: "
             "a merge that is quantised again computes what nobody trained. save_pretrained and push_to_hub take lora "
             "alone"),
    Argument("quantization_method", "fast_quantized", _YES, "one or more of dozan export's types; fast_quantized is "
             "q8_0, quantized q4_k_m, not_quantized bf16"),
    Argument("token", None, _YES, "push_to_hub…: the hub's token for this call, in the place of HF_TOKEN; saving to a "
             "folder sends nothing"),
    Argument("private", False, _YES, "whether a new repository is seen by its owner alone", (None,)),
    Argument("commit_message", None, _IDLE, "the commit is called dozan push"),
    Argument("safe_serialization", True, _IDLE, "safetensors is all that is written"),
    Argument("maximum_memory_usage", 0.75, _IDLE, "weights are written a tensor at a time"),
    Argument("max_shard_size", "5GB", _IDLE, "a merged folder has the base's shards"),
    Argument("first_conversion", None, _IDLE, "every file is made of the merge in float32"),
)  # fmt: skip

_UNASKED = object()
"""A default that no value is: whatever is given asks for something."""
_ELSEWHERE = {
    "save_method": (_NO, "this is the adapter alone; use save_pretrained_merged or push_to_hub_merged",
                    ("lora",)),
    "quantization_method": (_NO, "use save_pretrained_gguf or push_to_hub_gguf", (None,)),
    "tokenizer": (_NO, "an adapter takes its base's; to save it: tokenizer.save_pretrained(folder)", (None,)),
    "token": (_IDLE, "nothing is sent; give it to push_to_hub", (None, "")),
    "private": (_IDLE, "nothing is sent; give it to push_to_hub", (None, False)),
    "save_directory": (_NO, "this sends to the hub: give repo_id; save_pretrained writes to a folder", ()),
    "repo_id": (_NO, "this writes to a folder: give save_directory; push_to_hub sends to the hub", ()),
}  # fmt: skip
_OF_GGUF = (_NO, "a GGUF is made by quantization_method; a merged model by save_pretrained_merged", ("merged_16bit",))


def saving(call: str, *taken: str) -> tuple[Argument, ...]:
    """The arguments of one of the saving calls, which honours `taken`: another's are refused or said to do nothing."""
    found = []
    for argument in SAVING:
        if argument.fate == "honoured" and argument.name not in taken:
            of_gguf = argument.name == "save_method" and call.endswith("gguf")
            fate, meaning, neutral = _OF_GGUF if of_gguf else _ELSEWHERE[argument.name]
            found.append(replace(argument, default=_UNASKED, fate=fate, meaning=meaning, neutral=neutral))
        else:
            found.append(argument)
    return tuple(found)


SAVING_CALLS = {call: saving(call, *taken) for call, taken in {
    "save_pretrained": ("save_directory",), "save_pretrained_merged": ("save_directory", "tokenizer", "save_method"),
    "save_pretrained_gguf": ("save_directory", "tokenizer", "quantization_method"),
    "push_to_hub": ("repo_id", "token", "private"),
    "push_to_hub_merged": ("repo_id", "tokenizer", "save_method", "token", "private"),
    "push_to_hub_gguf": ("repo_id", "tokenizer", "quantization_method", "token", "private"),
}.items()}  # fmt: skip


def tables() -> Mapping[str, tuple[Argument, ...]]:
    """The arguments by call."""
    from dozan.compat.settings import SFT_CONFIG

    return {
        "FastModel.from_pretrained": FROM_PRETRAINED, "FastModel.get_peft_model": GET_PEFT_MODEL,
        "SFTConfig": SFT_CONFIG, "SFTTrainer": SFT_TRAINER, "model.generate": GENERATE, "Saving and pushing": SAVING,
    }  # fmt: skip


def as_markdown() -> str:
    """The tables as the documentation has them."""
    parts = []
    for call, table in tables().items():
        rows = [f"| `{a.name}` | `{a.default!r}` | {a.fate} | {a.meaning} |" for a in table]
        head = [f"### {call}", "", "| argument | default | here | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
