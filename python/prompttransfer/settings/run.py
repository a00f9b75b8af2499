"""The settings of a run, checked. The defaults are the demo: SmolLM2-135M, three sources, three few-shot targets.

Methods are declared here by `prompttransfer.methods.registry`, each with its own block of settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from prompttransfer.files.paths import expanded
from prompttransfer.settings.base import Presets, RowCount, Settings
from prompttransfer.settings.overrides import Epochs, MethodSettings, TaskSettings

Block = TypeVar("Block", bound=Settings)
WITHOUT_EFFECT = ("output", "cache", "shard_model", "report_to")  # settings that a result does not depend on


def _method(name: str) -> str:
    known = RunConfig.known
    if not known:
        raise RuntimeError("no method is declared: import prompttransfer.methods first")
    in_any_case = {other.lower(): other for other in known}
    name = in_any_case.get(name.lower(), name)
    if name not in known:
        # Swapped letters first, otherwise BMTPT would be suggested for MTP.
        near = [other for other in known if sorted(other.lower()) == sorted(name.lower())]
        near = near or get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}; import the file of your own first"
        raise ValueError(f"unknown method; {hint}")
    return name


def _model(name: str) -> str:
    return str(expanded(name)) if name.startswith("~") else name


Place = Annotated[Path, AfterValidator(expanded)]
EpochsBySize = Annotated[dict[Annotated[int, Field(ge=0)], Epochs], Field(min_length=1)]


class RunConfig(Settings):
    """All settings of a comparison. Two runs with equal settings do the same work and share its results."""

    # The command line has options for these fields (cli/setting_options.py). The first sentence of a description is the
    # help of the option; "Default:" says what happens if the default is None.
    model: Annotated[str, AfterValidator(_model)] = "demo"
    """Frozen language model, causal or seq2seq: `demo`, a Hugging Face Hub ID, or a local folder."""
    sources: tuple[str, ...] = ("amazon", "movies", "r8")
    """Tasks to transfer from: demo tasks, the papers' data sets (such as glue/mrpc), or files. `prompttransfer assets
    --tasks` lists the named ones."""
    targets: tuple[str, ...] = ("sst2", "nyt", "subjectivity")
    """Tasks to transfer to: demo tasks, the papers' data sets, or files. Methods are compared on them."""
    methods: tuple[Annotated[str, AfterValidator(_method)], ...] = Field(("PT", "MPT", "BMTPT", "DTVG"), min_length=1)
    """Methods to compare. The report keeps their order."""
    transfer_from: Literal["all", "related"] = "related"
    """Sources that methods transfer from. all: every source, as published; the default if variant is set. related: only
    sources that pass the test of the `related` block, for methods that support it (our extension); if no source passes,
    the method is plain prompt tuning."""
    seeds: tuple[int, ...] = Field((42, 43, 44), min_length=1)
    """Random seeds, one repetition each: they draw the few-shot rows and the batch order."""
    retrain_sources: bool = False
    """Draw a new P_init and train the sources again for every seed. If false, all seeds share those of the first
    seed."""
    source_seed: int | None = None
    """Seed of P_init and the sources, for instance to add seeds to a run. Default: the first seed."""
    prompt_length: int = Field(16, ge=1)
    """Number of prompt tokens, L."""
    init: Literal["vocabulary", "text", "labels", "uniform"] = "vocabulary"
    """Content of P_init, the start that all tasks share. vocabulary: random tokens. text: init_text. labels: the
    answers of the run's tasks, then random tokens. uniform: random numbers."""
    init_text: str = ""
    """Text whose embeddings fill P_init if init is 'text'. It is repeated as needed."""
    train_rows: RowCount = 16
    """Number of training rows per target, over all classes, or 'all'. null means all."""
    test_rows: RowCount = 200
    """Number of test rows per task, or 'all'. null means all."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Rows to score. validation is for tuning settings: test rows are never read."""
    source_rows: RowCount = 2000
    """Number of training rows per source, or 'all'. null means all."""
    source_updates: int = Field(120, ge=1)
    """Number of optimizer updates per source stage."""
    source_epochs: Epochs | None = None
    """Epochs over the training rows of a source stage. Replaces source_updates."""
    target_updates: int = Field(16, ge=1)
    """Number of optimizer updates on target rows, the same for every method."""
    target_epochs: Epochs | EpochsBySize | None = None
    """Epochs over the training rows of a target. Replaces target_updates. A mapping gives epochs by the least number of
    rows: {0: 20, 10001: 10} means 20 epochs, and 10 from 10001 rows on."""
    max_updates: int | None = Field(None, ge=1)
    """Upper limit on the updates of any stage, whatever the other settings say. It is for quick tries."""
    batch_size: int = Field(8, ge=1)
    """Number of target rows per update."""
    source_batch_size: int = Field(10, ge=1)
    """Number of source rows per update."""
    eval_batch_size: int = Field(32, ge=1)
    """Number of rows per forward pass when scoring."""
    learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of AdamW. On targets, target_learning_rate overrides it."""
    target_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate on target rows. Default: learning_rate."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay of AdamW."""
    warmup: float = Field(0.06, ge=0, lt=1)
    """Fraction of the updates used for learning rate warm-up."""
    warmup_updates: int | None = Field(None, ge=0)
    """Number of warm-up updates. Replaces warmup."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Learning rate schedule after the warm-up."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Maximum gradient norm (clipping). 0 turns clipping off."""
    dropout: Literal["off", "model"] = "off"
    """Dropout in the frozen model while a prompt trains. off: none. model: the model's own rate (T5: 0.1). Teachers and
    scores never use dropout."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which the frozen model computes. Prompts always stay in float32."""
    max_length: int = Field(64, ge=1)
    """Maximum number of text tokens per row; the last ones are kept. A task may set its own."""
    select_updates: int | None = Field(None, ge=1)
    """Number of updates between two evaluations on validation rows, to keep the best prompt. Applies to every stage on
    a single task. Prompts are ranked by the mean of the task's metrics, and evaluated once more after the last update.
    Default: no evaluation, keep the last prompt."""
    checkpoint_updates: int = Field(10, ge=1)
    """Number of updates between two checkpoints of a stage."""
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where training curves are logged. Each stage that trains is a run there. tensorboard: the folder `logs` of the
    run folder. wandb, trackio: where their own settings say."""
    output: Place = Path("runs/demo")
    """Run folder; results of other settings in it are moved to a folder beside it."""
    cache: Place | None = None
    """Folder that stores finished stages. Default: $PROMPTTRANSFER_CACHE or ~/.cache."""
    scoring: Literal["auto", "first-token", "full", "generate"] = "auto"
    """How an answer is chosen. first-token: by the probability of its first token. full: by the mean log-probability of
    all its tokens. generate: by generating text. auto: first-token if the first tokens tell the answers of the task
    apart, else full."""
    answers: Literal["digits", "words"] | None = None
    """Form of the answers (verbalisers) of named tasks. Default: digits for the papers' data sets, words for the
    demo."""
    cue: str = ""
    """Text between the input and the answer of the papers' data sets, for causal models, such as ' Label :'."""
    join: Literal["auto", "space", "none", "separate"] = "auto"
    """How a causal model's answer follows the text. space: after one space, whatever spaces the template or cue ends
    with. none: directly. separate: tokenized on its own, after the tokenizer's start token. auto: none if the template
    or cue ends with a line break or a tab, else space."""
    data_dir: Place | None = None
    """Folder with a copy of the papers' data sets, laid out as on the Hub. Default: download from the Hub."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do with rows that do not fit their task. error: stop. skip: leave them out and report how many."""
    placement: Literal["encoder", "encoder-decoder"] = "encoder"
    """Where the prompt of an encoder-decoder model goes. encoder: before the encoder's input. encoder-decoder: half of
    it before each input."""
    checkpointing: bool = False
    """Recompute activations in the backward pass (gradient checkpointing) to save memory."""
    cuda_graphs: bool = False
    """On a GPU, replay the passes of a small causal model as CUDA graphs, once a shape has occurred before. For models
    whose passes take longer to launch than to compute. No effect on a CPU."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Quantization of the frozen model's weights with bitsandbytes, on a GPU."""
    shard_model: bool = False
    """Shard the frozen model over the processes of torchrun or accelerate launch (FSDP). Each process then needs less
    memory."""
    text_column: str = "text"
    """Text column of task files."""
    label_column: str = "label"
    """Label column of task files."""
    variant: Literal["paper", "code"] | None = None
    """Version to follow where a method's paper and its published code differ. Default: each method's own choice."""
    per_task: dict[str, TaskSettings] = Field(default_factory=dict)
    """Exceptions for single targets, by name or pattern (mrqa/*). If several patterns fit, the last one wins."""
    per_method: dict[Annotated[str, AfterValidator(_method)], MethodSettings] = Field(default_factory=dict)
    """Learning rate of single methods, as found by tuning. per_task takes precedence."""
    known: ClassVar[dict[str, Any]] = {}  # objects of methods.base.Method, by name

    @classmethod
    def declare(cls, methods: Iterable[Any]) -> None:
        """Make these methods available, and add their blocks of settings to a run's settings."""
        for method in methods:
            cls.known[method.name] = method
            for kind in method.settings:
                about = (kind.__doc__ or "").partition("\n")[0]
                cls.__pydantic_fields__[kind.block] = FieldInfo(
                    annotation=kind, default_factory=kind, description=about
                )
        cls.model_rebuild(force=True)

    def of(self, kind: type[Block]) -> Block:
        """The block of settings of a class, such as `MPTConfig`."""
        block: Block = getattr(self, kind.block)
        return block

    @model_validator(mode="before")
    @classmethod
    def _variant_of_all(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("variant") is None:
            return values
        named = {}
        for name in cls.model_fields:
            kind, block = block_of(cls, name), values.get(name, {})
            if kind and issubclass(kind, Presets) and "variant" in kind.model_fields and isinstance(block, dict):
                named[name] = {"variant": values["variant"]} | block
        return {"transfer_from": "all"} | values | named

    @field_validator("sources", "targets", "methods", "seeds")
    @classmethod
    def _no_repetition(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"named more than once: {', '.join(twice)}")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if not self.targets:
            raise ValueError("targets is empty; name at least one target task")
        methods = [self.known[name] for name in self.methods]
        needing = [method.name for method in methods if method.transfers]
        if needing and not self.sources:
            raise ValueError(
                f"sources is empty, but {', '.join(needing)} transfer from source tasks; name some or use PT"
            )
        if self.retrain_sources and self.source_seed is not None:
            raise ValueError(
                "source_seed gives all seeds the same sources, but retrain_sources trains new ones for each; want one"
            )
        if self.init == "text" and not self.init_text.strip():
            raise ValueError("init is 'text' but init_text is empty; want a text")
        for method in methods:
            method.check(self)
        return self

    def for_task(self, name: str, method: str = "") -> RunConfig:
        """These settings for one target, with its exceptions in `per_task`, which override those in `per_method`."""
        own = self.per_method.get(method)
        changes: dict[str, Any] = own.model_dump(exclude_none=True) if own else {}
        for settings in self._exceptions(name):
            changes |= settings.model_dump(exclude_none=True)
            if settings.target_updates is not None:
                changes["target_epochs"] = None
        return self.model_copy(update=changes) if changes else self

    def length_of(self, name: str) -> int | None:
        """Text tokens to keep per row of a task, if `per_task` sets them."""
        named = [settings.max_length for settings in self._exceptions(name)]
        return next((length for length in reversed(named) if length is not None), None)

    def _exceptions(self, name: str) -> list[TaskSettings]:
        """Entries of `per_task` for a task, by its name in the settings or in the run folder (glue/mnli, glue-mnli)."""
        name = name.replace("/", "-")
        return [settings for pattern, settings in self.per_task.items() if fnmatchcase(name, pattern.replace("/", "-"))]

    @property
    def transfers(self) -> bool:
        """Whether any method learns from the sources. Plain prompt tuning does not."""
        return any(self.known[name].transfers for name in self.methods)

    @property
    def source_prompts(self) -> bool:
        """Whether to train a prompt for each source."""
        return any(self.known[name].source_prompts(self) for name in self.methods)

    @property
    def target_rate(self) -> float:
        """Peak learning rate on target rows."""
        return self.target_learning_rate or self.learning_rate


def block_of(kind: type[Settings], name: str) -> type[Settings] | None:
    """The class of a block of settings, such as MPTConfig for mpt; None for a single value."""
    if kind is RunConfig and not RunConfig.known:
        raise RuntimeError("no method is declared, so no settings of one are: import prompttransfer.methods first")
    field = kind.model_fields.get(name)
    inner = field.annotation if field else None
    return inner if isinstance(inner, type) and issubclass(inner, Settings) else None
