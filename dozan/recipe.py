"""What a run is: one frozen, validated value, read from YAML with `a.b=c` overrides; the shipped recipes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from dozan.errors import InputError

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ToolOrder = Literal["as_given", "canonical"]
NowPlace = Literal["as_given", "after_tools"]
TrackerName = Literal["wandb", "tensorboard", "trackio"]
Runtime = Literal["transformers", "ollama", "llama.cpp", "litert-lm"]
ALL_TARGETS: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AdapterRecipe(_Section):
    """The low-rank adapter: `W + scale B A` with scale `alpha / rank` (`alpha / sqrt(rank)` with `rslora`)."""

    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64.0, gt=0)
    rslora: bool = False
    dora: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[Target, ...] = Field(default=ALL_TARGETS, min_length=1, strict=False)


class DataRecipe(_Section):
    """How rows are used: tokens a row may have, and the share held out by sentence pattern (0 holds out nothing).

    `tool_order`: canonical declares the tools by name. `now`: after_tools moves the first developer message's lines
    that tell the date behind the declarations. Both let rows share more, and the model is asked as it was trained
    wherever dozan asks it (`chat.arranged`). `target`: the runtime whose bytes the rows are written in
    (`chat.render_targets`); transformers is the official template.
    """

    max_tokens: int = Field(default=4096, ge=8)
    holdout: float = Field(default=0.1, ge=0, lt=1)
    tool_order: ToolOrder = "as_given"
    now: NowPlace = "as_given"
    target: Runtime = "transformers"


def _recomputed(value: object) -> object:
    if value in ("auto", "none", "layers") or (type(value) is int and value >= 0):
        return value
    raise PydanticCustomError(
        "recompute", "Input should be 'auto', 'none', 'layers' (all) or a number of layers from 0 up"
    )


class TrainRecipe(_Section):
    """The optimisation.

    `batch_size` is rows an optimiser step; `micro_batch_size` (rows) and `pack_tokens` (tokens) bound what is computed
    at once and change no result. `lookahead`: the rows of so many steps are looked at together, and those that begin
    alike meet in a step; 1 leaves them at random. `max_steps`, when given, replaces `epochs`. `warmup_steps` is cut to
    a tenth of the steps. `recompute`: the layers whose activations are computed again instead of kept; auto takes the
    fewest with which the run fits its GPU, and none on a CPU. `dtype` of the frozen weights and of what is computed:
    auto is bfloat16 where the hardware multiplies in it, on an older GPU float16 with the residual stream in float32.
    `eval_steps` and `save_steps` of None mean once an epoch. `deterministic`: two runs are equal bit for bit on a GPU
    too, more slowly. `mirror`: a folder that each checkpoint is copied to, and taken from when the run's own is gone.
    `stall_minutes`: a run in which nothing ends for so long, and for ten times its median step, is stopped (0: never).
    `recoveries`: times that steps which are not finite send it back to its last good checkpoint, at half the rate.
    `optimizer`: adamw_8bit keeps the moments of matrices in 8 bits, a quarter of the memory. `weights`: full trains
    every weight of the base, the embedding too, in place of an adapter, whose section is not used then. `fsdp`: on
    several ranks each holds a part of the weights (FSDP2) and gathers the layer it computes; auto does so where the
    whole does not fit a GPU.
    """

    weights: Literal["adapter", "full"] = "adapter"
    seed: int = Field(default=0, ge=0, lt=2**31)
    epochs: float = Field(default=3.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    pack_tokens: int = Field(default=8192, ge=1)
    lookahead: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(default=200, ge=0)
    min_learning_rate: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False)
    epsilon: float = Field(default=1e-8, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)
    recompute: Annotated[Literal["auto", "none", "layers"] | int, BeforeValidator(_recomputed)] = "auto"
    offload: bool = False
    fsdp: Literal["auto"] | bool = "auto"
    eval_steps: int | None = Field(default=None, ge=1)
    save_steps: int | None = Field(default=None, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    mirror: str | None = None
    stall_minutes: float = Field(default=10.0, ge=0)
    recoveries: int = Field(default=2, ge=0)
    log_steps: int = Field(default=1, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    deterministic: bool = False


class ModelRecipe(_Section):
    """How the frozen base is held. `quantise`: nf4 keeps its linears in 4 bits, doubly quantised; a checkpoint that is
    so already stays so. `embedding`, which is the head too: on the GPU as it is, there in 8 bits, or in pinned host
    memory, from which the loss streams it; auto takes the first of these with which the run fits its GPU, and leaves
    it as it is on a CPU."""

    quantise: Literal["none", "nf4"] = "none"
    embedding: Literal["auto", "gpu", "int8", "cpu"] = "auto"


class ScoreRecipe(_Section):
    """Scores by generation while training, on `rows` of the held-out rows (0: none), every `steps` steps (null: with
    each evaluation of the loss). The adapter that is best `by` a score is the run's; `patience` scorings in a row
    without a better one end the run (null: never). `require`: gates for `dozan compare`, such as normalised>=0.9."""

    rows: int = Field(default=0, ge=0)
    steps: int | None = Field(default=None, ge=1)
    by: Literal["strict", "normalised", "graded_f1"] = "normalised"
    patience: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=256, ge=1)
    require: tuple[str, ...] = Field(default=(), strict=False)


class TrackRecipe(_Section):
    """Trackers that are told a run's figures, under their names in metrics.jsonl: none by default, and wandb stays
    offline unless WANDB_MODE or WANDB_API_KEY is set. `project` of null is dozan, `name` of null the run folder's."""

    to: tuple[TrackerName, ...] = Field(default=(), strict=False)
    project: str | None = Field(default=None, min_length=1)
    name: str | None = Field(default=None, min_length=1)


class Recipe(_Section):
    """A whole run but for its model and rows."""

    name: str = "custom"
    chat: Literal["auto", "functiongemma", "gemma3"] = "auto"
    pack: Literal["tries", "paths", "none"] = "tries"
    model: ModelRecipe = ModelRecipe()
    adapter: AdapterRecipe = AdapterRecipe()
    data: DataRecipe = DataRecipe()
    train: TrainRecipe = TrainRecipe()
    score: ScoreRecipe = ScoreRecipe()
    track: TrackRecipe = TrackRecipe()


def recipe_names() -> list[str]:
    """The shipped recipes."""
    folder = resources.files("dozan") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe or a YAML file, with overrides such as `train.max_steps=5`.

    Raises InputError for an unknown name, broken YAML, an unknown key (with the nearest known one) or a value that does
    not fit (with one that does).
    """
    values = _read_yaml(_recipe_text(name_or_path), name_or_path)
    return parse_recipe(apply_overrides(values, overrides), name_or_path)


def override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """`recipe` with overrides such as `train.max_steps=5` applied and validated."""
    return parse_recipe(apply_overrides(recipe.model_dump(), overrides), recipe.name) if overrides else recipe


def parse_recipe(values: Mapping[str, Any], place: str = "recipe") -> Recipe:
    """The recipe that nested `values` describe; all that is wrong with them is in one InputError."""
    try:
        recipe = Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise InputError("\n".join(f"{place}: {_describe(item)}" for item in _root_causes(error))) from None
    _check_together(recipe, place)
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML text that `load_recipe` reads back to an equal value."""
    text: str = yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A deep copy of `values` with each `a.b=c` set, `c` read as a YAML scalar or flow list."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {text!r}: expected section.key=value, for example train.max_steps=100")
        *sections, last = key.strip().split(".")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise InputError(f"--set {text!r}: {section!r} is a value, not a section; write {section}=...")
        place[last] = _parse_yaml(value, f"--set {text!r}")
    return result


def _recipe_text(name_or_path: str) -> str:
    if name_or_path in recipe_names():
        return (resources.files("dozan") / "recipes" / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 ({error}); save the recipe as UTF-8") from None
    raise InputError(
        f"recipe {name_or_path!r} is neither a file nor a shipped recipe"
        f"{_did_you_mean(name_or_path, recipe_names())}; shipped: {', '.join(recipe_names())}"
    )


def _read_yaml(text: str, place: str) -> dict[str, Any]:
    values = _parse_yaml(text, place)
    if not isinstance(values, dict):
        raise InputError(f"{place}: expected a mapping such as 'train: {{max_steps: 100}}', found {values!r}")
    return values


def _parse_yaml(text: str, place: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{place}: not valid YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML with 1e-3 read as a number and repeated keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class _Dumper(yaml.SafeDumper):
    """Lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def _root_causes(error: ValidationError) -> list[ErrorDetails]:
    items = error.errors()
    return [item for item in items if not any(_is_inside(other["loc"], item["loc"]) for other in items)]


def _is_inside(inner: Sequence[int | str], outer: Sequence[int | str]) -> bool:
    return len(inner) > len(outer) and tuple(inner[: len(outer)]) == tuple(outer)


def _describe(error: ErrorDetails) -> str:
    location = [str(part) for part in error["loc"]]
    key, found = ".".join(location), error["input"]
    if error["type"] == "extra_forbidden":
        known = list(_section_fields(location[:-1]))
        section = ".".join(location[:-1]) or "the top level"
        guess = _did_you_mean(location[-1], known)
        return f"unknown key {key!r}{guess}; {section} has {', '.join(known)}"
    fields = _section_fields(location[:-1]) if location[:-1] else Recipe.model_fields
    message = f"{key} = {found!r}: {error['msg']}"
    if location[-1] not in fields:
        return message
    default = fields[location[-1]].get_default()
    example = {} if isinstance(default, BaseModel) else default
    return f"{message}; a value that works: {_plain(example)}"


def _section_fields(location: Sequence[str]) -> Mapping[str, Any]:
    model: type[BaseModel] = Recipe
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return {}
        model = annotation
    return model.model_fields


def _plain(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def _check_together(recipe: Recipe, place: str) -> None:
    train, problems = recipe.train, []
    if train.min_learning_rate > train.learning_rate:
        problems.append(
            f"train.min_learning_rate = {train.min_learning_rate}: above train.learning_rate; "
            f"at most {train.learning_rate}"
        )
    if not all(0 <= beta < 1 for beta in train.betas):
        problems.append(f"train.betas = {list(train.betas)}: each must be in [0, 1), for example [0.9, 0.999]")
    if train.offload and train.recompute in ("none", 0):
        problems.append(
            f"train.offload = true: keeps the inputs of recomputed layers in host memory, but train.recompute is "
            f"{train.recompute}; set it to layers"
        )
    if len(set(recipe.track.to)) < len(recipe.track.to):
        problems.append(f"track.to = {list(recipe.track.to)}: a name is repeated; write each once")
    if train.weights == "full":
        problems += _against_full(recipe)
    if len(set(recipe.adapter.targets)) < len(recipe.adapter.targets):
        problems.append(f"adapter.targets = {list(recipe.adapter.targets)}: a name is repeated; write each once")
    if problems:
        raise InputError("\n".join(f"{place}: {problem}" for problem in problems))


def _against_full(recipe: Recipe) -> list[str]:
    """What cannot be while every weight is trained."""
    problems = []
    if recipe.model.quantise != "none":
        problems.append(
            f"model.quantise = {recipe.model.quantise}: weights in 4 bits cannot be trained; set model.quantise=none, "
            "or train.weights=adapter"
        )
    if recipe.model.embedding not in ("auto", "gpu"):
        problems.append(
            f"model.embedding = {recipe.model.embedding}: the embedding is trained with train.weights=full, and must "
            "lie where it is computed; set model.embedding=gpu, or train.weights=adapter"
        )
    return problems
